-- Used by the scripts that read records. `read` answers each key with why it was not read, or with what is there.
local PAGE_RECORDS = 100 -- about how many records a script reads, so that neither Redis nor its client is busy for long
local SMALL_RECORD_BYTES = 16384 -- in Redis' memory

local commands = {hash = {'HLEN', 'HGETALL'}, set = {'SCARD', 'SMEMBERS'}, string = {'STRLEN', 'GET'}}
local function bytes(value)
  if type(value) == 'string' then return #value end
  local sum = 0
  for _, part in ipairs(value) do sum = sum + #part end
  return sum
end
local function problem_of(key, wanted)
  local found, most = kind(key), wanted == 'string' and records.MAX_RECORD_BYTES or records.MAX_RECORD_PARTS
  if found ~= wanted then return 'it is a ' .. found .. ', and should be a ' .. wanted end
  if #key > records.MAX_KEY_BYTES then return 'its key has ' .. #key .. ' bytes' end
  local size = redis.call(commands[wanted][1], key)
  if size > most then return 'its size is ' .. size .. ', and may be ' .. most end
  -- Where this is not allowed, all is read before it is measured.
  local used = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  if type(used) == 'number' and used > 2 * records.MAX_RECORD_BYTES then
    return 'it takes ' .. used .. ' bytes, and may have ' .. records.MAX_RECORD_BYTES
  end
end
-- Nearly all records are small and of the right kind: these take two calls, which is most of what reading costs.
local function read_small(key, wanted)
  local used = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  if type(used) ~= 'number' or used > SMALL_RECORD_BYTES then return end
  local value = redis.pcall(commands[wanted][2], key)
  if type(value) == 'table' and (value.err or #value > records.MAX_RECORD_PARTS) then return end
  return #key <= records.MAX_KEY_BYTES and value or nil
end
-- Clipper 0.4 marks a deleted model by taking its field `valid` away and leaves the rest to the query frontend.
local function is_deleted(model)
  for index = 1, #model, 2 do if model[index] == 'valid' then return false end end
  return true
end
-- What has no value is not there. Each key is in the current database.
local function read_here(keys, wanted, are_models)
  local found = {}
  for _, key in ipairs(keys) do
    local problem, value = nil, read_small(key, wanted)
    if not value or #value == 0 then
      problem, value = problem_of(key, wanted), ''
      if kind(key) == 'none' then
        problem, value = nil, false
      elseif not problem then
        value = redis.call(commands[wanted][2], key)
        if bytes(value) > records.MAX_RECORD_BYTES then
          problem, value = 'it has ' .. bytes(value) .. ' bytes, and may have ' .. records.MAX_RECORD_BYTES, ''
        end
      end
    end
    if are_models and type(value) == 'table' and is_deleted(value) then
      redis.call('DEL', key)
      value = false
    end
    found[#found + 1] = {string.sub(key, 1, records.MAX_KEY_BYTES), problem or '', value}
  end
  return found
end
-- Goes to the database of the collection.
local function read(collection, keys)
  enter(collection.database)
  return read_here(keys, collection.type, collection.name == layout.models.name)
end
-- The head: the revision, the epoch and the number of workers.
local function read_head()
  go_home()
  local there = {}
  for _, one in ipairs({key.revision, key.epoch, key.workers}) do
    if kind(one) ~= 'none' then there[#there + 1] = one end
  end
  return read_here(there, 'string')
end
