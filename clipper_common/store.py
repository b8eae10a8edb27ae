"""ConfigStore: every Redis command that Clipper uses, and the following of changes.

Configuration lives in several databases, which only a Lua script reads or writes as one. So a change is a list of
`records.Write` that one script carries out together with the revision counter, if nobody else changed the
configuration since it was read. No Redis setting is asked for: `CONFIG SET` is refused by managed services.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError, ResponseError

from clipper_common import records
from clipper_common.constants import (
    CLUSTER_LEASE_SECONDS,
    CONFIG_POLL_SECONDS,
    CONFIG_REREAD_SECONDS,
    FRONTEND_LEASE_SECONDS,
)
from clipper_common.datatypes import ModelId, printable
from clipper_common.errors import ClipperException, RecordError
from clipper_common.records import Faults, Frontend, FrontendReport, Place, Replica, Snapshot, Write

logger = logging.getLogger(__name__)

_CALL_SECONDS: Final = 2.0
_RECONNECT_SECONDS: Final = 0.2
_UNKNOWING: Final = "unknowing-"
"""Of an epoch begun by who had never seen a configuration. Who has one writes it back all the same."""
_REPLICA_MEMORY_SECONDS: Final = 3600.0
"""For so long a version 4 container that is away keeps its number."""

_MAX_CLUSTER_ID_BYTES: Final = 1024
_MAX_TOLD: Final = 100
"""So many records that are wrong are named in the log at once."""

StoreError = (RedisError, OSError, asyncio.TimeoutError)
"""What a call raises when Redis cannot be reached or does not do as it is told."""

_SINGLE_DATABASE: Final = ("cluster", "same slot", "db index is out of range", "select is not allowed")
"""Parts of the messages, in lower case, with which a Redis in cluster mode refuses Clipper's scripts."""


def refusal(error: BaseException) -> str:
    """Why a Redis that raised `error` will not serve Clipper however long it is asked; empty if it may yet."""
    said = str(error).lower()
    if isinstance(error, AuthenticationError):
        return (
            "This Redis wants a password, and Clipper sends none: let its default user in without one (and keep "
            "others away by the network), or leave redis_ip out for a Redis of the cluster's own."
        )
    if isinstance(error, NoPermissionError):
        return (
            "The default user of this Redis may not do what Clipper does: "
            "'ACL SETUSER default on allkeys allchannels allcommands' allows it."
        )
    if isinstance(error, ReadOnlyError):
        return "This Redis is a read-only replica of another one: name the primary instead."
    if isinstance(error, RedisError) and "protected mode" in said:
        return (
            "This Redis is in protected mode and takes no clients from other machines: start it with "
            "'--protected-mode no' (and keep others away by the network)."
        )
    if isinstance(error, ResponseError) and any(text in said for text in _SINGLE_DATABASE):
        return (
            "Clipper needs several databases, and a Redis in cluster mode has one: use one without cluster mode, with "
            "at least the usual 16 databases. Replicas of it and Sentinel are fine."
        )
    return ""


def explain(error: BaseException) -> str:
    """Describe an error, with advice if Redis refuses to serve Clipper."""
    reason = refusal(error)
    return f"{reason} (It says: {error})" if reason else str(error) or repr(error)


# --- scripts. Whatever somebody put into Redis, none of them may fail: what is of the wrong kind counts as absent ---

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
local function next_revision()
  local last = revision()
  if last == 0 and kind('{records.REVISION_KEY}') ~= 'none' then
    for _, key in ipairs(redis.call('KEYS', '{records.FRONTEND_PREFIX}*')) do
      last = math.max(last, counter(field(key, 'revision')) or 0)
    end
  end
  return set_revision(last + 1)
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
local function read(database, wanted, keys)
  redis.call('SELECT', database)
  local found = {{}}
  for _, key in ipairs(keys or redis.call('KEYS', '*')) do
    local problem, value = problem_of(key, wanted), ''
    if not problem then
      value = redis.call(commands[wanted][2], key)
      if bytes(value) > {records.MAX_RECORD_BYTES} then
        problem, value = 'it has ' .. bytes(value) .. ' bytes, and may have {records.MAX_RECORD_BYTES}', ''
      end
    end
    found[#found + 1] = {{string.sub(key, 1, {records.MAX_KEY_BYTES}), problem or '', value}}
  end
  return found
end
"""

_READ_ALL: Final = f"""{_READ}
-- Clipper 0.4 marks a deleted model by taking its field `valid` away and leaves the rest to the query frontend.
redis.call('SELECT', {records.MODEL_DB})
for _, key in ipairs(redis.call('KEYS', '*')) do
  if kind(key) == 'hash' and redis.call('HEXISTS', key, 'valid') == 0 then redis.call('DEL', key) end
end
redis.call('SELECT', {records.CLIPPER_DB})
local head = {{}}
for _, key in ipairs({{'{records.REVISION_KEY}', '{records.EPOCH_KEY}', '{records.WORKERS_KEY}'}}) do
  if kind(key) ~= 'none' then head[#head + 1] = key end
end
return {{read({records.CLIPPER_DB}, 'string', head),
  read({records.APPLICATION_DB}, 'hash'), read({records.MODEL_DB}, 'hash'),
  read({records.METADATA_DB}, 'string'), read({records.LINK_DB}, 'set')}}
"""

_READ_HEAD: Final = f"""{_LUA}
return {{string.format('%.0f', revision()), epoch()}}
"""

# ARGV: expected revision and epoch, and the writes as JSON. Answers the new revision, or -1.
_COMMIT: Final = f"""{_LUA}
if revision() ~= tonumber(ARGV[1]) or epoch() ~= ARGV[2] then return -1 end
for _, one in ipairs(cjson.decode(ARGV[3])) do write(one[1], one[2]) end
redis.call('SELECT', {records.CLIPPER_DB})
redis.call('SET', '{records.SCHEMA_KEY}', '{records.SCHEMA_VERSION}')
return next_revision()
"""

# As _COMMIT, for a Redis that came back empty: only one frontend wins, and what was written since stays.
# ARGV: new epoch, least revision, writes, the epoch that it follows (or empty).
_RESTORE: Final = f"""{_LUA}
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

_READ_REPLICAS: Final = f"""{_READ}
return read({records.REPLICA_DB}, 'hash')
"""

# A frontend says that it lives, or leaves. Leases are Redis' own: no clock of another machine counts. Nearly always
# nothing has changed since the last report of anybody; then only the leases of its own replicas are renewed.
# ARGV: id, place whose earlier lives are over (or empty), revision, what it says (or empty: it leaves), milliseconds of
# its lease and for which numbers are remembered, the version of the frontends that it knows, and a new one. Answers
# the numbers of its replicas, that version, unless it is known all frontends that live: each as the JSON of
# [id, address, models], and the databases and keys of records that were removed because they were wrong. The owner of
# such a one, if it lives, writes it anew within a second, since each report looks for its own.
_REPORT: Final = f"""{_LUA}
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

-- Numbers: a replica that another frontend has is known by that number, one that came back by its old one.
local number_of, taken = {{}}, {{}}
for _, replicas in pairs(lives) do
  for _, pair in ipairs(replicas) do
    number_of[model(pair[2]) .. '/' .. pair[1]] = pair[2].model_replica_id
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
    local full = model(replica) .. '/' .. name
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
    local remembered = '{records.REPLICA_NUMBER_PREFIX}' .. model(pair[2]) .. '/' .. pair[1]
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
_IS_APPLIED: Final = f"""{_LUA}
for _, key in ipairs(redis.call('KEYS', '{records.FRONTEND_PREFIX}*')) do
  local serves_by = counter(field(key, 'revision'))
  if serves_by and serves_by < tonumber(ARGV[1]) then return 0 end
end
return 1
"""

# ARGV: a model version. Which frontends that live cannot reach a replica of it. A frontend is left out when it is too
# old to say what it reaches, or when no peer can relay to it because its address is not known.
_NOT_REACHING: Final = f"""{_LUA}
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
_CLAIM: Final = f"""{_LUA}
local owner = text('{records.CLUSTER_KEY}')
local is_id = owner and #owner > 0 and #owner <= {_MAX_CLUSTER_ID_BYTES} and not string.find(owner, '%c')
if is_id and owner ~= ARGV[1] then return owner end
redis.call('SET', '{records.CLUSTER_KEY}', ARGV[1], 'PX', ARGV[2])
local last = text('{records.LAST_CLUSTER_KEY}')
redis.call('SET', '{records.LAST_CLUSTER_KEY}', ARGV[1])
if last and last ~= ARGV[1] and redis.call('DEL', '{records.WORKERS_KEY}') == 1 then next_revision() end
return ARGV[1]
"""

_RELEASE: Final = f"""{_LUA}
if text('{records.CLUSTER_KEY}') == ARGV[1] then redis.call('DEL', '{records.CLUSTER_KEY}') end
"""


class ConfigStore:
    """Clipper's configuration in the Redis at `host`:`port`.

    Calls raise `StoreError` when Redis does not answer within seconds; `follow` goes on instead.
    """

    def __init__(self, host: str, port: int) -> None:
        self.address = f"{host}:{port}"
        self._redis = Redis(
            host=host,
            port=port,
            socket_timeout=None,  # see _in_time
            socket_connect_timeout=_CALL_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a pooled connection may have died since its last use
        )

        self._frontends: tuple[str, list[Frontend]] = "", []
        """Those that live, and the version of the list."""
        self._faults: dict[str, Faults] = {}
        """What is known to be wrong, of the configuration and of the replicas."""

    async def close(self) -> None:
        await self._redis.aclose()

    # --- configuration ---

    async def read(self) -> Snapshot:
        """All configuration that can be used, as of one moment. Its `faults` say what cannot."""
        snapshot = records.read_snapshot(*await self._eval(_READ_ALL))
        self._tell("configuration", snapshot.faults)
        return snapshot

    async def commit(self, based_on: Snapshot, writes: Iterable[Write]) -> int | None:
        """Carry out all `writes`, or none and answer None when `based_on` is no longer the latest.

        Answers the new revision.
        """
        revision = int(await self._eval(_COMMIT, str(based_on.revision), based_on.epoch, _dump(writes)))
        return None if revision < 0 else revision

    async def follow(self, patience_seconds: float = 0.0) -> AsyncIterator[Snapshot]:
        """Yield the configuration, and again each time that it changed.

        A record that is wrong stays as it was yielded last. While Redis is away nothing is yielded. When Redis came
        back empty, what was last yielded is written back. Who has yielded nothing yet lets others do that for
        `patience_seconds`, before taking the Redis for a new one.
        """
        last: Snapshot | None = None
        reachable = True
        while True:
            try:
                async with aclosing(self._follow_while_reachable(last, patience_seconds)) as snapshots:
                    async for snapshot in snapshots:
                        if not reachable:
                            logger.info("Redis at %s answers again", self.address)
                            reachable = True
                        if snapshot is not None and snapshot != last:
                            last = snapshot
                            yield snapshot
            except StoreError as error:
                if reachable:
                    logger.warning("Redis at %s does not answer: %s", self.address, explain(error))
                    reachable = False
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _follow_while_reachable(
        self, last: Snapshot | None, patience_seconds: float
    ) -> AsyncGenerator[Snapshot | None, None]:
        """What is new, or None, after each message and at least each `CONFIG_POLL_SECONDS`."""
        async with self._redis.pubsub() as pubsub:
            await _in_time(pubsub.subscribe(records.CHANGES_CHANNEL))
            impatient_at = time.monotonic() + patience_seconds  # not while Redis is away: so it is for the others too
            seen: tuple[int, str] | None = None
            read_at = 0.0
            while True:
                snapshot = None
                head = await self._read_head()
                is_for_others = last is None and time.monotonic() < impatient_at
                while _is_to_begin(head[1], last) and not is_for_others:
                    await self._begin_epoch(last, head[1])
                    head = await self._read_head()
                if head[1] and (head != seen or time.monotonic() - read_at > CONFIG_REREAD_SECONDS):
                    found = await self.read()
                    seen, read_at = (found.revision, found.epoch), time.monotonic()
                    last = snapshot = found.with_last_good(last or Snapshot())
                yield snapshot
                await _wait_for_message(pubsub)

    async def _begin_epoch(self, last: Snapshot | None, following: str = "") -> None:
        """Mark a Redis that is a new one, or lost all, if its epoch is still `following`."""
        if last is not None:
            logger.warning("Redis at %s lost the configuration: writing it back", self.address)
        epoch = uuid.uuid4().hex if last is not None else _UNKNOWING + uuid.uuid4().hex
        last = last or Snapshot()
        await self._eval(_RESTORE, epoch, str(last.revision), _dump(records.put_snapshot(last)), following)

    async def _read_head(self) -> tuple[int, str]:
        revision, epoch = await self._eval(_READ_HEAD)
        return int(revision), _text(epoch)

    # --- replicas: not configuration, so without a revision ---

    async def read_replicas(self) -> list[Replica]:
        """The replicas that are connected."""
        return (await self.read_replica_records())[0]

    async def read_replica_records(self) -> tuple[list[Replica], Faults]:
        """The replicas that are connected, and which of their records are wrong."""
        replicas, faults = records.read_replicas(await self._eval(_READ_REPLICAS))
        self._tell("replicas", faults)
        return replicas, faults

    async def not_reaching(self, model: ModelId) -> list[str]:
        """The ids of the query frontends that live and cannot reach a replica of `model`, by themselves or relayed."""
        return list(map(_text, await self._eval(_NOT_REACHING, str(model))))

    # --- which cluster, which frontends ---

    async def claim(self, cluster_id: str) -> None:
        """Own this Redis for the next `CLUSTER_LEASE_SECONDS`.

        Raises ClipperException when another cluster does.
        """
        lease = str(int(CLUSTER_LEASE_SECONDS * 1000))
        owner = _text(await self._eval(_CLAIM, cluster_id, lease))
        if owner != cluster_id:
            raise ClipperException(
                f"Redis at {self.address} is used by the Clipper cluster '{_cluster_name(owner)}'. "
                "Give each cluster a Redis of its own, or stop that cluster first "
                f"(if it is stopped already, wait {CLUSTER_LEASE_SECONDS:.0f} seconds)."
            )

    async def release(self, cluster_id: str) -> None:
        """Give up what `claim` got."""
        await self._eval(_RELEASE, cluster_id)

    async def report(self, report: FrontendReport, place: str = "") -> tuple[list[int], list[Frontend]]:
        """Say for a query frontend that it lives, by which revision it serves and which replicas it has.

        Answers the number of each replica, and all frontends that live. With `place`, those whose id begins with it are
        known to be dead, and forgotten.
        """
        number = len(report.replicas)
        return await self._report(report.frontend_id, place, str(report.revision), report.to_json(), replicas=number)

    async def retire_frontend(self, frontend_id: str) -> None:
        """Say for a query frontend that it goes."""
        await self._report(frontend_id, "", "", "")

    async def _report(self, *what: str, replicas: int = 0) -> tuple[list[int], list[Frontend]]:
        times = [str(int(seconds * 1000)) for seconds in (FRONTEND_LEASE_SECONDS, _REPLICA_MEMORY_SECONDS)]
        known, frontends = self._frontends
        answer = await self._eval(_REPORT, *what, *times, known, uuid.uuid4().hex, str(replicas))
        numbers, version, texts, removed = answer
        for database, key in removed:
            logger.error("removed what was wrong in Redis: %s", Place(database, _text(key)))
        if _text(version) != known:
            frontends = self._read_frontends(texts)
            self._frontends = _text(version), frontends
        return list(json.loads(numbers)), frontends

    @staticmethod
    def _read_frontends(texts: Sequence[bytes]) -> list[Frontend]:
        frontends = []
        for text in texts:
            try:
                frontends.append(Frontend.from_json(text))
            except RecordError as error:
                logger.error("ignored a query frontend in Redis: %s", error)
        return frontends

    async def follow_frontends(self) -> AsyncIterator[None]:
        """Yield whenever a frontend came or went, or has other replicas. Raises `StoreError` when Redis is away."""
        async with self._redis.pubsub() as pubsub:
            await _in_time(pubsub.subscribe(records.FRONTENDS_CHANNEL))
            while True:
                yield
                await _wait_for_message(pubsub)

    async def wait_until_applied(self, revision: int, seconds: float) -> bool:
        """Wait until every query frontend that lives serves by `revision`; whether they did in time."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if await self._eval(_IS_APPLIED, str(revision)):
                return True
            await asyncio.sleep(0.003)
        return False

    def _tell(self, of: str, faults: Faults) -> None:
        """Log what is newly wrong, and what is so no more."""
        known, self._faults[of] = self._faults.get(of, {}), faults
        news = [place for place, reason in faults.items() if known.get(place) != reason]
        for place in news[:_MAX_TOLD]:
            logger.error("ignored what is wrong in Redis: %s: %s", place, faults[place])
        if len(news) > _MAX_TOLD:
            logger.error("ignored %d more records that are wrong in Redis", len(news) - _MAX_TOLD)
        for place in [place for place in known if place not in faults][:_MAX_TOLD]:
            logger.info("no longer wrong in Redis: %s", place)

    async def _eval(self, script: str, *args: str) -> Any:
        return await _in_time(self._redis.eval(script, 0, *args))


def _is_to_begin(epoch: str, last: Snapshot | None) -> bool:
    """Whether a new epoch is due: there is none, or one of somebody who did not know what we know."""
    return not epoch or (last is not None and epoch.startswith(_UNKNOWING) and epoch != last.epoch)


async def _in_time(call: Awaitable[Any]) -> Any:
    """What Redis answers to `call`, if it does within `_CALL_SECONDS`."""
    # The client's own time limit is asyncio.wait_for, which in Python 3.11 may swallow the cancellation of a task.
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            return await call
    except TimeoutError:
        raise TimeoutError(f"no answer within {_CALL_SECONDS:.0f} seconds") from None


async def _wait_for_message(pubsub: PubSub) -> None:
    give_up = time.monotonic() + CONFIG_POLL_SECONDS
    while (left := give_up - time.monotonic()) > 0:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=left)
        if message is not None:
            return


def _dump(writes: Iterable[Write]) -> str:
    return json.dumps(list(writes))


def _cluster_name(cluster_id: str) -> str:
    return printable(cluster_id.rpartition("/")[0] or cluster_id)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
