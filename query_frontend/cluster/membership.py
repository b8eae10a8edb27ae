"""Cluster membership: reports this frontend and its replicas to Redis, and reads those of the other frontends.

Redis may be unavailable at any time; everything is reported again once it is back.
"""

import asyncio
import contextlib
import logging
import socket
import uuid
from collections.abc import Callable
from typing import Final

from clipper_common.constants import CONFIG_POLL_SECONDS
from clipper_common.datatypes import ModelId
from clipper_common.errors import ClipperException
from clipper_common.membership_store import MembershipStore
from clipper_common.records import UNNUMBERED, Frontend, FrontendReport, Replica
from clipper_common.redis_client import StoreError
from clipper_common.rpc_client import tcp_address
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving.executor import Executor
from query_frontend.serving.registry import Registry

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 0.5


class Membership:
    """Reports this frontend to Redis, and knows the other live frontends.

    `advertise` is the host by which peers and containers reach this frontend; empty if it is not known.
    """

    def __init__(
        self,
        store: MembershipStore,
        registry: Registry,
        executor: Executor,
        advertise: str,
        cluster_id: str,
        reported: Callable[[], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._executor = executor
        self._advertise = advertise
        self._cluster_id = cluster_id
        self._place = ""
        self.id = ""
        """Identifies this process: host, RPC port and a random part."""
        self.rpc_address = ""
        self._was_reported = False
        self._has_warned = False
        self._numbers: dict[tuple[ModelId, str], int] = {}
        """The numbers that Redis gave to the replicas here, by model version and name."""
        self.other_frontends: list[Frontend] = []
        """The other live frontends, by the last report that reached Redis."""
        self._reported = reported
        """Called after each report."""
        self._due = asyncio.Event()
        self._reporting = asyncio.Lock()

    def listens_on(self, rpc_port: int) -> None:
        """Set the RPC port of this frontend. Host and port identify its place: no other process has them meanwhile."""
        self._place = f"{socket.gethostname()}:{rpc_port}:"
        self.id = self._place + uuid.uuid4().hex[:12]
        self.rpc_address = tcp_address(self._advertise, rpc_port) if self._advertise else ""

    def report_soon(self) -> None:
        """Make `keep_reporting` report now, since something has changed."""
        self._due.set()

    async def keep_reporting(self) -> None:
        """Call `report` each second and soon after each change, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIG_POLL_SECONDS):
                    await self._due.wait()
            self._due.clear()
            try:
                await self.report()
            except StoreError:  # the follower of the configuration logs it
                await asyncio.sleep(_RETRY_SECONDS)
                self._due.set()
            except ClipperException as error:
                logger.error("%s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def follow_other_frontends(self) -> None:
        """Call `report`, which reads the other frontends, soon after each change that one of them reports, until
        cancelled."""
        while True:
            with contextlib.suppress(*StoreError):  # the follower of the configuration logs it
                async for _ in self._store.follow_frontends():
                    self.report_soon()
            await asyncio.sleep(_RETRY_SECONDS)

    async def report(self) -> None:
        """Report this frontend as alive, with its revision of the configuration and replicas. Raises `StoreError`."""
        async with self._reporting:
            replicas = [(self._name(connection), self._record(connection)) for connection in self._executor.connections]
            reached = frozenset(self._executor.reachable_models())
            report = FrontendReport(self.id, self._registry.revision, self.rpc_address, replicas, reached)
            numbers, frontends = await self._store.report(report, "" if self._was_reported else self._place)
            self._was_reported = True
            names = [(replica.model_id, name) for name, replica in replicas]
            self._numbers = dict(zip(names, numbers, strict=True))
            self.other_frontends = [frontend for frontend in frontends if frontend.id != self.id]
            self._warn_if_unreachable()
            self._reported()
            if self._cluster_id:
                await self._store.claim(self._cluster_id)

    def _warn_if_unreachable(self) -> None:
        if self.other_frontends and not self.rpc_address and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "There are other workers or query frontends, and none of them can reach this one: queries that come "
                "here are only answered by the replicas that happen to be connected here. Start it with "
                "--advertise=<the host by which model containers and other frontends reach it>"
            )

    def _record(self, connection: ReplicaConnection) -> Replica:
        metadata = connection.metadata
        number = self._numbers.get((metadata.model_id, self._name(connection)), UNNUMBERED)
        return Replica(metadata.model_id, number, connection.number, metadata.input_type)

    def _name(self, connection: ReplicaConnection) -> str:
        """Return the replica id, which is the same at all frontends, or a name of this connection if it has none."""
        return connection.metadata.replica_id or f"{self.id}/{connection.number}"

    async def retire(self) -> None:
        """Remove the records of this frontend from Redis. Raises `StoreError`."""
        await self._store.retire_frontend(self.id)
        if self._cluster_id and not self.other_frontends:
            await self._store.release(self._cluster_id)
