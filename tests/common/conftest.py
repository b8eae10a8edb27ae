"""Fixtures: a Redis that a test may stop and start, and stores."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from clipper_common.records import Place, Snapshot
from clipper_common.store import ConfigStore


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[int], ConfigStore]]:
    """Opens stores, and closes them."""
    stores: list[ConfigStore] = []

    def connect(port: int) -> ConfigStore:
        stores.append(ConfigStore("127.0.0.1", port))
        return stores[-1]

    yield connect
    for store in stores:
        await store.close()


@pytest.fixture
def store(connect: Callable[[int], ConfigStore], redis_port: int) -> ConfigStore:
    return connect(redis_port)


class Follower:
    """What `follow` of a store yields, collected by a task."""

    def __init__(self, store: ConfigStore) -> None:
        self.latest: Snapshot | None = None
        self.changed: frozenset[Place] = frozenset()
        self.count = 0
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._run(store))

    async def _run(self, store: ConfigStore) -> None:
        async for update in store.follow():
            async with self._news:
                self.latest, self.count = update.snapshot, self.count + 1
                self.changed = update.changed
                self._news.notify_all()

    async def until(self, holds: Callable[[Snapshot], bool], seconds: float = 10) -> Snapshot:
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: self.latest is not None and holds(self.latest))
        assert self.latest is not None
        return self.latest

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def follow(connect: Callable[[int], ConfigStore]) -> AsyncIterator[Callable[[ConfigStore], Follower]]:
    # Asks for `connect` so that the followers are stopped before their stores are closed.
    followers: list[Follower] = []

    def follow(store: ConfigStore) -> Follower:
        followers.append(Follower(store))
        return followers[-1]

    yield follow
    for follower in followers:
        await follower.stop()
