-- Reads what changed since a revision.
-- KEYS given: those of places to read in any case. ARGV: the revision, its epoch, and the databases of these places as
-- JSON. Answers up to which revision this is all that changed (nothing if that is not known), whether it is the last,
-- the head, and what was found in each collection of the configuration.
local reached, last = tonumber(ARGV[1]), revision()
if epoch() ~= ARGV[2] or reached > last then return {''} end
local configuration = layout.configuration
local keys, num_keys, seen = {}, 0, {}
local function add(places)
  for _, place in ipairs(places) do
    if type(place) ~= 'table' or type(place[1]) ~= 'number' or type(place[2]) ~= 'string' then return false end
    local id = place[1] .. '/' .. place[2]
    if not seen[id] then
      seen[id], num_keys = true, num_keys + 1
      local collection = collection_at(configuration, place[1], place[2])
      if collection then
        local others = keys[collection] or {}
        others[#others + 1] = place[2]
        keys[collection] = others
      end
    end
  end
  return true
end
for index, database in ipairs(cjson.decode(ARGV[3])) do add({{database, given(index)}}) end
local most = num_keys + PAGE_RECORDS
if reached < last then
  if kind(key.journal) ~= 'list' then return {''} end
  for _, entry in ipairs(redis.call('LRANGE', key.journal, reached - last, -1)) do
    if num_keys >= most then break end
    local is_json, change = pcall(cjson.decode, entry)
    if not is_json or type(change) ~= 'table' or change[1] ~= digits(reached + 1)
      or type(change[2]) ~= 'table' or not add(change[2]) then return {''} end
    reached = reached + 1
  end
  if reached < last and num_keys < most then return {''} end
end
local found = {}
for _, collection in ipairs(configuration) do
  found[#found + 1] = keys[collection] and read(collection, keys[collection]) or {}
end
return {digits(reached), reached == last and 1 or 0, read_head(), found}
