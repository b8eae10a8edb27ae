"""Containers of RPC version 3, which are connected to one of several frontends, serve all of them."""

import asyncio
import functools
import re
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import zmq
import zmq.asyncio

from clipper_common import changes, wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Frontend as Peer
from clipper_common.records import Model
from clipper_common.wire import Metadata
from query_frontend.cluster.relay import Relay, RelayId, wanted_relays
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.deadlines import DeadlineWheel
from query_frontend.serving.executor import Executor
from query_frontend.serving.model_queue import Task
from query_frontend.serving.query import QueryContext
from tests.conftest import OwnRedis
from tests.query_frontend.cluster.test_frontends import Clients, Start, is_served, numbers, start, wait_until_served
from tests.query_frontend.conftest import Frontend, RawContainer, running_container, wait_for

__all__ = ["start"]

pytestmark = pytest.mark.integration

MODEL = ModelId("m", "1")
Outputs = Callable[[bytes], bytes]


def echo(payload: bytes) -> bytes:
    return b"%r" % struct.unpack("<d", payload[:8])[0]


class OldContainer:
    """A container of version 3, or of another, in a thread: it answers each batch by `output`, after `seconds`."""

    def __init__(self, frontend: Frontend, output: Outputs = echo, seconds: float = 0.0, version: int = 3) -> None:
        self._raw = RawContainer(frontend.rpc_port)
        self._raw.join(Metadata(MODEL, InputType.DOUBLES, version, "one link" if version == 4 else None))
        self._output, self._seconds, self._version = output, seconds, version
        self._stopped = threading.Event()
        self.batches: list[int] = []
        """Their sizes."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        heartbeat_at = 0.0
        while not self._stopped.is_set():
            if time.monotonic() > heartbeat_at:
                heartbeat_at = time.monotonic() + 1
                self._raw.socket.send_multipart(wire.encode_heartbeat())
            if not self._raw.socket.poll(20):
                continue
            message = wire.decode_from_frontend(self._raw.socket.recv_multipart())
            if isinstance(message, wire.PredictRequest):
                self.batches.append(len(message.inputs))
                if not self._stopped.wait(self._seconds):
                    self._answer(message)
        self._raw.close()

    def _answer(self, request: wire.PredictRequest) -> None:
        outputs = list(map(self._output, request.inputs))
        failed = [output.startswith(b"ValueError") for output in outputs]
        self._raw.answer(request, outputs, self._version, failed=failed)

    def kill(self) -> None:
        self._stopped.set()
        self._thread.join(10)


@contextmanager
def old_container(frontend: Frontend, *arguments: Any, **options: Any) -> Iterator[OldContainer]:
    container = OldContainer(frontend, *arguments, **options)
    try:
        yield container
    finally:
        container.kill()


def relays(frontend: Frontend) -> list[str]:
    """Return the relays that were opened and closed, in order, from the log of the frontend that relays."""
    return re.findall(r"relaying \S+ for the query frontend at \S+( no more)?", frontend.log.read_text())


@pytest.mark.parametrize("number", [2, 3])
def test_a_version_3_container_serves_all_frontends(start: Start, number: int) -> None:
    frontends = [start() for _ in range(number)]
    frontends[0].serve("app", slo_ms=3000)
    with old_container(frontends[1]):
        wait_until_served(*frontends)
        assert numbers(frontends[0]) == [0], "a relay is nobody's replica"
        with Clients("app", frontends) as clients:
            clients.wait_for(100)
        assert clients.defaults() == []
        assert relays(frontends[1]) == [""] * (number - 1)
        assert all(relays(frontend) == [] for frontend in frontends if frontend is not frontends[1])


def test_a_relayed_query_counts_once(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=5000)

    def count(category: str, name: str, field: str, *frontends: Frontend) -> int:
        metrics = [frontend.metric(category, name) for frontend in frontends]
        return sum(int(metric[field]) for metric in metrics if metric is not None)

    def counts(*frontends: Frontend) -> list[int]:
        return [
            count("counters", "app:app:num_predictions", "count", *frontends),
            count("counters", "model:m:1:num_predictions", "count", *frontends),
            count("counters", "internal:aggregate_num_predictions", "count", *frontends),
            count("histograms", "model:m:1:prediction_latency", "size", *frontends),
        ]

    with old_container(first):
        wait_until_served(first, second)
        before, before_second = counts(first, second), counts(second)
        for number in range(10):
            assert second.predict("app", input=[float(number)])["default"] is False
        assert first.predict("app", input=[0.5])["default"] is False
        assert counts(first, second) == [known + 11 for known in before]
        assert counts(second) == [*(known + 10 for known in before_second[:3]), 0]


async def test_a_stall_of_our_own_is_no_silence_of_the_peer() -> None:
    loop, metrics = asyncio.get_running_loop(), SystemMetrics()
    context = QueryContext(Executor(loop, Mock(), PredictionCache(0), metrics), DeadlineWheel(loop))
    with zmq.asyncio.Context() as zmq_context, zmq_context.socket(zmq.ROUTER) as peer:
        port = peer.bind_to_random_port("tcp://127.0.0.1")
        relay = Relay(context, RelayId(f"tcp://127.0.0.1:{port}", MODEL, 0), InputType.DOUBLES, "peer:x", "key")
        relay.start()
        async with asyncio.timeout(10):
            first, *_ = await peer.recv_multipart()
            await peer.send_multipart([first, *wire.encode_heartbeat_reply(wire.HeartbeatType.KEEP_ALIVE, 4)])
            while not relay.client.registered:
                await asyncio.sleep(0.005)
        now = time.monotonic()
        for seconds in (0, 60, 62, 64):
            relay.tick(now + seconds)
        assert relay.client.registered, "nothing was read in the 60 seconds"
        relay.tick(now + 66)
        assert not relay.client.registered
        async with asyncio.timeout(10):
            while (await peer.recv_multipart())[0] == first:
                pass  # until it has connected anew
        relay.close()


def test_outputs_of_a_batch_keep_their_order_and_errors_are_per_input(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=3000)

    def picky(payload: bytes) -> bytes:
        output = echo(payload)
        return b"ValueError: no threes" if output == b"3.0" else b"text " + output

    with old_container(first, picky, version=4):
        wait_until_served(second)
        inputs = [[float(number)] for number in range(8)]
        answers = [frontend.predict("app", input_batch=inputs)["batch_predictions"] for frontend in (second, first)]
    for answer in answers:
        assert [entry["output"] for entry in answer] == [
            "default" if number == 3 else f"text {float(number)}" for number in range(8)
        ]
        assert answer[3]["default_explanation"] == "The model raised ValueError: no threes"


def test_a_relayed_query_has_its_answer_by_its_deadline(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=300)
    with old_container(first) as quick:
        wait_until_served(second)
        quick._seconds = 5.0
        began = time.monotonic()
        answer = second.predict("app", input=[0.5])
        assert time.monotonic() - began < 2.0
        assert (
            answer["default_explanation"] == "Failed to retrieve a prediction response within the specified latency SLO"
        )


class KeepingExecutor(Executor):
    """An executor that keeps the tasks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, Mock(), PredictionCache(0), SystemMetrics())
        self.tasks: list[Task] = []

    def is_direct(self, model_id: ModelId) -> bool:
        return model_id == MODEL

    def slo_seconds(self, model_id: ModelId) -> float:
        return 0.05

    def submit(self, model_id: ModelId, task: Task) -> None:
        self.tasks.append(task)


class RelayAndPeer:
    """A relay to a scripted peer."""

    def __init__(self, peer: Any) -> None:
        loop = asyncio.get_running_loop()
        self.peer = peer
        executor = KeepingExecutor(loop)
        self.tasks = executor.tasks
        context = QueryContext(executor, DeadlineWheel(loop))
        port = peer.bind_to_random_port("tcp://127.0.0.1")
        self.relay = Relay(context, RelayId(f"tcp://127.0.0.1:{port}", MODEL, 0), InputType.DOUBLES, "peer:x", "key")
        self.relay.start()

    async def receive(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(10):
            while True:
                self.identity, *frames = await self.peer.recv_multipart()
                if isinstance(message := wire.decode_from_container(frames), kind):
                    return message

    async def send(self, frames: list[Any]) -> None:
        await self.peer.send_multipart([self.identity, *frames])

    async def ask(self, *remaining_seconds: float) -> None:
        """Send a batch with the remaining time of each input, or of two inputs without."""
        micros = [int(seconds * 1e6) for seconds in remaining_seconds] or None
        request = wire.PredictRequest(7, InputType.DOUBLES, [bytes(8)] * (len(remaining_seconds) or 2), micros)
        await self.send(wire.encode_predict_request(request, 4))
        async with asyncio.timeout(10):
            while len(self.tasks) < len(request.inputs):
                await asyncio.sleep(0.002)


@pytest.fixture
async def scripted() -> AsyncIterator[RelayAndPeer]:
    with zmq.asyncio.Context() as zmq_context, zmq_context.socket(zmq.ROUTER) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        both = RelayAndPeer(peer)
        await both.receive(wire.Heartbeat)
        await both.send(wire.encode_heartbeat_reply(wire.HeartbeatType.REQUEST_METADATA, 3))
        assert (await both.receive(Metadata)).takes_deadlines
        yield both
        both.relay.close()


async def test_the_remaining_time_of_each_query_travels_along(scripted: RelayAndPeer) -> None:
    asked_at = time.monotonic()
    await scripted.ask(3.0, 0.02, 1.0)
    since = [task.deadline - asked_at for task in scripted.tasks]
    assert [round(seconds - since[1], 6) for seconds in since] == [2.98, 0.0, 0.98]
    assert 0.02 <= since[1] < 5.0
    assert (await scripted.receive(wire.Response)).positions == (1,), "its time is over"
    scripted.tasks[0].resolve(b"0", "", 0.0)
    assert (await scripted.receive(wire.Response)) == wire.Response(7, [b"0"], [False], (0,))


async def test_a_relayed_batch_is_answered_query_by_query(scripted: RelayAndPeer) -> None:
    await scripted.ask(9.0, 9.0, 9.0, 9.0)
    first, second, third, fourth = scripted.tasks
    third.resolve(b"3", "", 0.0)
    first.resolve(None, "no", 0.0)
    answer = await scripted.receive(wire.Response)
    assert answer == wire.Response(7, [b"3", b"no"], [False, True], (2, 0)), (
        "those of a turn of the loop travel together"
    )
    fourth.resolve(b"4", "", 0.0)
    second.resolve(b"2", "", 0.0)
    assert await scripted.receive(wire.Response) == wire.Response(7, [b"4", b"2"], [False, False], (3, 1))


async def test_a_batch_that_is_answered_at_once_is_answered_as_a_whole(scripted: RelayAndPeer) -> None:
    await scripted.ask(9.0, 9.0)
    for task, output in zip(scripted.tasks, (b"1", b"2"), strict=True):
        task.resolve(output, "", 0.0)
    assert await scripted.receive(wire.Response) == wire.Response(7, [b"1", b"2"], [False, False])


async def test_a_frontend_that_tells_no_deadlines_is_answered_as_a_whole(scripted: RelayAndPeer) -> None:
    """As those do that were built before deadlines travelled: the model's shortest SLO is taken."""
    asked_at = time.monotonic()
    await scripted.ask()
    first, second = scripted.tasks
    assert first.deadline == second.deadline and 0.05 <= first.deadline - asked_at < 5.0
    first.resolve(b"1", "", 0.0)
    assert await scripted.receive(wire.Response) == wire.Response(
        7, [b"1", b"Failed to retrieve a prediction response within the specified latency SLO"], [False, True]
    )


def test_a_patient_query_has_its_own_time_behind_a_relay(start: Start) -> None:
    first, second = start(), start()
    first.serve("hasty", slo_ms=50)
    first.serve("patient", slo_ms=5000)
    with old_container(first, seconds=0.3):
        wait_for(lambda: is_served(second, "patient"), "it is served", 15)
        for number in range(3):
            answer = second.predict("patient", input=[float(number)])
            assert answer["default"] is False and answer["output"] == number


@contextmanager
def scripted_relay(frontend: Frontend) -> Iterator[RawContainer]:
    """A relay by hand, as which a frontend that takes deadlines introduces itself."""
    relay = RawContainer(frontend.rpc_port)
    relay.join(Metadata(MODEL, InputType.DOUBLES, 4, "peer:x", "key", takes_deadlines=True))
    assert wire.decode_from_frontend(relay.receive()) == wire.HeartbeatReply(wire.HeartbeatType.KEEP_ALIVE)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def asked(frontend: Frontend, relay: RawContainer) -> Iterator[tuple[dict[float, Future[Any]], wire.PredictRequest]]:
    """Three queries in one batch of the relay, and the batch."""

    def lookups() -> int:
        return int((frontend.metric("counters", "internal:prediction_cache_lookups") or {"count": "0"})["count"])

    with ThreadPoolExecutor() as pool:
        blocking = pool.submit(frontend.predict, "app", input=[0.0])
        request = relay.receive_batch()
        assert request.remaining_micros is not None and 0 < request.remaining_micros[0] <= 10_000_000
        before = lookups()
        replies = {number: pool.submit(frontend.predict, "app", input=[number]) for number in (1.0, 2.0, 3.0)}
        wait_for(lambda: lookups() == before + 3, "all are queued")
        relay.answer(request, [b"0.0"], 4)
        assert blocking.result()["output"] == 0.0
        yield replies, relay.receive_batch()


def test_parts_of_a_batch_are_delivered_as_they_come(start: Start) -> None:
    frontend = start()
    frontend.serve("app", slo_ms=10_000, batch_size=3)
    with scripted_relay(frontend) as relay, asked(frontend, relay) as (replies, request):
        numbers = [struct.unpack("<d", payload)[0] for payload in request.inputs]
        relay.answer(request, [echo(request.inputs[2])], 4, positions=[2])
        assert replies[numbers[2]].result(5)["output"] == numbers[2]
        assert not replies[numbers[0]].done() and not replies[numbers[1]].done()
        relay.answer(request, [b"ValueError: no", echo(request.inputs[0])], 4, positions=[1, 0], failed=[True, False])
        assert replies[numbers[0]].result(5)["output"] == numbers[0]
        assert replies[numbers[1]].result(5)["default_explanation"] == "ValueError: no"
        next_reply = threading.Thread(target=frontend.predict, args=["app"], kwargs={"input": [4.0]})
        next_reply.start()
        relay.answer(relay.receive_batch(), [b"4.0"], 4)
        next_reply.join()


@pytest.mark.parametrize("positions", [[2], [0, 0], [3], []])
def test_parts_that_make_no_sense_end_the_relay_and_what_is_left_goes_to_another(
    start: Start, positions: list[int]
) -> None:
    frontend = start()
    frontend.serve("app", slo_ms=10_000, batch_size=3)
    with scripted_relay(frontend) as relay, asked(frontend, relay) as (replies, request):
        relay.answer(request, [b"2.5"], 4, positions=[2])
        with old_container(frontend):
            frontend.wait_for_replicas(1)
            relay.answer(request, [b"0"] * len(positions), 4, positions=positions)
            outputs = sorted(reply.result(10)["output"] for reply in replies.values())
        assert "it answered inputs of its batch that it was not sent, or had answered" in frontend.log.read_text()
        last = struct.unpack("<d", request.inputs[2])[0]
        assert outputs == sorted({1.0, 2.0, 3.0} - {last} | {2.5})


def test_when_the_container_dies_the_next_one_serves(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=500)
    with old_container(first, seconds=0.005) as dying, Clients("app", [first, second]) as clients:
        wait_until_served(second)
        dying.kill()
        wait_for(lambda: relays(first) == ["", " no more"], "the relay ends with its replica")
        wait_for(lambda: not is_served(second), "nobody is left")
        with old_container(first):
            wait_until_served(second)
            clients.wait_for(50)
            wrong = [answer for answer in clients.defaults() if not answer["default_explanation"]]
            assert wrong == []


def test_when_the_relaying_frontend_dies_another_one_serves_what_it_had(start: Start) -> None:
    first, second, third = start(), start(), start()
    first.serve("app", slo_ms=10_000)
    with old_container(first, seconds=0.01), old_container(second, seconds=0.01):
        wait_until_served(third)
        wait_for(lambda: len(relays(first)) == len(relays(second)) == 2, "both relay to both others")
        with Clients("app", [third], of_each=4) as clients:
            clients.wait_for(50)
            first.process.kill()
            clients.wait_for(100)
        assert clients.defaults() == [], "what the dead one had was queued again"


def test_when_the_only_relaying_frontend_dies_there_are_defaults(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=1000)
    with old_container(first):
        wait_until_served(second)
        first.process.kill()
        wait_for(
            lambda: (
                second.predict("app", input=[time.time()]).get("default_explanation")
                == "No connected models found for query"
            ),
            "it is noticed",
        )


def test_a_replica_of_its_own_leaves_a_frontend_those_of_the_others(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=5000, batch_size=1)
    with ExitStack() as stack:
        own = stack.enter_context(old_container(second, seconds=0.01))
        theirs = [stack.enter_context(old_container(first, seconds=0.01)) for _ in range(2)]
        wait_for(lambda: len(relays(first)) == 2, "a relay for each replica there")
        wait_for(lambda: len(relays(second)) == 1, "and one for its own")
        wait_until_served(first, second)
        with Clients("app", [second], of_each=6) as clients:
            clients.wait_for(150)
        assert clients.defaults() == []
        shares = [len(container.batches) for container in (own, *theirs)]
        assert min(shares) > max(shares) / 2, shares


def test_when_its_own_replica_is_gone_those_of_the_others_serve(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=5000)
    with old_container(first):
        wait_until_served(second)
        with Clients("app", [second], of_each=4) as clients:
            with old_container(second) as own:
                wait_for(lambda: own.batches, "its own replica serves it")
                clients.wait_for(50)
            clients.wait_for(50)  # its own is gone
        assert clients.defaults() == []
        assert relays(first) == [""]


def test_frontends_that_relay_to_each_other_do_not_wait_for_each_other(start: Start) -> None:
    """The same inputs are asked of both at the same time, so each could have the other's query join its own."""
    frontends = first, second = start(), start()
    first.serve("app", slo_ms=5000, batch_size=1)
    with (
        old_container(first, seconds=0.002),
        old_container(second, seconds=0.002),
        ThreadPoolExecutor(16) as pool,
    ):
        wait_for(lambda: len(relays(first)) == len(relays(second)) == 1, "each relays for the other")
        wait_until_served(first, second)
        began = time.monotonic()
        asked = [(number, frontend) for number in range(300) for frontend in frontends]
        answers = pool.map(lambda one: one[1].predict("app", input=[float(one[0])]), asked)
        assert [answer["output"] for answer in answers] == [number for number, _ in asked]
        assert time.monotonic() - began < 5, "none waited for its deadline"


def test_what_was_relayed_is_not_lost_with_the_last_replica_there(start: Start) -> None:
    """The peer gives it to its own."""
    first, second = start(), start()
    first.serve("app", slo_ms=10_000, batch_size=1)
    with old_container(second, seconds=0.01), Clients("app", [second], of_each=8) as clients:
        clients.wait_for(20)
        for _ in range(3):
            with old_container(first, seconds=0.01) as theirs:
                wait_for(lambda: len(theirs.batches) > 10, "it answers those of the other")
            clients.wait_for(20)
    assert clients.defaults() == []


def test_a_relayed_batch_is_delayed_once(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=5000)
    first.configure(changes.put_model(Model(MODEL, InputType.DOUBLES, batch_delay_micros=400_000)))
    with old_container(first):
        wait_until_served(second)
        began = time.monotonic()
        assert second.predict("app", input=[0.25])["output"] == 0.25
        assert 0.4 <= time.monotonic() - began < 0.7


def test_a_replica_is_reached_by_all_before_its_model_is_registered(start: Start) -> None:
    first, second = start(), start()
    without = functools.partial(first.with_redis, lambda redis: MembershipStore(redis).not_reaching(MODEL))
    with old_container(first):
        began = time.monotonic()
        wait_for(lambda: without() == [], "both say that they reach it")
        assert time.monotonic() - began < 0.9, "a relay need not wait"
        first.serve("app")
        assert is_served(second)
    wait_for(lambda: len(without()) == 2, "it is gone for both")


def test_which_relays_are_wanted() -> None:
    def connections(*versions: int) -> list[Any]:
        return [SimpleNamespace(rpc_version=version) for version in versions]

    peer = Peer("p", "tcp://peer:1", frozenset())
    with_own = Peer("q", "tcp://other:1", frozenset({MODEL}))
    unreachable = Peer("r", "", frozenset())

    def wanted(peers: list[Peer], *versions: int) -> list[tuple[str, int, bool]]:
        found = wanted_relays(peers, {MODEL: connections(*versions)})
        return [(wish.relay_id.address, wish.relay_id.number, wish.delay > 0) for wish in found]

    assert wanted([peer], 3, 3) == [("tcp://peer:1", 0, False), ("tcp://peer:1", 1, False)]
    assert wanted([with_own], 3, 3, 4) == [("tcp://other:1", 0, False), ("tcp://other:1", 1, False)]
    assert wanted([peer], 4, 4) == [("tcp://peer:1", 0, True), ("tcp://peer:1", 1, True)]
    assert wanted([peer], 3, 4) == [("tcp://peer:1", 0, False), ("tcp://peer:1", 1, True)]
    assert wanted([with_own, unreachable], 4) == wanted([unreachable], 3) == []


def test_containers_that_reach_all_need_no_relay(start: Start) -> None:
    frontends = [start() for _ in range(3)]
    frontends[0].serve("app", "sum:1")
    with ExitStack() as containers:
        for _ in range(2):
            containers.enter_context(running_container(frontends[0], "sum_container", "sum:1", "doubles"))
        wait_until_served(*frontends)
        with Clients("app", frontends) as clients:
            began = time.monotonic()
            while time.monotonic() < began + 4:
                clients.wait_for(20)
        assert clients.defaults() == []
    assert [relays(frontend) for frontend in frontends] == [[], [], []]


def test_several_old_replicas_are_all_used_through_relays(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=5000, batch_size=1)
    with old_container(first, seconds=0.005) as one, old_container(first, seconds=0.005) as two:
        wait_until_served(second)
        wait_for(lambda: relays(first) == ["", ""], "a relay for each replica")
        with Clients("app", [second], of_each=4) as clients:
            clients.wait_for(100)
        assert clients.defaults() == []
        assert min(len(one.batches), len(two.batches)) > 20


def test_a_frontend_that_stops_answers_what_it_relays_first(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=5000)
    with old_container(first, seconds=0.5) as container, ThreadPoolExecutor() as pool:
        wait_for(lambda: relays(first) == [""], "it relays")
        wait_for(lambda: is_served(second), "it is served")
        seen = len(container.batches)
        reply = pool.submit(second.predict, "app", input=[7.5])
        wait_for(lambda: len(container.batches) > seen, "the query is on its way")
        assert first.stop() == 0
        assert reply.result()["output"] == 7.5


def test_relays_stay_when_redis_loses_all(start: Start, own_redis: OwnRedis) -> None:
    own_redis.start()
    first, second = start(own_redis.port), start(own_redis.port)
    first.serve("app", slo_ms=3000)
    with old_container(first):
        wait_until_served(second)
        with Clients("app", [first, second]) as clients:
            own_redis.kill()
            clients.wait_for(30)
            own_redis.start()
            wait_for(lambda: numbers(second) == [0], "Redis knows all again")
            began = time.monotonic()
            while time.monotonic() < began + 3:
                clients.wait_for(30)
        assert clients.defaults() == []
        assert relays(first) == [""]
