-- Takes down that a frontend lives, or leaves. Leases are Redis' own: no clock of another machine counts. Nearly always
-- nothing has changed since the last report of anybody; then only the leases of its own replicas are renewed.
-- KEYS given: that of the frontend's record. The others follow from what the frontends have said.
-- ARGV: id, place whose earlier lives are over (or empty), revision, what it says (or empty: it leaves), milliseconds
-- of its lease and for which numbers are remembered, the version of the frontends that it knows, a new one, and the
-- number of its replicas. Answers the numbers of its replicas, that version, unless it is known all frontends that
-- live: each as the JSON of [id, address, models], and the databases and keys of records that were removed because they
-- were wrong. The owner of such a one, if it lives, writes it anew within a second: each report looks for its own.
local id, serves_by, said, lease, memory = ARGV[1], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local own, prefix = given(1), layout.frontends.prefix
local removed = {}
local function remove(key, database)
  redis.call('DEL', key)
  removed[#removed + 1] = {database or layout.home, string.sub(key, 1, records.MAX_KEY_BYTES)}
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
  return type(text) == 'string' and #text <= records.REPLICA_NUMBER_DIGITS and counter(text)
end
local function are_numbers(list)
  for _, value in ipairs(list) do
    if type(value) ~= 'number' or value % 1 ~= 0 or value < 0 or value >= 10 ^ records.REPLICA_NUMBER_DIGITS then
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
  return fields <= records.MAX_RECORD_PARTS and replica.model_name and replica.model_version
    and number(replica.model_replica_id) and replica.zmq_connection_id
end
local function are_replicas(list)
  for _, pair in ipairs(list) do
    if type(pair) ~= 'table' or type(pair[1]) ~= 'string' or not is_record(pair[2]) then return false end
  end
  return true
end

keep_hash(key.living_frontends)
local ids = {}
for _, key in ipairs(keys_of(layout.frontends)) do
  local other = string.sub(key, #prefix + 1)
  if other ~= id and ARGV[2] ~= '' and string.sub(other, 1, #ARGV[2]) == ARGV[2] then redis.call('DEL', key)
  elseif keep_hash(key) then ids[#ids + 1] = other end
end
table.sort(ids)
local function answer(numbers, version)
  go_home()
  local texts = {}
  if version ~= ARGV[7] then
    for index, other in ipairs(ids) do texts[index] = redis.call('HGET', prefix .. other, 'summary') or '' end
  end
  return {cjson.encode(numbers), version, texts, removed}
end
local function renew()
  put('HSET', own, 'revision', serves_by)
  redis.call('PEXPIRE', own, lease)
end

local known = redis.call('HMGET', key.living_frontends, 'ids', 'version')
local last = redis.call('HMGET', own, 'said', 'keys', 'numbers', 'memory')
local last_keys, last_numbers = decoded(last[2]), decoded(last[3])
if said ~= '' and last[1] == said and known[1] == cjson.encode(ids) and known[2]
  and last_keys and are_texts(last_keys) and #last_keys == tonumber(ARGV[9])
  and last_numbers and are_numbers(last_numbers) and #last_numbers == #last_keys
  and (last[4] == '' or (last[4] and redis.call('PTTL', last[4]) > memory / 2)) then
  renew()
  enter(layout.replicas.database)
  local all_there = true
  for _, key in ipairs(last_keys) do
    if kind(key) ~= 'hash' or redis.call('PEXPIRE', key, lease) == 0 then all_there = false end
  end
  go_home()
  if all_there then return answer(last_numbers, known[2]) end
end

redis.call('DEL', own)
local lives = {}
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
  local name = replica.model_name .. ',' .. replica.model_version .. ',' .. replica.model_replica_id
  return layout.replicas.prefix .. name
end

-- Numbers: a replica that another frontend has is known by that number, one that came back by its old one. A comma
-- separates a name from the model version, which has none: '/' may be in all of them.
local number_of, taken = {}, {}
for _, replicas in pairs(lives) do
  for _, pair in ipairs(replicas) do
    number_of[model(pair[2]) .. ',' .. pair[1]] = pair[2].model_replica_id
    taken[key_of(pair[2])] = pair[1]
  end
end
go_home()
local is_full = redis.call('DBSIZE') >= records.MAX_REMEMBERED
-- The next number of a model version. Where no more may be remembered, a new one has no counter.
local next_numbers = {}
local function next_number(version)
  local counted = layout.replica_counts.prefix .. version
  if kind(counted) ~= 'none' and not number(text(counted)) then remove(counted) end
  if not is_full or kind(counted) ~= 'none' then return redis.call('INCR', counted) - 1 end
  local found = next_numbers[version] or 0
  next_numbers[version] = found + 1
  return found
end
local numbers, keys, mine, first_memory = {}, {}, {}, ''
if said ~= '' then
  local address, replicas, reached = unpack(cjson.decode(said))
  local function claim(name, replica)
    local place = key_of(replica)
    if replica.model_replica_id == tostring(records.UNNUMBERED) or (taken[place] or name) ~= name then return false end
    taken[place] = name
    return true
  end
  local new = {}
  for _, pair in ipairs(replicas) do
    local name, replica = pair[1], pair[2]
    local full = model(replica) .. ',' .. name
    local remembered = text(layout.replica_numbers.prefix .. full)
    replica.model_replica_id = number_of[full] or (number(remembered) and remembered) or replica.model_replica_id
    if not claim(name, replica) then new[#new + 1] = pair end
  end
  for _, pair in ipairs(new) do
    repeat pair[2].model_replica_id = tostring(next_number(model(pair[2]))) until claim(pair[1], pair[2])
  end
  for index, pair in ipairs(replicas) do
    numbers[index] = tonumber(pair[2].model_replica_id)
    keys[index] = key_of(pair[2])
    mine[keys[index]] = true
    local remembered = layout.replica_numbers.prefix .. model(pair[2]) .. ',' .. pair[1]
    local known = text(remembered)
    if index == 1 and (known or not is_full) then first_memory = remembered end
    if is_full and not known then
      -- It is not remembered.
    elseif known ~= pair[2].model_replica_id or redis.call('PTTL', remembered) < memory * 3 / 4 then
      redis.call('SET', remembered, pair[2].model_replica_id, 'PX', memory)
      redis.call('PEXPIRE', layout.replica_counts.prefix .. model(pair[2]), memory)
    end
  end
  local models, seen = {}, {}
  for _, pair in ipairs(replicas) do
    if not seen[model(pair[2])] then
      seen[model(pair[2])] = true
      models[#models + 1] = {pair[2].model_name, pair[2].model_version}
    end
  end
  ids[#ids + 1] = id
  lives[id] = replicas
  put('HSET', own, 'said', said, 'replicas', cjson.encode(replicas), 'keys', cjson.encode(keys),
    'numbers', cjson.encode(numbers), 'summary', cjson.encode({id, address, models}),
    'memory', first_memory, 'address', address)
  for _, name in ipairs(reached) do redis.call('HSET', own, REACHED .. name, '') end
  renew()
end

-- The replicas of all that live; where several have one, the first speaks for it.
table.sort(ids)
redis.call('HSET', key.living_frontends, 'ids', cjson.encode(ids), 'version', ARGV[8])
redis.call('PUBLISH', layout.frontends_channel, id)
local wanted = {}
for _, other in ipairs(ids) do
  for _, pair in ipairs(lives[other]) do
    wanted[key_of(pair[2])] = wanted[key_of(pair[2])] or pair[2]
  end
end
for _, key in ipairs(keys_of(layout.replicas)) do
  if not wanted[key] then redis.call('DEL', key) end
end
for key, replica in pairs(wanted) do
  local is_new, fields = not keep_hash(key, layout.replicas.database), {}
  for name, value in pairs(replica) do
    is_new = is_new or redis.call('HGET', key, name) ~= value
    fields[#fields + 1] = name; fields[#fields + 1] = value
  end
  if is_new then put('HSET', key, unpack(fields)) end
  if is_new or mine[key] then redis.call('PEXPIRE', key, lease) end
end
return answer(numbers, ARGV[8])
