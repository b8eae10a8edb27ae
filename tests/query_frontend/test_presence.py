"""What the frontend tells Redis, when Redis loses it in the worst moment."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from clipper_common import records
from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Replica, Write
from query_frontend.presence import Presence

REPLICA = Replica(ModelId("m", "1"), 0, 0, InputType.DOUBLES)


class ForgetfulStore:
    """Holds replicas; `forget` loses all, as FLUSHALL does."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.knows_us = False
        self.may_write = asyncio.Event()
        self.writes = 0

    def forget(self) -> None:
        self.keys.clear()
        self.knows_us = False

    async def clear_replicas(self) -> None:
        self.keys.clear()

    async def write_replicas(self, writes: Sequence[Write]) -> None:
        self.keys |= {write.command[1] for write in writes if write.command[0] == "HSET"}
        self.writes += 1
        await self.may_write.wait()

    async def report_applied(self, frontend_id: str, revision: int) -> bool:
        is_new, self.knows_us = not self.knows_us, True
        return is_new


async def test_replicas_lost_while_they_are_written_are_written_again() -> None:
    store: Any = ForgetfulStore()
    executor: Any = SimpleNamespace(replica_records=[REPLICA])
    registry: Any = SimpleNamespace(revision=1)
    presence = Presence(store, registry, executor, "me", "")
    await presence.report()
    publishing = asyncio.create_task(presence.publish_replicas())
    async with asyncio.timeout(5):
        while not store.writes:
            await asyncio.sleep(0)
        store.forget()
        await presence.report()
        store.may_write.set()
        while store.keys != {records.put_replica(REPLICA).command[1]}:
            await asyncio.sleep(0)
    publishing.cancel()
