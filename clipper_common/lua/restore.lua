-- Writes the configuration into a Redis that came back empty: only one frontend wins, and what was written since stays.
-- ARGV: the new epoch, the least revision, the epoch that the new one follows (or empty), and the writes as JSON: for
-- each its database and its command. Their keys are not given as KEYS: there may be tens of thousands, and so many
-- arguments take the client long to send.
if epoch() ~= ARGV[3] then return 0 end
redis.call('SET', key.epoch, ARGV[1])
local existed = {}
for _, one in ipairs(cjson.decode(ARGV[4])) do
  local database, command = one[1], one[2]
  local written = table.remove(command, 2)
  local place = database .. '/' .. written
  enter(database)
  if existed[place] == nil then existed[place] = kind(written) ~= 'none' end
  if not existed[place] then write(database, command, written) end
end
go_home()
redis.call('SET', key.schema_version, records.SCHEMA_VERSION)
set_revision(math.max(revision(), tonumber(ARGV[2])) + 1)
return 1
