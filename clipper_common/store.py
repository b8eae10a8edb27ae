"""ConfigStore: every Redis command that Clipper uses, and the following of changes.

Configuration lives in several databases, which only a Lua script reads or writes as one. So a change is a list of
`records.Write` that one script carries out together with the revision counter, if nobody else changed the
configuration since it was read. No Redis setting is asked for: `CONFIG SET` is refused by managed services.
"""

import asyncio
import contextlib
import inspect
import json
import logging
import socket
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.retry import Retry as BlockingRetry

from clipper_common import reading, records, scripts
from clipper_common.config_copy import ConfigCopy, Update
from clipper_common.constants import (
    CLUSTER_LEASE_SECONDS,
    CONFIG_POLL_SECONDS,
    FRONTEND_LEASE_SECONDS,
)
from clipper_common.datatypes import ModelId, printable
from clipper_common.errors import ClipperException, RecordError
from clipper_common.records import Faults, Frontend, FrontendReport, Place, Replica, Snapshot, Write

logger = logging.getLogger(__name__)

_CALL_SECONDS: Final = 2.0
_TRY_SECONDS: Final = 1.0
_RECONNECT_SECONDS: Final = 0.2
_UNKNOWING: Final = "unknowing-"
"""Of an epoch begun by who had never seen a configuration. Who has one writes it back all the same."""
_REPLICA_MEMORY_SECONDS: Final = 3600.0
"""For so long a version 4 container that is away keeps its number."""

_UNNAMED: Final[dict[str, Any]] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(Redis.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
"""The client does not tell Redis its name first: before version 8 it passes over the answer to that, which may say why
Redis refuses it."""
_UNASKED_BYTES: Final = 4096
_MAX_TOLD: Final = 100
"""The most wrong records that are named in the log at once."""

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


def refusal_at(host: str, port: int) -> str:
    """What `explain` says of a Redis that refuses to serve Clipper; empty if it serves, or may yet.

    It waits for the answer, so it is for programs without an event loop.
    """
    once = BlockingRetry(NoBackoff(), 0)
    with BlockingRedis(host, port, socket_timeout=_TRY_SECONDS, retry=once, **_UNNAMED) as client:
        try:
            client.eval(scripts.TRY, 0)
        except (*StoreError, UnicodeError) as error:  # such as that of a name that can be none of a host
            is_cut_off = isinstance(error, RedisConnectionError) and not refusal(error)
            answer = ResponseError(_said_unasked(host, port)) if is_cut_off else error
            return explain(answer) if refusal(answer) else ""
    return ""


def _said_unasked(host: str, port: int) -> str:
    """Return the text that a server sends to a client that writes nothing: such a client gets no reset in its place.

    A Redis in protected mode says why it refuses a client, and closes the connection without reading from it.
    """
    with contextlib.suppress(OSError), socket.create_connection((host, port), _TRY_SECONDS) as connection:
        return connection.recv(_UNASKED_BYTES).decode(errors="replace")
    return ""


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
            **_UNNAMED,
        )

        self._registered: dict[str, AsyncScript] = {}
        self._frontends: tuple[str, list[Frontend]] = "", []
        """Those that live, and the version of the list."""
        self._copy = ConfigCopy(self._eval, keeps_good=False)
        self._faults: dict[str, Faults] = {}
        """The records that are known to be wrong: of the configuration, and of the replicas."""

    async def close(self) -> None:
        await self._redis.aclose()

    # --- configuration ---

    async def read(self) -> Snapshot:
        """All configuration that can be used. Its `faults` say what cannot."""
        await self._copy.read_all()
        self._tell("configuration", self._copy.snapshot.faults)
        return self._copy.snapshot

    @property
    def known(self) -> Snapshot:
        """What was read last."""
        return self._copy.snapshot

    async def read_latest(self, *places: Place) -> Snapshot:
        """As `read`, but read only what changed since this store read last, and what is in `places`.

        Elsewhere it may not know yet what was written by others than `commit`.
        """
        await self._copy.update(places)
        self._tell("configuration", self._copy.snapshot.faults)
        return self._copy.snapshot

    async def read_if_due(self) -> None:
        """`read`, if that was long ago."""
        if self._copy.is_due:
            await self.read()

    async def commit(self, based_on: Snapshot, writes: Iterable[Write]) -> int | None:
        """Carry out all `writes`, or none and answer None when `based_on` is no longer the latest.

        Answers the new revision.
        """
        revision = int(await self._eval(scripts.COMMIT, str(based_on.revision), based_on.epoch, _dump(writes)))
        return None if revision < 0 else revision

    async def follow(self, patience_seconds: float = 0.0, kept: Snapshot | None = None) -> AsyncIterator[Update]:
        """Yield the configuration, and again each time that it changed.

        A record that is wrong stays as it was yielded last. While Redis is away nothing is yielded. When Redis came
        back empty, what was last yielded is written back. Who has yielded nothing yet lets others do that for
        `patience_seconds`, before writing back what was `kept`, or else taking the Redis for a new one.
        """
        copy = ConfigCopy(self._eval, keeps_good=True, kept=kept)
        refused: str | None = None
        """Why Redis does not answer, empty if it may be away; None while it answers."""
        while True:
            try:
                async with aclosing(self._follow_while_reachable(copy, patience_seconds, kept)) as updates:
                    async for update in updates:
                        if refused is not None:
                            logger.info("Redis at %s answers again", self.address)
                            refused = None
                        if update is not None:
                            yield update
            except StoreError as error:
                reason = refusal(error)
                if refused is None or reason not in ("", refused):
                    logger.warning("Redis at %s does not answer: %s", self.address, explain(error))
                    refused = reason
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _follow_while_reachable(
        self, copy: ConfigCopy, patience_seconds: float, kept: Snapshot | None
    ) -> AsyncGenerator[Update | None, None]:
        """What is new, or None, after each message and at least each `CONFIG_POLL_SECONDS`."""
        async with self._redis.pubsub() as pubsub:
            await _in_time(pubsub.subscribe(records.CHANGES_CHANNEL))
            impatient_at = time.monotonic() + patience_seconds  # not while Redis is away: so it is for the others too
            while True:
                update = None
                head = await self._read_head()
                was_read, last = copy.is_read, copy.snapshot if copy.is_read else kept
                is_for_others = not was_read and time.monotonic() < impatient_at
                while _is_to_begin(head[1], last) and not is_for_others:
                    await self._begin_epoch(last, head[1])
                    head = await self._read_head()
                if head[1] and (head != copy.head or copy.is_due):
                    changed = await (copy.read_all() if copy.is_due else copy.update())
                    self._tell("configuration", copy.snapshot.faults)
                    if changed or not was_read or last is None or (last.revision, last.epoch) != copy.head:
                        update = Update(copy.snapshot, changed)
                yield update
                await _wait_for_message(pubsub)

    async def _begin_epoch(self, last: Snapshot | None, following: str = "") -> None:
        """Mark a Redis that is a new one, or lost all, if its epoch is still `following`."""
        if last is not None:
            logger.warning("Redis at %s lost the configuration: writing it back", self.address)
        epoch = uuid.uuid4().hex if last is not None else _UNKNOWING + uuid.uuid4().hex
        last = last or Snapshot()
        await self._eval(scripts.RESTORE, epoch, str(last.revision), _dump(records.put_snapshot(last)), following)

    async def _read_head(self) -> tuple[int, str]:
        revision, epoch, _ = await self._eval(scripts.READ_HEAD)
        return int(revision), _text(epoch)

    # --- replicas: not configuration, so without a revision ---

    async def read_replicas(self) -> list[Replica]:
        """The replicas that are connected."""
        return (await self.read_replica_records())[0]

    async def read_replica_records(self) -> tuple[list[Replica], Faults]:
        """The replicas that are connected, and which of their records are wrong."""
        replicas, faults = reading.read_replicas(await self._eval(scripts.READ_REPLICAS))
        self._tell("replicas", faults)
        return replicas, faults

    async def not_reaching(self, model: ModelId) -> list[str]:
        """The ids of the query frontends that live and cannot reach a replica of `model`, by themselves or relayed."""
        return list(map(_text, await self._eval(scripts.NOT_REACHING, str(model))))

    # --- which cluster, which frontends ---

    async def claim(self, cluster_id: str) -> None:
        """Own this Redis for the next `CLUSTER_LEASE_SECONDS`.

        Raises ClipperException when another cluster does.
        """
        lease = str(int(CLUSTER_LEASE_SECONDS * 1000))
        owner = _text(await self._eval(scripts.CLAIM, cluster_id, lease))
        if owner != cluster_id:
            raise ClipperException(
                f"Redis at {self.address} is used by the Clipper cluster '{_cluster_name(owner)}'. "
                "Give each cluster a Redis of its own, or stop that cluster first "
                f"(if it is stopped already, wait {CLUSTER_LEASE_SECONDS:.0f} seconds)."
            )

    async def release(self, cluster_id: str) -> None:
        """Give up what `claim` got."""
        await self._eval(scripts.RELEASE, cluster_id)

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
        answer = await self._eval(scripts.REPORT, *what, *times, known, uuid.uuid4().hex, str(replicas))
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
            if await self._eval(scripts.IS_APPLIED, str(revision)):
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
        """Run a script by its digest. A Redis that does not have it, since it was restarted for instance, gets it."""
        if script not in self._registered:
            self._registered[script] = self._redis.register_script(script)
        return await _in_time(self._registered[script](args=args))


def _is_to_begin(epoch: str, last: Snapshot | None) -> bool:
    """Whether a new epoch is due: there is none, or one of somebody who did not know what we know."""
    return not epoch or (last is not None and epoch.startswith(_UNKNOWING) and epoch != last.epoch)


async def _in_time(call: Awaitable[Any]) -> Any:
    """Return the answer of Redis to `call`. Raises TimeoutError if there is none within `_CALL_SECONDS`."""
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
