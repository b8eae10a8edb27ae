"""MembershipStore: the cluster that owns a Redis, its live query frontends, and their replicas.

None of this is configuration, so it has no revision. Each entry is valid until its lease in Redis expires.
"""

import json
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Final

from clipper_common import reading, scripts
from clipper_common.constants import CLUSTER_LEASE_SECONDS, FRONTEND_LEASE_SECONDS
from clipper_common.datatypes import ModelId, printable
from clipper_common.errors import ClipperException, RecordError
from clipper_common.faults import FaultLog
from clipper_common.layout import LAYOUT, Faults, Place
from clipper_common.records import Frontend, FrontendReport, Replica
from clipper_common.redis_client import RedisClient
from clipper_common.waiting import TimeLimit

logger = logging.getLogger(__name__)

_REPLICA_MEMORY_SECONDS: Final = 3600.0
"""Seconds for which a version 4 container that is disconnected keeps its number."""
_APPLIED_POLL_SECONDS: Final = 0.003


class MembershipStore:
    """The cluster, the query frontends and the replicas of a Redis. Calls raise `StoreError` if Redis does not
    answer."""

    def __init__(self, redis: RedisClient) -> None:
        self.address = redis.address
        self._redis = redis
        self._frontends: tuple[str, list[Frontend]] = "", []
        """The version of the list of live frontends, and the list."""
        self._faults = FaultLog()

    # --- the cluster ---

    async def claim(self, cluster_id: str) -> None:
        """Own this Redis for the next `CLUSTER_LEASE_SECONDS`.

        Raises ClipperException when another cluster does.
        """
        lease = str(int(CLUSTER_LEASE_SECONDS * 1000))
        owner = _text(await self._redis.run(scripts.CLAIM, cluster_id, lease))
        if owner != cluster_id:
            raise ClipperException(
                f"Redis at {self.address} is used by the Clipper cluster '{_cluster_name(owner)}'. "
                "Give each cluster a Redis of its own, or stop that cluster first "
                f"(if it is stopped already, wait {CLUSTER_LEASE_SECONDS:.0f} seconds)."
            )

    async def release(self, cluster_id: str) -> None:
        """Release the Redis that `claim` got."""
        await self._redis.run(scripts.RELEASE, cluster_id)

    # --- query frontends ---

    async def report(self, report: FrontendReport, place: str = "") -> tuple[list[int], list[Frontend]]:
        """Store the report of a query frontend. Return the numbers of its replicas, and all live frontends.

        With `place`, frontends whose id begins with it are removed, since they are known to be dead.
        """
        number = len(report.replicas)
        return await self._report(report.frontend_id, place, str(report.revision), report.to_json(), replicas=number)

    async def retire_frontend(self, frontend_id: str) -> None:
        """Remove a query frontend that stops."""
        await self._report(frontend_id, "", "", "")

    async def _report(self, frontend_id: str, *what: str, replicas: int = 0) -> tuple[list[int], list[Frontend]]:
        times = [str(int(seconds * 1000)) for seconds in (FRONTEND_LEASE_SECONDS, _REPLICA_MEMORY_SECONDS)]
        known, frontends = self._frontends
        args = [frontend_id, *what, *times, known, uuid.uuid4().hex, str(replicas)]
        answer = await self._redis.run(scripts.REPORT, *args, keys=[LAYOUT.frontends.place(frontend_id).key])
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

    def follow_frontends(self) -> AsyncIterator[None]:
        """Yield whenever a frontend starts or stops, or its replicas change. Raises `StoreError` if Redis does not
        answer."""
        return self._redis.listen(LAYOUT.frontends_channel)

    async def wait_until_applied(self, revision: int, seconds: float) -> bool:
        """Wait until all live query frontends serve by `revision`. Return whether they did in time."""
        async for _ in TimeLimit(seconds).attempts(_APPLIED_POLL_SECONDS):
            if await self._redis.run(scripts.IS_APPLIED, str(revision)):
                return True
        return False

    # --- replicas ---

    async def read_replicas(self) -> list[Replica]:
        """Return the replicas that are connected."""
        return (await self.read_replica_records())[0]

    async def read_replica_records(self) -> tuple[list[Replica], Faults]:
        """Return the connected replicas, and the faults of their invalid records."""
        replicas, faults = reading.read_replicas(await self._redis.run(scripts.READ_REPLICAS))
        self._faults.tell(faults)
        return replicas, faults

    async def not_reaching(self, model: ModelId) -> list[str]:
        """Return the ids of the live query frontends that reach no replica of `model`, neither directly nor relayed."""
        return list(map(_text, await self._redis.run(scripts.NOT_REACHING, str(model))))


def _cluster_name(cluster_id: str) -> str:
    return printable(cluster_id.rpartition("/")[0] or cluster_id)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
