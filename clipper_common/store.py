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

from clipper_common import records, scripts
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
_READ_SECONDS: Final = 10.0
"""Redis needs a second to read 10,000 applications and models, and more on a busy machine."""
_RECONNECT_SECONDS: Final = 0.2
_UNKNOWING: Final = "unknowing-"
"""Of an epoch begun by who had never seen a configuration. Who has one writes it back all the same."""
_REPLICA_MEMORY_SECONDS: Final = 3600.0
"""For so long a version 4 container that is away keeps its number."""

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
        """The records that are known to be wrong: of the configuration, and of the replicas."""

    async def close(self) -> None:
        await self._redis.aclose()

    # --- configuration ---

    async def read(self) -> Snapshot:
        """All configuration that can be used, as of one moment. Its `faults` say what cannot."""
        await self._read_head()  # a Redis that does not answer is noticed sooner by a call that takes no time
        answer = await _in_time(self._redis.eval(scripts.READ_ALL, 0), _READ_SECONDS)
        snapshot = records.read_snapshot(*answer)
        self._tell("configuration", snapshot.faults)
        return snapshot

    async def commit(self, based_on: Snapshot, writes: Iterable[Write]) -> int | None:
        """Carry out all `writes`, or none and answer None when `based_on` is no longer the latest.

        Answers the new revision.
        """
        revision = int(await self._eval(scripts.COMMIT, str(based_on.revision), based_on.epoch, _dump(writes)))
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
        await self._eval(scripts.RESTORE, epoch, str(last.revision), _dump(records.put_snapshot(last)), following)

    async def _read_head(self) -> tuple[int, str]:
        revision, epoch = await self._eval(scripts.READ_HEAD)
        return int(revision), _text(epoch)

    # --- replicas: not configuration, so without a revision ---

    async def read_replicas(self) -> list[Replica]:
        """The replicas that are connected."""
        return (await self.read_replica_records())[0]

    async def read_replica_records(self) -> tuple[list[Replica], Faults]:
        """The replicas that are connected, and which of their records are wrong."""
        replicas, faults = records.read_replicas(await self._eval(scripts.READ_REPLICAS))
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
        return await _in_time(self._redis.eval(script, 0, *args))


def _is_to_begin(epoch: str, last: Snapshot | None) -> bool:
    """Whether a new epoch is due: there is none, or one of somebody who did not know what we know."""
    return not epoch or (last is not None and epoch.startswith(_UNKNOWING) and epoch != last.epoch)


async def _in_time(call: Awaitable[Any], seconds: float = _CALL_SECONDS) -> Any:
    """Return the answer of Redis to `call`. Raises TimeoutError if there is none within so many seconds."""
    # The client's own time limit is asyncio.wait_for, which in Python 3.11 may swallow the cancellation of a task.
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds") from None


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
