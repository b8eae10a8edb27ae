-- Says whether all frontends that live serve by a revision, which is ARGV.
for _, frontend in ipairs(keys_of(layout.frontends)) do
  local serves_by = counter(field(frontend, 'revision'))
  if serves_by and serves_by < tonumber(ARGV[1]) then return 0 end
end
return 1
