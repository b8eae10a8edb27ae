"""Containers of RPC version 3, which are connected to one of several frontends, serve all of them."""

import asyncio
import functools
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import zmq
import zmq.asyncio

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Frontend as Peer
from clipper_common.wire import Metadata
from query_frontend.cluster.relay import Place, Relay, wanted_relays
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.deadlines import DeadlineWheel
from query_frontend.serving.executor import Executor
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
    """What came and went, in order, as the log of the frontend that relays says."""
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
        assert counts(second) == [before_second[0] + 10, 0, 0, 0]


async def test_a_stall_of_our_own_is_no_silence_of_the_peer() -> None:
    loop, metrics = asyncio.get_running_loop(), SystemMetrics()
    context = QueryContext(Executor(loop, Mock(), PredictionCache(0), metrics), DeadlineWheel(loop))
    with zmq.asyncio.Context() as zmq_context, zmq_context.socket(zmq.ROUTER) as peer:
        port = peer.bind_to_random_port("tcp://127.0.0.1")
        relay = Relay(context, Place(f"tcp://127.0.0.1:{port}", MODEL, 0), InputType.DOUBLES, "peer:x", "key")
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


def test_a_relay_stays_in_reserve_while_the_peer_has_replicas_of_its_own(start: Start) -> None:
    first, second = start(), start()
    first.serve("app", slo_ms=3000)
    with old_container(first) as theirs:
        wait_until_served(second)
        with Clients("app", [second], of_each=4) as clients:
            with old_container(second) as own:
                wait_for(lambda: own.batches, "its own replica serves it")
                seen = len(theirs.batches)
                clients.wait_for(50)
                assert len(theirs.batches) <= seen + 1, "the relay is not used"
            clients.wait_for(50)  # its own is gone
        assert clients.defaults() == []
        assert relays(first) == [""]


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
        return [(wish.place.address, wish.place.number, wish.delay > 0) for wish in found]

    assert wanted([peer], 3, 3) == [("tcp://peer:1", 0, False), ("tcp://peer:1", 1, False)]
    assert wanted([with_own], 3, 3) == [("tcp://other:1", 0, False)], "one in reserve"
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
