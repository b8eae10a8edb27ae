"""The ids of batches, and which replica gets a batch again."""

import asyncio
import tracemalloc
from itertools import islice
from typing import Any, cast

import pytest

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Model
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving import executor
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.model_queue import Task

MANY = 100_000
MODEL = ModelId("m", "1")
A_TURN_AND_MORE = 5


def test_ids_that_were_used_take_no_memory() -> None:
    ids = executor._message_ids()
    assert list(islice(ids, 3)) == [0, 1, 2]
    tracemalloc.start()
    try:
        next(islice(ids, MANY, None))
        assert tracemalloc.get_traced_memory()[0] < MANY
    finally:
        tracemalloc.stop()


def test_ids_begin_anew_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MESSAGE_ID_LIMIT", 3)
    assert list(islice(executor._message_ids(), 7)) == [0, 1, 2, 0, 1, 2, 0]


class Rpc:
    """Notes which replica was sent which inputs."""

    def __init__(self) -> None:
        self.sent: list[tuple[ReplicaConnection, wire.PredictRequest]] = []

    def send_batch(self, connection: ReplicaConnection, request: wire.PredictRequest) -> bool:
        self.sent.append((connection, request))
        return True

    def disconnect(self, connection: ReplicaConnection, reason: str) -> None:
        raise AssertionError(f"{connection} is disconnected: {reason}")

    def release(self, connection: ReplicaConnection) -> None:
        raise AssertionError(f"{connection} is released")


class Input(Task):
    def resolve(self, output: bytes | None, reason: str, now: float) -> None:
        self.is_waiting = False


class Relayed(Input):
    is_relayed = True


async def test_an_input_that_was_relayed_here_is_not_tried_again_by_a_relay() -> None:
    """Its replica ended, another is busy, and only a relay is idle: two frontends might relay it to each other."""
    rpc = Rpc()
    tasks = executor.Executor(asyncio.get_running_loop(), rpc, PredictionCache(0), SystemMetrics())
    tasks.configure({MODEL: Model(MODEL, InputType.BYTES)}, {MODEL: 1000.0})
    first, second, relay = (
        ReplicaConnection(0, cast(Any, None), wire.Metadata(MODEL, InputType.BYTES, 4, name, "key", True), 0.0)
        for name in ("first", "second", f"{wire.RELAY_PREFIX}frontend/m:1/0")
    )
    deadline = asyncio.get_running_loop().time() + 1000
    for connection, task in ((first, Relayed(b"relayed", deadline)), (second, Input(b"other", deadline))):
        assert tasks.on_replica_joined(connection) is None
        tasks.submit(MODEL, task)
        await turns()
    assert [connection for connection, _ in rpc.sent] == [first, second]
    assert tasks.on_replica_joined(relay) is None
    tasks.on_replica_lost(first, "it closed its connection")
    await turns()
    assert len(rpc.sent) == 2
    tasks.on_batch_answered(second, wire.Response(rpc.sent[1][1].message_id, [b"1"], [False]))
    await turns()
    connection, request = rpc.sent[2]
    assert connection is second and list(request.inputs) == [b"relayed"]


async def turns() -> None:
    for _ in range(A_TURN_AND_MORE):
        await asyncio.sleep(0)
