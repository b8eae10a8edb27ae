"""Requests of many inputs: asked in parts, done once."""

import asyncio
import time
from typing import Any

import pytest

from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Application, Model
from clipper_common.wire import Metadata, PredictRequest, Response
from query_frontend.monitoring.metrics import AppMetrics, SystemMetrics
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving import query
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.deadlines import DeadlineWheel
from query_frontend.serving.executor import Executor
from query_frontend.serving.query import QueryContext, Request
from query_frontend.serving.registry import AppState

MODEL = ModelId("m", "1")
AT_ONCE = query._STEP_QUERIES
MANY = 2 * AT_ONCE + 2


class Asked:
    """A request, and the replica that gets its inputs."""

    def __init__(self, model: ModelId | None = MODEL, batch_size: int = 4096) -> None:
        self.batches: list[PredictRequest] = []
        self.done = 0
        rpc: Any = self
        self.executor = Executor(asyncio.get_running_loop(), rpc, PredictionCache(1 << 20), SystemMetrics())
        self.executor.configure({MODEL: Model(MODEL, InputType.BYTES, batch_size=batch_size)}, {MODEL: 60.0})
        peer: Any = None
        self._replica = ReplicaConnection(0, peer, Metadata(MODEL, InputType.BYTES, 3), 0.0)
        self.executor.on_replica_joined(self._replica)
        context = QueryContext(self.executor, DeadlineWheel(asyncio.get_running_loop()))
        app = AppState(Application("app", InputType.BYTES, "-1", 60_000_000), ("m",), MODEL, AppMetrics())
        self.request = Request(context, app, model, time.monotonic(), self._on_done, lambda size: None)

    def _on_done(self) -> None:
        self.done += 1

    def send_batch(self, _: ReplicaConnection, batch: PredictRequest) -> bool:
        self.batches.append(batch)
        return True

    async def answer(self) -> int:
        """Let the replica answer what it has after a turn of the event loop; how many inputs."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        batches, self.batches = self.batches, []
        for batch in batches:
            many = len(batch.inputs)
            self.executor.on_batch_answered(self._replica, Response(batch.message_id, [b"1"] * many, [False] * many))
        return sum(len(batch.inputs) for batch in batches)


def inputs(many: int) -> list[bytes]:
    return [b"%d" % number for number in range(many)]


@pytest.mark.parametrize("answers_at_once", [False, True])
async def test_inputs_are_asked_in_parts_and_answered_once(answers_at_once: bool) -> None:
    """Also where the first of them are answered before the last are asked."""
    asked, answered = Asked(batch_size=AT_ONCE if answers_at_once else 4096), 0
    for count, _ in enumerate(asked.request.ask(inputs(MANY), inputs(MANY)), 1):
        assert len(asked.request._queries) == count * AT_ONCE
        if answers_at_once:
            answered += await asked.answer()
            assert answered == count * AT_ONCE
    assert count == 2
    assert asked.done == 0
    async with asyncio.timeout(10):
        while answered < MANY:
            answered += await asked.answer()
        while not asked.done:  # outputs are delivered in steps, too
            await asyncio.sleep(0)
    assert asked.done == 1
    assert asked.request.answers == [b"1"] * MANY
    assert asked.request.answering_model == MODEL


async def test_what_was_not_asked_yet_when_the_client_left_is_not_asked() -> None:
    asked = Asked()
    next(asked.request.ask(inputs(MANY), inputs(MANY)))
    asked.request.abandon()
    assert await asked.answer() == 0
    assert asked.done == 0


@pytest.mark.parametrize("many", [0, 1, MANY])
async def test_what_is_answered_at_once_is_done_at_the_end(many: int) -> None:
    asked = Asked(model=None)
    for _ in asked.request.ask(inputs(many), inputs(many)):
        assert asked.done == 0
    assert asked.done == 1
    assert len(asked.request.answers) == many
