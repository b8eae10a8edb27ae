-- Writes the configuration into a Redis that came back empty: only one frontend wins, and what was written since stays.
-- KEYS given: that of each write. ARGV: the new epoch, the least revision, the epoch that the new one follows (or
-- empty), and the writes as for a commit.
if epoch() ~= ARGV[3] then return 0 end
redis.call('SET', key.epoch, ARGV[1])
local existed = {}
for index, one in ipairs(cjson.decode(ARGV[4])) do
  enter(one[1])
  local place = one[1] .. '/' .. given(index)
  if existed[place] == nil then existed[place] = kind(given(index)) ~= 'none' end
  if not existed[place] then write(one[1], one[2], given(index)) end
end
go_home()
redis.call('SET', key.schema_version, records.SCHEMA_VERSION)
set_revision(math.max(revision(), tonumber(ARGV[2])) + 1)
return 1
