"""The connection to Redis: what it says of one that refuses, and how calls end when Redis is away."""

import asyncio
import socket
from typing import Any

import pytest
import redis

from clipper_common import redis_client
from clipper_common.config_store import ConfigStore
from clipper_common.membership_store import MembershipStore
from clipper_common.redis_client import StoreError, explain, refusal, refusal_at
from clipper_common.snapshot import Snapshot
from tests.common.configurations import WRITES, Connect, RedisAt

# --- a Redis that refuses ---


def test_whoever_asks_first_is_told_why_redis_refuses(refusing_redis: tuple[int, str]) -> None:
    port, said = refusing_redis
    assert said in refusal_at("127.0.0.1", port)


def test_a_read_only_redis_refuses(own_redis: Any) -> None:
    own_redis.start("--replicaof", "127.0.0.1", "1")
    assert "read-only replica" in refusal_at("127.0.0.1", own_redis.port)


def test_asking_changes_nothing(redis_port: int, client: redis.Redis) -> None:
    client.set("clipper:revision", 1)
    assert refusal_at("127.0.0.1", redis_port) == ""
    assert client.info("keyspace").keys() == {"db0"} and client.keys() == ["clipper:revision"]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b", "x" * 70 + ".com"])
def test_a_redis_that_does_not_answer_refuses_nothing(host: str, free_port: int) -> None:
    assert refusal_at(host, free_port) == ""


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "cluster"), TimeoutError("protected mode"), redis.ConnectionError("reset"), OSError()],
)
def test_what_may_pass_is_no_refusal(error: Exception) -> None:
    assert not refusal(error) and explain(error)


# --- calls ---


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.MovedError("5798 127.0.0.1:7000"),
        redis.exceptions.ClusterDownError("Hash slot not served"),
        redis.exceptions.ClusterCrossSlotError("Keys in request don't hash to the same slot"),
        redis.ResponseError("SELECT is not allowed in cluster mode"),
    ],
)
def test_a_redis_in_cluster_mode_refuses(error: Exception) -> None:
    assert "in cluster mode has one" in refusal(error)


async def test_calls_fail_within_seconds_when_redis_is_away(free_port: int, redis_at: RedisAt) -> None:
    store, members = ConfigStore(redis_at(free_port)), MembershipStore(redis_at(free_port))
    async with asyncio.timeout(10):
        for call in (store.read(), store.commit(Snapshot(), WRITES), members.claim("c/1"), members.read_replicas()):
            with pytest.raises(StoreError):
                await call


async def test_a_redis_that_is_stuck_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    monkeypatch.setattr(redis_client, "_CALL_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as stuck:  # connects, and never answers
        store = connect(stuck.getsockname()[1])
        async with asyncio.timeout(5):
            with pytest.raises(StoreError):
                await store.read()


async def test_a_store_works_again_after_redis_restarted(own_redis: Any, connect: Connect) -> None:
    await asyncio.to_thread(own_redis.start)
    store = connect(own_redis.port)
    await store.commit(Snapshot(), WRITES)
    await asyncio.to_thread(own_redis.kill)
    with pytest.raises(StoreError):
        await store.read()
    await asyncio.to_thread(own_redis.start)
    assert await store.read() == Snapshot()


async def test_scripts_are_sent_once_to_each_redis(store: ConfigStore, client: redis.Redis) -> None:
    await store.read()
    client.script_flush()
    client.config_resetstat()
    for _ in range(10):
        await store.read()
    calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in client.info("commandstats").items()}
    assert calls["evalsha"] > 10 and "eval" not in calls
    assert calls["script|load"] < 10
