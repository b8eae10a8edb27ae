-- Carries out the writes of a change, if nothing was committed since it was decided on.
-- KEYS given: that of each write. ARGV: the expected revision and epoch, and the writes as JSON: for each its database,
-- and its command without the key. Answers the new revision, or -1.
if revision() ~= tonumber(ARGV[1]) or epoch() ~= ARGV[2] then return -1 end
local places = {}
for index, one in ipairs(cjson.decode(ARGV[3])) do
  write(one[1], one[2], given(index))
  places[#places + 1] = {one[1], given(index)}
end
go_home()
redis.call('SET', key.schema_version, records.SCHEMA_VERSION)
return next_revision(places)
