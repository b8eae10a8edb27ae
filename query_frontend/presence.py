"""What this frontend tells Redis about itself: that it lives, what it serves by, which replicas it has.

Redis may be away at any time; then all of it is told again once it is back.
"""

import asyncio
import logging
from typing import Final

from clipper_common import records
from clipper_common.constants import CONFIG_POLL_SECONDS
from clipper_common.errors import ClipperException
from clipper_common.records import Replica
from clipper_common.store import ConfigStore, StoreError
from query_frontend.registry import Registry
from query_frontend.task_executor import TaskExecutor

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 0.5


class Presence:
    def __init__(
        self, store: ConfigStore, registry: Registry, executor: TaskExecutor, frontend_id: str, cluster_id: str
    ) -> None:
        self._id = frontend_id
        self._store = store
        self._registry = registry
        self._executor = executor
        self._cluster_id = cluster_id
        self._published: dict[str, Replica] = {}
        """By key."""
        self._is_unknown = True
        """What Redis holds: it was not looked at yet, failed, or lost all."""
        self._changed = asyncio.Event()

    def replicas_changed(self) -> None:
        self._changed.set()

    async def publish_replicas(self) -> None:
        """Keep the replicas in Redis as they are here, for ever."""
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._publish()
            except StoreError:
                self._is_unknown = True
                await asyncio.sleep(_RETRY_SECONDS)
                self._changed.set()

    async def _publish(self) -> None:
        if self._is_unknown:
            self._is_unknown = False  # before the wait: `report` may learn meanwhile that Redis lost all again
            await self._store.clear_replicas()  # those of a frontend that is no more
            self._published = {}
        wanted = {replica.key: replica for replica in self._executor.replica_records}
        gone = [replica for key, replica in self._published.items() if key not in wanted]
        new = [replica for key, replica in wanted.items() if self._published.get(key) != replica]
        await self._store.write_replicas([*map(records.delete_replica, gone), *map(records.put_replica, new)])
        self._published = wanted

    async def report(self) -> None:
        """Say that we live and by which revision we serve. Raises `StoreError`."""
        if await self._store.report_applied(self._id, self._registry.revision):
            self._is_unknown = True  # Redis knew nothing of us: it is new, or lost all
            self._changed.set()
        if self._cluster_id:
            await self._store.claim(self._cluster_id)

    async def keep_reporting(self) -> None:
        """`report` each second, for ever."""
        while True:
            try:
                await self.report()
            except StoreError:
                pass  # the follower of the configuration logs it
            except ClipperException as error:
                logger.error("%s", error)
            await asyncio.sleep(CONFIG_POLL_SECONDS)

    async def retire(self) -> None:
        """Leave nothing in Redis that says we are there."""
        await self._store.clear_replicas()
        await self._store.retire_frontend(self._id)
        if self._cluster_id:
            await self._store.release(self._cluster_id)
