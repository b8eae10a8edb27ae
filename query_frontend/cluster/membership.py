"""What this frontend tells Redis about itself, and learns of the others: who lives, and which replicas they have.

Redis may be away at any time; then all of it is told again once it is back.
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
from clipper_common.link import tcp_address
from clipper_common.membership_store import MembershipStore
from clipper_common.records import UNNUMBERED, Frontend, FrontendReport, Replica
from clipper_common.redis_client import StoreError
from query_frontend.rpc.server import Connection
from query_frontend.serving.executor import Executor
from query_frontend.serving.registry import Registry

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 0.5


class Membership:
    """`advertise` is the host under which others reach this one, empty if that is not known."""

    def __init__(
        self, store: MembershipStore, registry: Registry, executor: Executor, advertise: str, cluster_id: str
    ) -> None:
        self._store = store
        self._registry = registry
        self._executor = executor
        self._advertise = advertise
        self._cluster_id = cluster_id
        self._place = ""
        self.id = ""
        """Of this life in this place."""
        self.rpc_address = ""
        self._was_reported = False
        self._numbers: dict[tuple[ModelId, str], int] = {}
        """Of the replicas here, by model version and name, as Redis gave them."""
        self.peers: list[Frontend] = []
        """The other frontends that live, as far as Redis lets us know."""
        self.reported: Callable[[], None] = lambda: None
        """Called after each report; set by the composition root."""
        self._due = asyncio.Event()
        self._reporting = asyncio.Lock()

    def listens_on(self, rpc_port: int) -> None:
        """Know this frontend's port, which makes up its place: nobody else can have it at the same time."""
        self._place = f"{socket.gethostname()}:{rpc_port}:"
        self.id = self._place + uuid.uuid4().hex[:12]
        self.rpc_address = tcp_address(self._advertise, rpc_port) if self._advertise else ""

    def report_soon(self) -> None:
        """Something changed."""
        self._due.set()

    async def keep_reporting(self) -> None:
        """`report` each second and soon after each change, for ever."""
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

    async def follow_peers(self) -> None:
        """`report` soon after each change that a peer tells Redis of, for ever: so we learn of it."""
        while True:
            with contextlib.suppress(*StoreError):  # the follower of the configuration logs it
                async for _ in self._store.follow_frontends():
                    self.report_soon()
            await asyncio.sleep(_RETRY_SECONDS)

    async def report(self) -> None:
        """Say that we live, by which revision we serve and which replicas are here. Raises `StoreError`."""
        async with self._reporting:
            replicas = [(self._name(connection), self._record(connection)) for connection in self._executor.connections]
            reached = frozenset(self._executor.reachable_models())
            report = FrontendReport(self.id, self._registry.revision, self.rpc_address, replicas, reached)
            numbers, frontends = await self._store.report(report, "" if self._was_reported else self._place)
            self._was_reported = True
            names = [(replica.model, name) for name, replica in replicas]
            self._numbers = dict(zip(names, numbers, strict=True))
            self.peers = [frontend for frontend in frontends if frontend.id != self.id]
            self.reported()
            if self._cluster_id:
                await self._store.claim(self._cluster_id)

    def _record(self, connection: Connection) -> Replica:
        metadata = connection.metadata
        number = self._numbers.get((metadata.model, self._name(connection)), UNNUMBERED)
        return Replica(metadata.model, number, connection.number, metadata.input_type)

    def _name(self, connection: Connection) -> str:
        """The same at all frontends, for a container that connects to several; else of this connection alone."""
        return connection.metadata.replica_id or f"{self.id}/{connection.number}"

    async def retire(self) -> None:
        """Leave nothing in Redis that says we are there."""
        await self._store.retire_frontend(self.id)
        if self._cluster_id and not self.peers:
            await self._store.release(self._cluster_id)
