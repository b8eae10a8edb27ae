"""Tests of the reports of a frontend to a real Redis that fails, loses its data or answers late."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import redis

from clipper_common.datatypes import InputType, ModelId
from clipper_common.layout import LAYOUT
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Replica
from clipper_common.redis_client import RedisClient, StoreError
from clipper_common.wire import Metadata
from query_frontend.cluster.membership import Membership
from query_frontend.rpc.server import ReplicaConnection

MODEL = ModelId("m", "1")


class Frontend:
    """A membership, with the replicas that a test gives it."""

    def __init__(self, port: int, rpc_port: int = 7000, advertise: str = "", cluster_id: str = "") -> None:
        self.redis = RedisClient("127.0.0.1", port)
        self.store = MembershipStore(self.redis)
        self.executor: Any = SimpleNamespace(connections=[], reachable_models=set)
        registry: Any = SimpleNamespace(revision=1)
        self.membership = Membership(self.store, registry, self.executor, advertise, cluster_id, Mock())
        self.membership.listens_on(rpc_port)

    def connect(self, name: str | None = None) -> None:
        metadata = Metadata(MODEL, InputType.INTS, 4 if name else 3, name)
        self.executor.connections.append(ReplicaConnection(len(self.executor.connections), Mock(), metadata, 0.0))

    async def replicas(self) -> list[int]:
        return [replica.replica_id for replica in await self.store.read_replicas()]


@pytest.fixture
async def make(redis_port: int) -> AsyncIterator[Any]:
    made: list[Frontend] = []

    def make(**arguments: Any) -> Frontend:
        made.append(Frontend(redis_port, **arguments))
        return made[-1]

    yield make
    for frontend in made:
        await frontend.redis.close()


async def test_two_frontends_know_each_other_and_share_numbers(make: Any) -> None:
    first, second = make(rpc_port=7000, advertise="first"), make(rpc_port=7001)
    first.connect("both")
    first.connect()
    second.connect()
    second.connect("both")
    for frontend in (first, second, first):
        await frontend.membership.report()
    assert await first.replicas() == [0, 1, 2]
    assert [(peer.id, peer.rpc_address) for peer in first.membership.other_frontends] == [(second.membership.id, "")]
    assert [(peer.rpc_address, peer.models) for peer in second.membership.other_frontends] == [
        ("tcp://first:7000", frozenset({MODEL}))
    ]


async def test_frontends_that_cannot_reach_each_other_say_so_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    first, second = make(rpc_port=7000), make(rpc_port=7001, advertise="second")
    await first.membership.report()
    assert not caplog.text, "it is alone"
    for frontend in (second, first, second, first):
        await frontend.membership.report()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "There are other workers or query frontends, and none of them can reach this one"
    ]
    assert "--advertise" in caplog.text


async def test_an_ipv6_address_is_advertised_as_zeromq_wants_it(make: Any) -> None:
    assert make(rpc_port=7000, advertise="fd00::2").membership.rpc_address == "tcp://[fd00::2]:7000"


async def test_a_frontend_that_goes_takes_only_its_own_along(make: Any) -> None:
    first, second = make(rpc_port=7000, cluster_id="c/1"), make(rpc_port=7001, cluster_id="c/1")
    for frontend in (first, second):
        frontend.connect("both")
        frontend.connect()
        await frontend.membership.report()
    await first.membership.report()
    await first.membership.retire()
    assert await second.replicas() == [0, 2]
    await second.membership.report()
    assert second.membership.other_frontends == []
    await second.store.claim("c/1")  # the cluster still owns its Redis
    await second.membership.retire()
    assert await second.replicas() == []
    await second.store.claim("another/2")


async def test_a_change_is_reported_at_once_and_redis_that_lost_all_is_told_again(make: Any, redis_port: int) -> None:
    frontend = make()
    reporting = asyncio.create_task(frontend.membership.keep_reporting())
    frontend.connect("x")
    frontend.membership.report_soon()
    async with asyncio.timeout(0.8):
        while await frontend.replicas() != [0]:
            await asyncio.sleep(0.005)
    with redis.Redis(port=redis_port) as client:
        client.flushall()
    async with asyncio.timeout(5):
        while await frontend.replicas() != [0]:
            await asyncio.sleep(0.005)
    reporting.cancel()


async def test_the_next_life_in_the_same_place_replaces_the_last(make: Any, redis_port: int) -> None:
    first, second = make(rpc_port=7000), make(rpc_port=7000)
    first.connect()
    await first.membership.report()
    await second.membership.report()
    assert first.membership.id != second.membership.id
    with redis.Redis(port=redis_port, decode_responses=True) as client:
        assert client.keys(LAYOUT.frontends.prefix + "*") == [LAYOUT.frontends.prefix + second.membership.id]
    assert await second.replicas() == []


async def test_a_report_that_fails_is_an_error_of_the_store(own_redis: Any) -> None:
    frontend = Frontend(own_redis.port)
    with pytest.raises(StoreError):
        await frontend.membership.report()
    await asyncio.to_thread(own_redis.start)
    frontend.connect("x")
    await frontend.membership.report()
    assert await frontend.store.read_replicas() == [Replica(MODEL, 0, 0, InputType.INTS)]
    await frontend.redis.close()
