"""Batches and requests of thousands of inputs: others have their turn while they are queued, answered and given up."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any, cast

import pytest

from clipper_common import long_work, wire
from clipper_common.constants import MAX_BATCH_SIZE
from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Application, Model
from query_frontend.monitoring.metrics import AppMetrics, SystemMetrics
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving import deadlines, delivery, large_outputs, query
from query_frontend.serving.answers import Answer, Default
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.deadlines import DeadlineWheel
from query_frontend.serving.executor import Executor
from query_frontend.serving.model_queue import ModelQueue
from query_frontend.serving.query import Query, QueryContext, Request
from query_frontend.serving.reasons import LAST_REPLICA_DIED, NO_MODELS, QUEUE_FULL
from query_frontend.serving.registry import AppState
from query_frontend.serving.served_model import ServedModel

MODEL = ModelId("m", "1")
MANY = MAX_BATCH_SIZE
GIVE_UP_TURNS = 10_000
FEW_TURNS = 10
AT_ONCE = delivery.STEP_TASKS
SLO_SECONDS = 1000.0


class Rpc:
    """Keeps the batches that replicas are sent."""

    def __init__(self) -> None:
        self.sent: list[wire.PredictRequest] = []
        self.expelled: list[str] = []

    def send_batch(self, _: ReplicaConnection, request: wire.PredictRequest) -> bool:
        self.sent.append(request)
        return True

    def disconnect(self, _: ReplicaConnection, reason: str) -> None:
        self.expelled.append(reason)

    def release(self, _: ReplicaConnection) -> None:
        pass


class Bench:
    """A task executor with one replica of one model, and what was answered."""

    def __init__(self, cache_bytes: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.rpc = Rpc()
        self.executor = Executor(loop, self.rpc, PredictionCache(cache_bytes), SystemMetrics())
        self.context = QueryContext(self.executor, DeadlineWheel(loop))
        self.executor.configure({MODEL: Model(MODEL, InputType.BYTES, batch_size=MANY)}, {MODEL: SLO_SECONDS})
        self.replica = self.join()
        self.answers: dict[bytes, list[Answer | None]] = {}
        self.slo_seconds = SLO_SECONDS

    def join(self) -> ReplicaConnection:
        metadata = wire.Metadata(MODEL, InputType.BYTES, wire.RPC_VERSION_4, "replica", "key")
        connection = ReplicaConnection(0, cast(Any, None), metadata, 0.0)
        assert self.executor.on_replica_joined(connection) is None
        return connection

    def app(self) -> AppState:
        record = Application("app", InputType.BYTES, "default", int(self.slo_seconds * 1e6))
        return AppState(record, ("m",), MODEL, AppMetrics())

    def ask(self, number: int = MANY) -> list[Query]:
        """As many clients ask for one input each."""
        app, now = self.app(), asyncio.get_running_loop().time()
        return [self.submit(app, b"%d" % each, now) for each in range(number)]

    def submit(self, app: AppState, payload: bytes, arrival: float) -> Query:
        query = Query(self.context, app, MODEL, payload, arrival)
        query.submit(self._note)
        return query

    def _note(self, query: Query, _: float) -> None:
        self.answers.setdefault(query.payload, []).append(query.answer)

    async def sent(self, number: int = 1) -> wire.PredictRequest:
        await until(lambda: len(self.rpc.sent) == number)
        return self.rpc.sent[-1]

    def answer(self, request: wire.PredictRequest, size: int = 0, failed: bool = False) -> None:
        outputs = [b'"' + bytes(each) + b"x" * size + b'"' for each in request.inputs]
        self.executor.on_batch_answered(
            self.replica, wire.Response(request.message_id, outputs, [failed] * len(request.inputs))
        )

    async def largest_part(self, number: int = MANY) -> int:
        """Wait for so many answers; how many came in one turn of the loop at most."""
        seen = [0, len(self.answers)]
        while len(self.answers) < number:
            await asyncio.sleep(0)
            seen.append(len(self.answers))
            assert len(seen) < GIVE_UP_TURNS
        return max(after - before for before, after in zip(seen, seen[1:], strict=False))


async def until(condition: Callable[[], bool], turns: int = GIVE_UP_TURNS) -> None:
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("waited in vain")


@pytest.fixture(autouse=True)
def one_step_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(deadlines, "TURN_SECONDS", 0.0)


async def test_others_have_their_turn_while_a_large_batch_is_answered() -> None:
    bench = Bench()
    bench.ask()
    request = await bench.sent()
    assert len(request.inputs) == MANY
    bench.answer(request)
    assert await bench.largest_part() == AT_ONCE
    assert bench.answers == {b"%d" % each: [b'"%d"' % each] for each in range(MANY)}


async def test_others_have_their_turn_while_many_who_asked_the_same_are_answered() -> None:
    bench = Bench(cache_bytes=1 << 20)
    app, now = bench.app(), asyncio.get_running_loop().time()
    answered: list[Query] = []

    def ask() -> Query:
        query = Query(bench.context, app, MODEL, b"same", now)
        query.submit(lambda query, _: answered.append(query))
        return query

    queries = [ask() for _ in range(MANY)]
    request = await bench.sent()
    assert len(request.inputs) == 1
    bench.answer(request)
    seen = [len(answered)]
    while len(answered) < MANY:
        await asyncio.sleep(0)
        seen.append(len(answered))
    assert max(after - before for before, after in zip(seen, seen[1:], strict=False)) == AT_ONCE
    assert answered == queries
    assert {query.answer for query in queries} == {b'"same"'}


async def test_a_large_batch_whose_answers_take_a_few_milliseconds_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_work, "TURN_SECONDS", 1000.0)
    bench = Bench()
    bench.ask()
    bench.answer(await bench.sent())
    assert len(bench.answers) == MANY


async def test_a_small_batch_is_answered_at_once() -> None:
    bench = Bench()
    bench.ask(AT_ONCE)
    bench.answer(await bench.sent())
    assert len(bench.answers) == AT_ONCE


async def test_large_outputs_are_delivered_one_by_one() -> None:
    bench = Bench()
    bench.ask(5)
    bench.answer(await bench.sent(), size=delivery.STEP_BYTES)
    assert await bench.largest_part(5) == 1


async def test_outputs_that_are_too_large_to_be_copied_at_once_are_delivered() -> None:
    bench = Bench()
    bench.ask(3)
    request = await bench.sent()
    outputs = [b'"%b"' % (b"%d" % each * wire.MAX_COPIED_BYTES) for each in range(2)]
    response = wire.Response(request.message_id, [*outputs, b"ValueError: no"], [False, False, True])
    decoded = wire.decode_from_container(wire.encode_response(response, wire.RPC_VERSION_4))
    assert isinstance(decoded, wire.Response)
    bench.executor.on_batch_answered(bench.replica, decoded)
    await bench.largest_part(3)
    assert [bench.answers[b"0"], bench.answers[b"1"]] == [[outputs[0]], [outputs[1]]]
    assert bench.answers[b"2"] == [Default(b'"default"', "The model raised ValueError: no")]


async def test_a_query_whose_batch_is_being_delivered_has_one_answer_by_its_deadline() -> None:
    bench = Bench()
    *_, late, last = bench.ask()
    bench.answer(await bench.sent())
    late.expire()
    last.abandon()
    await bench.largest_part(MANY - 1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert last.payload not in bench.answers
    (answer,) = bench.answers.pop(late.payload)
    assert isinstance(answer, Default)
    assert all(len(answers) == 1 and isinstance(answers[0], bytes) for answers in bench.answers.values())


async def test_who_asks_meanwhile_has_what_is_not_delivered_yet_from_the_cache() -> None:
    bench = Bench(cache_bytes=1 << 24)
    bench.ask()
    bench.answer(await bench.sent())
    assert [query.answer for query in bench.ask()] == [b'"%d"' % each for each in range(MANY)]
    assert await bench.largest_part() == AT_ONCE
    assert len(bench.rpc.sent) == 1


async def test_who_asks_meanwhile_joins_what_failed_and_is_not_told_yet() -> None:
    bench = Bench(cache_bytes=1 << 24)
    bench.ask()
    request = await bench.sent()
    bench.answer(request, failed=True)
    queries = bench.ask()
    again = await bench.sent(2)
    assert again.inputs == request.inputs[:AT_ONCE]
    await until(lambda: all(query.answer is not None for query in queries[AT_ONCE:]))
    assert all(isinstance(query.answer, Default) for query in queries[AT_ONCE:])


async def test_a_replica_computes_one_batch_while_another_is_delivered_and_not_two() -> None:
    bench = Bench()
    bench.ask()
    bench.answer(await bench.sent(1))
    bench.ask(2)
    second = await bench.sent(2)
    assert len(bench.answers) < MANY
    bench.answer(second)
    bench.ask(3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(bench.answers) < MANY and len(bench.rpc.sent) == 2
    await bench.largest_part()
    assert len((await bench.sent(3)).inputs) == 3


async def test_a_replica_may_leave_while_its_answers_are_delivered() -> None:
    bench = Bench()
    bench.ask()
    bench.answer(await bench.sent(1))
    bench.ask(2)
    bench.answer(await bench.sent(2))
    bench.executor.on_replica_lost(bench.replica, "it was stopped")
    await bench.largest_part()
    bench.replica = bench.join()
    bench.ask(1)
    await bench.sent(3)


async def test_others_have_their_turn_while_the_batch_of_a_lost_replica_is_given_up() -> None:
    bench = Bench()
    bench.ask()
    await bench.sent()
    bench.executor.on_replica_lost(bench.replica, "it was stopped")
    assert await bench.largest_part() == AT_ONCE
    assert {answers[0].explanation for answers in bench.answers.values() if isinstance(answers[0], Default)} == {
        LAST_REPLICA_DIED
    }


async def test_others_have_their_turn_while_a_queue_is_given_up() -> None:
    bench = Bench()
    bench.ask(1)
    await bench.sent()
    bench.ask(3 * AT_ONCE)
    bench.executor.configure({MODEL: None}, {})
    assert await bench.largest_part(3 * AT_ONCE) == AT_ONCE
    given = [answer for (answer,) in bench.answers.values()]
    assert all(isinstance(answer, Default) and answer.explanation == NO_MODELS for answer in given)


async def test_others_have_their_turn_while_many_deadlines_end() -> None:
    bench = Bench()
    bench.slo_seconds = 0.05
    bench.ask()
    while not bench.answers:
        await asyncio.sleep(0)  # in which no more than one step is made
    assert await bench.largest_part() == deadlines._AT_ONCE


async def test_others_have_their_turn_while_the_inputs_of_a_request_are_queued() -> None:
    """And all the same they travel in one batch."""
    bench = Bench()
    done = asyncio.Event()
    inputs = [b"%d" % each for each in range(MANY)]
    now = asyncio.get_running_loop().time()
    request = Request(bench.context, bench.app(), MODEL, now, done.set, lambda _: None)
    asking = asyncio.create_task(long_work.finish(request.ask(inputs, inputs)))
    queue = bench.executor._models[MODEL].queue
    seen = [0]
    while not asking.done():
        await asyncio.sleep(0)
        seen.append(len(queue) + sum(len(each.inputs) for each in bench.rpc.sent))
    assert max(after - before for before, after in zip(seen, seen[1:], strict=False)) == query._STEP_QUERIES
    bench.answer(await bench.sent())
    await until(done.is_set)
    assert request.answers == [b'"%b"' % each for each in inputs]
    assert request.answering_model == MODEL


async def test_a_full_batch_does_not_wait_for_the_rest_of_a_request() -> None:
    bench = Bench()
    bench.executor.configure({MODEL: Model(MODEL, InputType.BYTES, batch_size=100)}, {MODEL: SLO_SECONDS})
    inputs = [b"%d" % each for each in range(MANY)]
    now = asyncio.get_running_loop().time()
    request = Request(bench.context, bench.app(), MODEL, now, lambda: None, lambda _: None)
    asking = asyncio.create_task(long_work.finish(request.ask(inputs, inputs)))
    assert len((await bench.sent()).inputs) == 100
    assert not asking.done()
    await asking


async def test_a_query_of_another_does_not_wait_for_the_rest_of_a_request() -> None:
    """Also where the inputs of the request are known, so that none of them is queued."""
    bench = Bench(cache_bytes=1 << 24)
    known = [b"%d" % each for each in range(MANY)]
    bench.ask()
    bench.answer(await bench.sent())
    await until(lambda: len(bench.answers) == MANY)
    now = asyncio.get_running_loop().time()
    for inputs in (known, [b"new %d" % each for each in range(MANY)]):
        request = Request(bench.context, bench.app(), MODEL, now, lambda: None, lambda _: None)
        asking = asyncio.create_task(long_work.finish(request.ask(inputs, inputs)))
        await asyncio.sleep(0)
        other = bench.submit(bench.app(), b"other %b" % inputs[0], now)
        await until(lambda other=other: other.payload in bench.rpc.sent[-1].inputs, FEW_TURNS)  # type: ignore[misc]
        assert not asking.done()
        bench.answer(bench.rpc.sent[-1])
        await asking


async def test_those_that_join_are_limited_as_those_that_are_queued() -> None:
    bench = Bench(cache_bytes=1 << 20)
    bench.executor._models[MODEL].queue = ModelQueue(max_tasks=10)
    app, now = bench.app(), asyncio.get_running_loop().time()

    def ask(many: int) -> list[Query]:
        return [bench.submit(app, bytes(100), now) for _ in range(many)]

    def reasons(queries: list[Query]) -> list[str]:
        return [query.answer.explanation for query in queries if isinstance(query.answer, Default)]

    first = ask(13)
    assert reasons(first) == [QUEUE_FULL] * 2
    assert len({id(query.payload) for query in first[:11]}) == 1, "they hold the same bytes"
    for joined in first[3:6]:
        joined.abandon()
    assert reasons(ask(4)) == [QUEUE_FULL]
    bench.answer(await bench.sent())
    await until(lambda: len(bench.answers.get(bytes(100), [])) == 11)
    bench.executor._models[MODEL].partition.entries.clear()
    assert reasons(ask(11)) == [], "those that are answered make room"


async def test_a_client_may_hang_up_while_its_inputs_are_queued() -> None:
    bench = Bench()
    inputs = [b"%d" % each for each in range(MANY)]
    now = asyncio.get_running_loop().time()
    request = Request(bench.context, bench.app(), MODEL, now, pytest.fail, lambda _: None)
    asking = asyncio.create_task(long_work.finish(request.ask(inputs, inputs)))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    request.abandon()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.executor._models[MODEL].queue) == 0
    assert not bench.executor._models[MODEL].filling, "nobody waits for the rest of that request"


async def test_a_model_that_is_removed_leaves_no_cycle_behind() -> None:
    """Nor may it: the collector does not examine what has been there for long."""
    bench = Bench()
    bench.ask(3)
    bench.answer(await bench.sent())
    gc.disable()
    try:
        before = num_models()
        bench.executor.configure({MODEL: None}, {})
        await until(lambda: num_models() < before, FEW_TURNS)
    finally:
        gc.enable()


def num_models() -> int:
    return sum(isinstance(each, ServedModel) for each in gc.get_objects())


async def test_others_have_their_turn_while_a_large_output_is_embedded() -> None:
    bench = Bench()
    bench.ask(1)
    request = await bench.sent()
    size = 20 * large_outputs.PIECE_BYTES
    bench.answer(request, size)
    turns = 0
    while not bench.answers:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 20 - 1
    assert bench.answers == {b"0": [b'"0' + b"x" * size + b'"']}
