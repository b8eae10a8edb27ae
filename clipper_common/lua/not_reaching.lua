-- Answers which frontends that live cannot reach a replica of a model version, which is ARGV. A frontend is left out
-- when it is too old to say what it reaches, or when no peer can relay to it because its address is not known.
local found = {}
for _, frontend in ipairs(keys_of(layout.frontends)) do
  local address = field(frontend, 'address')
  if address and address ~= '' and redis.call('HEXISTS', frontend, REACHED .. ARGV[1]) == 0 then
    found[#found + 1] = string.sub(frontend, #layout.frontends.prefix + 1)
  end
end
table.sort(found)
return found
