"""The Lua scripts by which several databases of Redis are read and written as one.

Whatever somebody put into Redis, none of them may fail: what is of the wrong kind counts as absent.
"""

from typing import Final

from clipper_common import records

_MAX_CLUSTER_ID_BYTES: Final = 1024
_SMALL_RECORD_BYTES: Final = 16_384
"""In Redis' memory."""
_MAX_JOURNAL_ENTRIES: Final = 1000
_MAX_ENTRY_BYTES: Final = 16_384
_PAGE_RECORDS: Final = 100
"""About how many records a script reads, so that neither Redis nor its client is busy for long."""

_LUA: Final = f"""
local function kind(key) return redis.call('TYPE', key).ok end
local function text(key) return redis.call('MGET', key)[1] end
local function field(key, name) return kind(key) == 'hash' and redis.call('HGET', key, name) end
local function counter(text)
  if text and #text <= {records.COUNTER_DIGITS} and (text == '0' or string.find(text, '^[1-9]%d*$')) then
    return tonumber(text)
  end
end
local function revision() return counter(text('{records.REVISION_KEY}')) or 0 end
local function epoch()
  local found = text('{records.EPOCH_KEY}')
  return found and #found <= 64 and string.find(found, '^[%w-]+$') and found or ''
end
local function set_revision(number)
  if number >= 1e{records.COUNTER_DIGITS} then number = 1 end
  redis.call('SET', '{records.REVISION_KEY}', string.format('%.0f', number))
  redis.call('PUBLISH', '{records.CHANGES_CHANNEL}', string.format('%.0f', number))
  return number
end
-- Where the revision is wrong, the next is above all by which query frontends serve.
-- The journal says which records it changed. One revision without an entry, by an older program or because the entry
-- would be too long, and all is read anew.
local function next_revision(places)
  local last = revision()
  if last == 0 and kind('{records.REVISION_KEY}') ~= 'none' then
    for _, key in ipairs(redis.call('KEYS', '{records.FRONTEND_PREFIX}*')) do
      last = math.max(last, counter(field(key, 'revision')) or 0)
    end
  end
  local number = set_revision(last + 1)
  local entry = cjson.encode({{string.format('%.0f', number), places}})
  if kind('{records.JOURNAL_KEY}') ~= 'list' then redis.call('DEL', '{records.JOURNAL_KEY}') end
  if #entry <= {_MAX_ENTRY_BYTES} then
    redis.call('RPUSH', '{records.JOURNAL_KEY}', entry)
    redis.call('LTRIM', '{records.JOURNAL_KEY}', -{_MAX_JOURNAL_ENTRIES}, -1)
  end
  return number
end
local kinds = {{HSET = 'hash', SADD = 'set', SREM = 'set'}}
local function write(database, command)
  redis.call('SELECT', database)
  local found = kind(command[2])
  if kinds[command[1]] and found ~= 'none' and found ~= kinds[command[1]] then redis.call('DEL', command[2]) end
  redis.call(unpack(command))
end
"""

# read(): each key with why it was not read, or with what is there.
_READ: Final = f"""{_LUA}
local commands = {{hash = {{'HLEN', 'HGETALL'}}, set = {{'SCARD', 'SMEMBERS'}}, string = {{'STRLEN', 'GET'}}}}
local function bytes(value)
  if type(value) == 'string' then return #value end
  local sum = 0
  for _, part in ipairs(value) do sum = sum + #part end
  return sum
end
local function problem_of(key, wanted)
  local found, most = kind(key), wanted == 'string' and {records.MAX_RECORD_BYTES} or {records.MAX_RECORD_PARTS}
  if found ~= wanted then return 'it is a ' .. found .. ', and should be a ' .. wanted end
  if #key > {records.MAX_KEY_BYTES} then return 'its key has ' .. #key .. ' bytes' end
  local size = redis.call(commands[wanted][1], key)
  if size > most then return 'its size is ' .. size .. ', and may be ' .. most end
  -- Where this is not allowed, all is read before it is measured.
  local used = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  if type(used) == 'number' and used > {2 * records.MAX_RECORD_BYTES} then
    return 'it takes ' .. used .. ' bytes, and may have {records.MAX_RECORD_BYTES}'
  end
end
-- Nearly all records are small and of the right kind: these take two calls, which is most of what reading costs.
local function read_small(key, wanted)
  local used = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  if type(used) ~= 'number' or used > {_SMALL_RECORD_BYTES} then return end
  local value = redis.pcall(commands[wanted][2], key)
  if type(value) == 'table' and (value.err or #value > {records.MAX_RECORD_PARTS}) then return end
  return #key <= {records.MAX_KEY_BYTES} and value or nil
end
-- Clipper 0.4 marks a deleted model by taking its field `valid` away and leaves the rest to the query frontend.
local function is_deleted(database, value)
  if database ~= {records.MODEL_DB} or type(value) ~= 'table' then return false end
  for index = 1, #value, 2 do if value[index] == 'valid' then return false end end
  return true
end
-- What has no value is not there.
local function read(database, wanted, keys)
  redis.call('SELECT', database)
  local found = {{}}
  for _, key in ipairs(keys) do
    local problem, value = nil, read_small(key, wanted)
    if not value or #value == 0 then
      problem, value = problem_of(key, wanted), ''
      if kind(key) == 'none' then
        problem, value = nil, false
      elseif not problem then
        value = redis.call(commands[wanted][2], key)
        if bytes(value) > {records.MAX_RECORD_BYTES} then
          problem, value = 'it has ' .. bytes(value) .. ' bytes, and may have {records.MAX_RECORD_BYTES}', ''
        end
      end
    end
    if is_deleted(database, value) then
      redis.call('DEL', key)
      value = false
    end
    found[#found + 1] = {{string.sub(key, 1, {records.MAX_KEY_BYTES}), problem or '', value}}
  end
  return found
end
local function read_head()
  local there = {{}}
  for _, key in ipairs({{'{records.REVISION_KEY}', '{records.EPOCH_KEY}', '{records.WORKERS_KEY}'}}) do
    if kind(key) ~= 'none' then there[#there + 1] = key end
  end
  return read({records.CLIPPER_DB}, 'string', there)
end
"""

# Some of the records of one database. ARGV: the database, the type of its values, and a cursor as of SCAN, which with
# the last page is 0. Answers the next cursor and what was found.
READ_PAGE: Final = f"""{_READ}
redis.call('SELECT', ARGV[1])
local page = redis.call('SCAN', ARGV[3], 'COUNT', {_PAGE_RECORDS})
return {{page[1], read(tonumber(ARGV[1]), ARGV[2], page[2])}}
"""

# What changed since a revision. ARGV: that revision, its epoch, the databases of the configuration each with the type
# of its values, and places to read in any case, both as JSON. Answers up to which revision this is all that changed
# (nothing if that is not known), whether it is the last, the head, and what was found in each database.
READ_CHANGES: Final = f"""{_READ}
local reached, last = tonumber(ARGV[1]), revision()
local types, asked = cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
if epoch() ~= ARGV[2] or reached > last then return {{''}} end
local keys, num_keys, seen = {{}}, 0, {{}}
local function add(places)
  for _, place in ipairs(places) do
    if type(place) ~= 'table' or type(place[1]) ~= 'number' or type(place[2]) ~= 'string' then return false end
    local id = place[1] .. '/' .. place[2]
    if not seen[id] then
      seen[id], num_keys = true, num_keys + 1
      local others = keys[place[1]] or {{}}
      others[#others + 1] = place[2]
      keys[place[1]] = others
    end
  end
  return true
end
add(asked)
local most = num_keys + {_PAGE_RECORDS}
if reached < last then
  if kind('{records.JOURNAL_KEY}') ~= 'list' then return {{''}} end
  for _, entry in ipairs(redis.call('LRANGE', '{records.JOURNAL_KEY}', reached - last, -1)) do
    if num_keys >= most then break end
    local is_json, change = pcall(cjson.decode, entry)
    if not is_json or type(change) ~= 'table' or change[1] ~= string.format('%.0f', reached + 1)
      or type(change[2]) ~= 'table' or not add(change[2]) then return {{''}} end
    reached = reached + 1
  end
  if reached < last and num_keys < most then return {{''}} end
end
local found = {{}}
for _, pair in ipairs(types) do found[#found + 1] = read(pair[1], pair[2], keys[pair[1]] or {{}}) end
redis.call('SELECT', {records.CLIPPER_DB})
return {{string.format('%.0f', reached), reached == last and 1 or 0, read_head(), found}}
"""

# The revision and the epoch by which a change is committed, and what their keys and that of the workers have.
READ_HEAD: Final = f"""{_READ}
return {{string.format('%.0f', revision()), epoch(), read_head()}}
"""

# ARGV: expected revision and epoch, and the writes as JSON. Answers the new revision, or -1.
COMMIT: Final = f"""{_LUA}
if revision() ~= tonumber(ARGV[1]) or epoch() ~= ARGV[2] then return -1 end
local places = {{}}
for _, one in ipairs(cjson.decode(ARGV[3])) do
  write(one[1], one[2])
  places[#places + 1] = {{one[1], one[2][2]}}
end
redis.call('SELECT', {records.CLIPPER_DB})
redis.call('SET', '{records.SCHEMA_KEY}', '{records.SCHEMA_VERSION}')
return next_revision(places)
"""

# As COMMIT, for a Redis that came back empty: only one frontend wins, and what was written since stays.
# ARGV: new epoch, least revision, writes, the epoch that it follows (or empty).
RESTORE: Final = f"""{_LUA}
if epoch() ~= ARGV[4] then return 0 end
redis.call('SET', '{records.EPOCH_KEY}', ARGV[1])
local existed = {{}}
for _, one in ipairs(cjson.decode(ARGV[3])) do
  redis.call('SELECT', one[1])
  local place = one[1] .. '/' .. one[2][2]
  if existed[place] == nil then existed[place] = kind(one[2][2]) ~= 'none' end
  if not existed[place] then write(one[1], one[2]) end
end
redis.call('SELECT', {records.CLIPPER_DB})
redis.call('SET', '{records.SCHEMA_KEY}', '{records.SCHEMA_VERSION}')
set_revision(math.max(revision(), tonumber(ARGV[2])) + 1)
return 1
"""

READ_REPLICAS: Final = f"""{_READ}
redis.call('SELECT', {records.REPLICA_DB})
return read({records.REPLICA_DB}, 'hash', redis.call('KEYS', '*'))
"""

# A frontend says that it lives, or leaves. Leases are Redis' own: no clock of another machine counts. Nearly always
# nothing has changed since the last report of anybody; then only the leases of its own replicas are renewed.
# ARGV: id, place whose earlier lives are over (or empty), revision, what it says (or empty: it leaves), milliseconds of
# its lease and for which numbers are remembered, the version of the frontends that it knows, and a new one. Answers
# the numbers of its replicas, that version, unless it is known all frontends that live: each as the JSON of
# [id, address, models], and the databases and keys of records that were removed because they were wrong. The owner of
# such a one, if it lives, writes it anew within a second, since each report looks for its own.
REPORT: Final = f"""{_LUA}
local id, serves_by, said, lease, memory = ARGV[1], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local prefix = '{records.FRONTEND_PREFIX}'
local removed = {{}}
local function remove(key, database)
  redis.call('DEL', key)
  removed[#removed + 1] = {{database or {records.CLIPPER_DB}, string.sub(key, 1, {records.MAX_KEY_BYTES})}}
end
local function keep_hash(key, database)
  local found = kind(key)
  if found ~= 'hash' and found ~= 'none' then remove(key, database) end
  return found == 'hash'
end
local function decoded(text)
  local is_json, value = pcall(cjson.decode, text or '')
  return is_json and type(value) == 'table' and value or nil
end
local function number(text)
  return type(text) == 'string' and #text <= {records.REPLICA_NUMBER_DIGITS} and counter(text)
end
local function are_numbers(list)
  for _, value in ipairs(list) do
    if type(value) ~= 'number' or value % 1 ~= 0 or value < 0 or value >= 1e{records.REPLICA_NUMBER_DIGITS} then
      return false
    end
  end
  return true
end
local function are_texts(list)
  for _, value in pairs(list) do if type(value) ~= 'string' then return false end end
  return true
end
local function is_record(replica)
  if type(replica) ~= 'table' or not are_texts(replica) then return false end
  local fields = 0
  for _ in pairs(replica) do fields = fields + 1 end
  return fields <= {records.MAX_RECORD_PARTS} and replica.model_name and replica.model_version
    and number(replica.model_replica_id) and replica.zmq_connection_id
end
local function are_replicas(list)
  for _, pair in ipairs(list) do
    if type(pair) ~= 'table' or type(pair[1]) ~= 'string' or not is_record(pair[2]) then return false end
  end
  return true
end

keep_hash('{records.LIVING_KEY}')
local ids = {{}}
for _, key in ipairs(redis.call('KEYS', prefix .. '*')) do
  local other = string.sub(key, #prefix + 1)
  if other ~= id and ARGV[2] ~= '' and string.sub(other, 1, #ARGV[2]) == ARGV[2] then redis.call('DEL', key)
  elseif keep_hash(key) then ids[#ids + 1] = other end
end
table.sort(ids)
local function answer(numbers, version)
  redis.call('SELECT', {records.CLIPPER_DB})
  local texts = {{}}
  if version ~= ARGV[7] then
    for index, other in ipairs(ids) do texts[index] = redis.call('HGET', prefix .. other, 'summary') or '' end
  end
  return {{cjson.encode(numbers), version, texts, removed}}
end
local function renew()
  redis.call('HSET', prefix .. id, 'revision', serves_by)
  redis.call('PEXPIRE', prefix .. id, lease)
end

local known = redis.call('HMGET', '{records.LIVING_KEY}', 'ids', 'version')
local last = redis.call('HMGET', prefix .. id, 'said', 'keys', 'numbers', 'memory')
local last_keys, last_numbers = decoded(last[2]), decoded(last[3])
if said ~= '' and last[1] == said and known[1] == cjson.encode(ids) and known[2]
  and last_keys and are_texts(last_keys) and #last_keys == tonumber(ARGV[9])
  and last_numbers and are_numbers(last_numbers) and #last_numbers == #last_keys
  and (last[4] == '' or (last[4] and redis.call('PTTL', last[4]) > memory / 2)) then
  renew()
  redis.call('SELECT', {records.REPLICA_DB})
  local all_there = true
  for _, key in ipairs(last_keys) do
    if kind(key) ~= 'hash' or redis.call('PEXPIRE', key, lease) == 0 then all_there = false end
  end
  redis.call('SELECT', {records.CLIPPER_DB})
  if all_there then return answer(last_numbers, known[2]) end
end

redis.call('DEL', prefix .. id)
local lives = {{}}
for index = #ids, 1, -1 do
  local key = prefix .. ids[index]
  local written = redis.call('HMGET', key, 'replicas', 'summary')
  local replicas, summary = decoded(written[1]), decoded(written[2])
  if replicas and are_replicas(replicas) and summary and summary[1] == ids[index] then
    lives[ids[index]] = replicas
    if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, lease) end
  else
    if ids[index] ~= id then remove(key) end
    table.remove(ids, index)
  end
end
local function model(replica) return replica.model_name .. ':' .. replica.model_version end
local function key_of(replica)
  return replica.model_name .. ',' .. replica.model_version .. ',' .. replica.model_replica_id
end

-- Numbers: a replica that another frontend has is known by that number, one that came back by its old one. A comma
-- separates a name from the model version, which has none: '/' may be in all of them.
local number_of, taken = {{}}, {{}}
for _, replicas in pairs(lives) do
  for _, pair in ipairs(replicas) do
    number_of[model(pair[2]) .. ',' .. pair[1]] = pair[2].model_replica_id
    taken[key_of(pair[2])] = pair[1]
  end
end
local numbers, keys, mine, first_memory = {{}}, {{}}, {{}}, ''
if said ~= '' then
  local address, replicas, reached = unpack(cjson.decode(said))
  local function claim(name, replica)
    local place = key_of(replica)
    if replica.model_replica_id == '{records.UNNUMBERED}' or (taken[place] or name) ~= name then return false end
    taken[place] = name
    return true
  end
  local new = {{}}
  for _, pair in ipairs(replicas) do
    local name, replica = pair[1], pair[2]
    local full = model(replica) .. ',' .. name
    local remembered = text('{records.REPLICA_NUMBER_PREFIX}' .. full)
    replica.model_replica_id = number_of[full] or (number(remembered) and remembered) or replica.model_replica_id
    if not claim(name, replica) then new[#new + 1] = pair end
  end
  for _, pair in ipairs(new) do
    local counted = '{records.REPLICA_COUNT_PREFIX}' .. model(pair[2])
    repeat
      if kind(counted) ~= 'none' and not number(text(counted)) then remove(counted) end
      local count = redis.call('INCR', counted)
      pair[2].model_replica_id = tostring(count - 1)
    until claim(pair[1], pair[2])
  end
  for index, pair in ipairs(replicas) do
    numbers[index] = tonumber(pair[2].model_replica_id)
    keys[index] = key_of(pair[2])
    mine[keys[index]] = true
    local remembered = '{records.REPLICA_NUMBER_PREFIX}' .. model(pair[2]) .. ',' .. pair[1]
    if index == 1 then first_memory = remembered end
    if text(remembered) ~= pair[2].model_replica_id or redis.call('PTTL', remembered) < memory * 3 / 4 then
      redis.call('SET', remembered, pair[2].model_replica_id, 'PX', memory)
      redis.call('PEXPIRE', '{records.REPLICA_COUNT_PREFIX}' .. model(pair[2]), memory)
    end
  end
  local models, seen = {{}}, {{}}
  for _, pair in ipairs(replicas) do
    if not seen[model(pair[2])] then
      seen[model(pair[2])] = true
      models[#models + 1] = {{pair[2].model_name, pair[2].model_version}}
    end
  end
  ids[#ids + 1] = id
  lives[id] = replicas
  redis.call('HSET', prefix .. id, 'said', said, 'replicas', cjson.encode(replicas), 'keys', cjson.encode(keys),
    'numbers', cjson.encode(numbers), 'summary', cjson.encode({{id, address, models}}),
    'memory', first_memory, 'address', address)
  for _, name in ipairs(reached) do redis.call('HSET', prefix .. id, '{records.REACHED_PREFIX}' .. name, '') end
  renew()
end

-- The replicas of all that live; where several have one, the first speaks for it.
table.sort(ids)
redis.call('HSET', '{records.LIVING_KEY}', 'ids', cjson.encode(ids), 'version', ARGV[8])
redis.call('PUBLISH', '{records.FRONTENDS_CHANNEL}', id)
local wanted = {{}}
for _, other in ipairs(ids) do
  for _, pair in ipairs(lives[other]) do
    wanted[key_of(pair[2])] = wanted[key_of(pair[2])] or pair[2]
  end
end
redis.call('SELECT', {records.REPLICA_DB})
for _, key in ipairs(redis.call('KEYS', '*')) do
  if not wanted[key] then redis.call('DEL', key) end
end
for key, replica in pairs(wanted) do
  local is_new, fields = not keep_hash(key, {records.REPLICA_DB}), {{}}
  for name, value in pairs(replica) do
    is_new = is_new or redis.call('HGET', key, name) ~= value
    fields[#fields + 1] = name; fields[#fields + 1] = value
  end
  if is_new then redis.call('HSET', key, unpack(fields)) end
  if is_new or mine[key] then redis.call('PEXPIRE', key, lease) end
end
return answer(numbers, ARGV[8])
"""

# ARGV: revision. Whether all frontends that live serve by it.
IS_APPLIED: Final = f"""{_LUA}
for _, key in ipairs(redis.call('KEYS', '{records.FRONTEND_PREFIX}*')) do
  local serves_by = counter(field(key, 'revision'))
  if serves_by and serves_by < tonumber(ARGV[1]) then return 0 end
end
return 1
"""

# ARGV: a model version. Which frontends that live cannot reach a replica of it. A frontend is left out when it is too
# old to say what it reaches, or when no peer can relay to it because its address is not known.
NOT_REACHING: Final = f"""{_LUA}
local found = {{}}
for _, key in ipairs(redis.call('KEYS', '{records.FRONTEND_PREFIX}*')) do
  local address = field(key, 'address')
  if address and address ~= '' and redis.call('HEXISTS', key, '{records.REACHED_PREFIX}' .. ARGV[1]) == 0 then
    found[#found + 1] = string.sub(key, {len(records.FRONTEND_PREFIX) + 1})
  end
end
table.sort(found)
return found
"""

# What a cluster leaves behind is taken over by the next, but for the number of workers: an argument of its start.
# ARGV: cluster id, lease in milliseconds. Answers the owner.
CLAIM: Final = f"""{_LUA}
local owner = text('{records.CLUSTER_KEY}')
local is_id = owner and #owner > 0 and #owner <= {_MAX_CLUSTER_ID_BYTES} and not string.find(owner, '%c')
if is_id and owner ~= ARGV[1] then return owner end
redis.call('SET', '{records.CLUSTER_KEY}', ARGV[1], 'PX', ARGV[2])
local last = text('{records.LAST_CLUSTER_KEY}')
redis.call('SET', '{records.LAST_CLUSTER_KEY}', ARGV[1])
if last and last ~= ARGV[1] and redis.call('DEL', '{records.WORKERS_KEY}') == 1 then
  next_revision({{{{{records.CLIPPER_DB}, '{records.WORKERS_KEY}'}}}})
end
return ARGV[1]
"""

RELEASE: Final = f"""{_LUA}
if text('{records.CLUSTER_KEY}') == ARGV[1] then redis.call('DEL', '{records.CLUSTER_KEY}') end
"""

# Changes nothing, by what a Redis that refuses to serve Clipper does not allow: another database, and a write.
TRY: Final = f"""
redis.call('SELECT', {records.LINK_DB})
redis.call('SELECT', {records.CLIPPER_DB})
redis.call('DEL', 'clipper:nothing')
"""
