-- Used by all scripts: what a key holds, the revision and the epoch, and writing.
local MAX_JOURNAL_ENTRIES, MAX_ENTRY_BYTES = 1000, 16384
-- A field of a frontend's record with this prefix names a model version that it reaches.
local REACHED = 'reached:'

local function kind(key) return redis.call('TYPE', key).ok end
local function text(key) return redis.call('MGET', key)[1] end
local function field(key, name) return kind(key) == 'hash' and redis.call('HGET', key, name) end
local function counter(text)
  if text and #text <= records.COUNTER_DIGITS and (text == '0' or string.find(text, '^[1-9]%d*$')) then
    return tonumber(text)
  end
end
local function digits(number) return string.format('%.0f', number) end
local function revision() return counter(text(key.revision)) or 0 end
local function epoch()
  local found = text(key.epoch)
  local is_epoch = found and #found <= records.MAX_EPOCH_BYTES
    and string.find(found, '^[' .. records.EPOCH_CHARACTERS .. ']+$')
  return is_epoch and found or ''
end
local function set_revision(number)
  if number >= 10 ^ records.COUNTER_DIGITS then number = 1 end
  redis.call('SET', key.revision, digits(number))
  redis.call('PUBLISH', layout.changes_channel, digits(number))
  return number
end
-- Where the revision is wrong, the next is above all by which query frontends serve.
-- The journal says which records it changed. One revision without an entry, by an older program or because the entry
-- would be too long, and all is read anew.
local function next_revision(places)
  local last = revision()
  if last == 0 and kind(key.revision) ~= 'none' then
    for _, frontend in ipairs(keys_of(layout.frontends)) do
      last = math.max(last, counter(field(frontend, 'revision')) or 0)
    end
    go_home()
  end
  local number = set_revision(last + 1)
  local entry = cjson.encode({digits(number), places})
  if kind(key.journal) ~= 'list' then redis.call('DEL', key.journal) end
  if #entry <= MAX_ENTRY_BYTES then
    redis.call('RPUSH', key.journal, entry)
    redis.call('LTRIM', key.journal, -MAX_JOURNAL_ENTRIES, -1)
  end
  return number
end
local kinds = {HSET = 'hash', SADD = 'set', SREM = 'set'}
-- Carries out a command, given without its key.
local function write(database, command, key)
  enter(database)
  local found = kind(key)
  if kinds[command[1]] and found ~= 'none' and found ~= kinds[command[1]] then redis.call('DEL', key) end
  put(command[1], key, unpack(command, 2))
end
