"""Fixtures: a Redis that a test may stop and start, and stores."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis

from clipper_common.config_store import ConfigStore
from clipper_common.layout import Place
from clipper_common.membership_store import MembershipStore
from clipper_common.redis_client import RedisClient
from clipper_common.snapshot import Snapshot
from tests.common.configurations import Connect, RedisAt


@pytest.fixture
async def redis_at() -> AsyncIterator[RedisAt]:
    """Opens connections to the Redis at a port, and closes them."""
    clients: list[RedisClient] = []

    def redis_at(port: int) -> RedisClient:
        clients.append(RedisClient("127.0.0.1", port))
        return clients[-1]

    yield redis_at
    for client in clients:
        await client.close()


@pytest.fixture
def connect(redis_at: RedisAt) -> Connect:
    """Opens stores of the configuration in the Redis at a port."""
    return lambda port: ConfigStore(redis_at(port))


@pytest.fixture
def store(connect: Connect, redis_port: int) -> ConfigStore:
    return connect(redis_port)


@pytest.fixture
def members(redis_at: RedisAt, redis_port: int) -> MembershipStore:
    return MembershipStore(redis_at(redis_port))


@pytest.fixture
def client(redis_port: int) -> Iterator[redis.Redis]:
    """The same Redis, as Clipper 0.4 or an administrator sees it."""
    with redis.Redis(port=redis_port, decode_responses=True) as client:
        yield client


class Follower:
    """Collects what `follow` of a store yields, in a task."""

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
async def follow(connect: Connect) -> AsyncIterator[Callable[[ConfigStore], Follower]]:
    # Asks for `connect` so that the followers are stopped before their stores are closed.
    followers: list[Follower] = []

    def follow(store: ConfigStore) -> Follower:
        followers.append(Follower(store))
        return followers[-1]

    yield follow
    for follower in followers:
        await follower.stop()
