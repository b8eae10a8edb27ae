"""Deadlines, cache, queues, replicas and configuration, against a real frontend."""

import asyncio
import itertools
import json
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis

from clipper_common import changes, wire
from clipper_common.constants import MAX_QUEUED_QUERIES
from clipper_common.datatypes import BatchPolicy, InputType, ModelId
from clipper_common.layout import LAYOUT
from clipper_common.records import Application, Model
from clipper_common.wire import Metadata
from tests.query_frontend.conftest import Frontend, RawContainer, http, running_container, running_frontend, wait_for

pytestmark = pytest.mark.integration

MakeContainer = Callable[[], RawContainer]

NO_MODELS = "No connected models found for query"
LAST_REPLICA_DIED = "The model container died while it handled the query, and no other is connected"
SLO_MISSED = "Failed to retrieve a prediction response within the specified latency SLO"

SLEEPER = """
import time
import rpc

class Sleeper(rpc.ModelContainerBase):
    def predict_doubles(self, inputs):
        time.sleep({seconds})
        return [str(len(inputs)) for _ in inputs]

rpc.RPCService().start(Sleeper())
"""


def sleeper(folder: Path, seconds: float) -> Path:
    script = folder / "sleeper.py"
    script.write_text(SLEEPER.format(seconds=seconds))
    return script


def join(frontend: Frontend, make: MakeContainer, number: int = 1, model: str = "m:1") -> RawContainer:
    container = make()
    container.join(Metadata(ModelId.parse(model), InputType.DOUBLES, 3))
    frontend.wait_for_replicas(number)
    return container


def test_defaults_are_counted_by_their_cause(frontend: Frontend) -> None:
    frontend.serve("app")
    assert frontend.predict("app", input=[1.0])["default_explanation"] == NO_MODELS
    assert frontend.metric("counters", "app:app:defaults_no_replica") == {"count": "1"}
    assert frontend.metric("counters", "app:app:defaults_slo_missed") is None


def test_queries_that_miss_their_slo_get_one_default_each_in_time(frontend: Frontend, tmp_path: Path) -> None:
    frontend.serve("app", slo_ms=20)
    with running_container(frontend, sleeper(tmp_path, 0.2), "m:1", "doubles"):
        frontend.wait_for_replicas(1)
        answers = asyncio.run(spread(frontend, 500, seconds=1.0))
        assert len(answers) == 500
        assert {answer["default_explanation"] for answer in answers} == {SLO_MISSED}
        assert len({answer["query_id"] for answer in answers}) == 500
        assert frontend.metric("counters", "app:app:defaults_slo_missed") == {"count": "500"}
        latency = frontend.metric("histograms", "app:app:prediction_latency")
        assert latency is not None
        assert float(latency["min"]) >= 20_000, "never before the deadline"
        # Batches that were sent before their queries expired fill the cache.
        wait_for(
            lambda: any(not frontend.predict("app", input=[float(i)])["default"] for i in range(20)),
            "a late output is in the cache",
        )


async def spread(frontend: Frontend, number: int, seconds: float) -> list[dict[str, object]]:
    """`number` queries with different inputs, spread evenly over `seconds`."""
    async with aiohttp.ClientSession() as session:

        async def ask(i: int) -> dict[str, object]:
            await asyncio.sleep(i * seconds / number)
            async with session.post(frontend.url + "/app/predict", data=json.dumps({"input": [float(i)]})) as reply:
                return await reply.json()

        return await asyncio.gather(*map(ask, range(number)))


def test_identical_queries_in_flight_are_asked_once_and_then_cached(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=5000)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(frontend.predict, "app", input=[1.0]) for _ in range(8)]
        request = container.receive_batch()
        assert len(request.inputs) == 1
        wait_for(lambda: lookups(frontend) == 8, "all queries arrived")
        container.answer(request, [b"7"])
        assert [reply.result()["output"] for reply in replies] == [7] * 8
    assert frontend.predict("app", input=[1.0])["output"] == 7
    assert container.is_silent()


def lookups(frontend: Frontend) -> int:
    metric = frontend.metric("counters", "internal:prediction_cache_lookups")
    assert metric is not None
    return int(metric["count"])


def test_a_less_patient_query_that_joins_does_not_shorten_the_others_time(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("patient", slo_ms=3000)
    frontend.configure(
        *changes.put_application(Application("hasty", InputType.DOUBLES, "hasty default", 50_000)),
        changes.put_link("hasty", "m"),
    )
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(frontend.predict, "patient", input=[1.0])
        request = container.receive_batch()
        hasty = pool.submit(frontend.predict, "hasty", input=[1.0])
        assert hasty.result()["default_explanation"] == SLO_MISSED
        container.answer(request, [b"1"])
        assert patient.result()["output"] == 1


def test_errors_and_defaults_are_not_cached(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=2000)
    container = raw_container()
    container.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "x"))
    frontend.wait_for_replicas(1)
    with ThreadPoolExecutor() as pool:
        for failed in (True, False):
            reply = pool.submit(frontend.predict, "app", input=[1.0])
            container.answer(container.receive_batch(), [b"1"], 4, failed=[failed])
            assert reply.result()["default"] is failed


def test_a_cache_of_size_zero_is_off(redis_port: int, tmp_path: Path) -> None:
    with running_frontend(redis_port, tmp_path / "log", prediction_cache_size=0) as frontend:
        frontend.serve("app", slo_ms=5000)
        container = RawContainer(frontend.rpc_port)
        container.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, 3))
        frontend.wait_for_replicas(1)
        with ThreadPoolExecutor() as pool:
            for output in (b"1", b"2"):
                reply = pool.submit(frontend.predict, "app", input=[1.0])
                container.answer(container.receive_batch(), [output])
                assert reply.result()["output"] == int(output)
        container.close()


def test_a_version_that_is_deleted_and_registered_again_has_a_new_cache(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=5000)
    container = join(frontend, raw_container)
    model = ModelId("m", "1")
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        container.answer(container.receive_batch(), [b"1"])
        assert reply.result()["output"] == 1
        # Both in one commit: the frontend never sees the moment between.
        frontend.configure(changes.put_model(Model(model, InputType.DOUBLES, registration="again")))
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        container.answer(container.receive_batch(), [b"2"])
        assert reply.result()["output"] == 2


def test_cached_inputs_are_answered_without_a_replica(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=5000)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        container.answer(container.receive_batch(), [b"1"])
        reply.result()
    container.close()
    frontend.wait_for_replicas(0)
    assert frontend.predict("app", input=[1.0])["output"] == 1
    assert frontend.predict("app", input=[2.0])["default_explanation"] == NO_MODELS


def test_a_client_that_hangs_up_costs_no_batch_slot(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=20_000, batch_size=1)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(frontend.predict, "app", input=[1.0])
        request = container.receive_batch()
        for i in range(20):
            hang_up(frontend, [100.0 + i])
        wait_for(lambda: lookups(frontend) == 21, "their queries arrived")
        last = pool.submit(frontend.predict, "app", input=[2.0])
        wait_for(lambda: lookups(frontend) == 22, "the last query arrived")
        container.answer(request, [b"1"])
        following = container.receive_batch()
        assert following.inputs == [b"\x00\x00\x00\x00\x00\x00\x00\x40"], "only who still waits is served"
        container.answer(following, [b"2"])
        assert (first.result()["output"], last.result()["output"]) == (1, 2)


def hang_up(frontend: Frontend, value: list[float]) -> None:
    body = json.dumps({"input": value}).encode()
    with socket.create_connection(("127.0.0.1", frontend.port), 5) as connection:
        head = f"POST /app/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        time.sleep(0.02)  # not a wait for a result: the request is to be read before the connection ends


def test_a_full_queue_answers_at_once(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=5000, batch_size=1)
    join(frontend, raw_container)
    requests = [[[float(i)] for i in range(n, n + 4096)] for n in range(0, MAX_QUEUED_QUERIES + 4096, 4096)]
    with ThreadPoolExecutor() as pool:
        replies = list(pool.map(lambda inputs: frontend.predict("app", input_batch=inputs), requests))
    reasons = [a["default_explanation"] for reply in replies for a in reply["batch_predictions"]]
    full = reasons.count("The queue of the model is full")
    assert 4000 <= full <= 4096  # all but those that fit, and the one in flight
    assert reasons.count(SLO_MISSED) == len(reasons) - full
    waited = [a.get("default_waited_millis") for reply in replies for a in reply["batch_predictions"]]
    assert waited.count(None) == full, "only a missed deadline is explained by times"
    never_sent = [times for times in waited if times is not None and times["at_replica"] == 0]
    assert len(never_sent) == len(reasons) - full - 1
    assert all(times["in_queue"] >= 5000 for times in never_sent)


def test_a_replica_that_hangs_does_not_keep_its_inputs_from_others(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=200)
    hanging = join(frontend, raw_container, 1)
    answer = frontend.predict("app", input=[5.0])
    assert answer["default_explanation"] == SLO_MISSED
    waited = answer["default_waited_millis"]
    assert waited["at_replica"] > 100 > waited["in_queue"]
    hanging.receive_batch()
    other = join(frontend, raw_container, 2)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[5.0])
        other.answer(other.receive_batch(), [b"5"])
        assert reply.result()["output"] == 5


def test_batches_hold_what_waits_up_to_the_fixed_size(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=10_000, batch_size=4)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input_batch=[[float(i)] for i in range(10)])
        sizes = []
        for _ in range(3):
            request = container.receive_batch()
            sizes.append(len(request.inputs))
            container.answer(request, [b"1"] * len(request.inputs))
        reply.result()
    assert sizes == [4, 4, 2]


def change_batching(frontend: Frontend, **batching: Any) -> None:
    model = frontend.snapshot().models[ModelId("m", "1")]
    frontend.configure(changes.put_model(replace(model, **batching)))


def test_batching_changes_live_and_drops_nothing(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=20_000, batch_size=1)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        cached = pool.submit(frontend.predict, "app", input=[-1.0])
        container.answer(container.receive_batch(), [b"7"])
        assert cached.result()["output"] == 7
        reply = pool.submit(frontend.predict, "app", input_batch=[[float(i)] for i in range(8)])
        first = container.receive_batch()
        change_batching(frontend, batch_size=4)
        container.answer(first, [b"1"])
        second = container.receive_batch()
        change_batching(frontend, batch_size=-1, learning_policy=BatchPolicy.AIMD, batch_delay_micros=1000)
        container.answer(second, [b"1"] * len(second.inputs))
        sizes = [len(first.inputs), len(second.inputs)]
        while sum(sizes) < 8:
            request = container.receive_batch()
            container.answer(request, [b"1"] * len(request.inputs))
            sizes.append(len(request.inputs))
        assert sizes[:3] == [1, 4, 2]  # the change came while the second was out, and counts it as observed
        assert [answer["default"] for answer in reply.result()["batch_predictions"]] == [False] * 8
    assert frontend.predict("app", input=[-1.0])["output"] == 7
    assert container.is_silent(), "what was cached still is"
    gauge = frontend.metric("gauges", "model:m:1:batching")
    assert gauge is not None
    assert gauge.items() >= {"policy": "aimd", "delay_micros": "1000", "replicas": "1"}.items()
    assert gauge["limit_min"] == gauge["limit_max"] == str(int(float(gauge["limit_mean"])))


def test_the_gauge_of_a_model_shows_its_limits(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", batch_size=5)
    gauge = {"policy": "fixed", "delay_micros": "0", "replicas": "0", "limit_min": "0"}
    assert (frontend.metric("gauges", "model:m:1:batching") or {}).items() >= gauge.items()
    join(frontend, raw_container)
    found = frontend.metric("gauges", "model:m:1:batching") or {}
    assert [found[f"limit_{which}"] for which in ("min", "mean", "max")] == ["5", "5.0", "5"]


def test_a_delayed_batch_waits_to_fill(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=20_000, batch_size=3)
    change_batching(frontend, batch_delay_micros=5_000_000)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        replies = []
        started = time.monotonic()
        for i in range(3):
            assert not container.socket.poll(100), "a batch that is not full was sent"
            replies.append(pool.submit(frontend.predict, "app", input=[float(i)]))
        request = container.receive_batch()
        assert time.monotonic() - started < 4, "a full batch waits for nothing"
        assert len(request.inputs) == 3
        container.answer(request, [b"1"] * 3)
        assert not any(reply.result()["default"] for reply in replies)


def test_a_delayed_batch_is_sent_when_the_delay_is_over(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=20_000, batch_size=3)
    change_batching(frontend, batch_delay_micros=300_000)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        started = time.monotonic()
        reply = pool.submit(frontend.predict, "app", input=[0.0])
        request = container.receive_batch()
        assert 0.29 < time.monotonic() - started < 2
        container.answer(request, [b"1"])
        assert reply.result()["output"] == 1


def test_no_delay_beyond_what_the_deadline_allows(frontend: Frontend, raw_container: MakeContainer) -> None:
    """A batch leaves in time to be answered, as long as batches took before."""
    frontend.serve("app", slo_ms=1000, batch_size=3)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        for number, seconds in enumerate([0.3, 0.3, 0.3, 0.0]):
            if number == 3:
                change_batching(frontend, batch_delay_micros=2_000_000)
            started = time.monotonic()
            reply = pool.submit(frontend.predict, "app", input=[float(number)])
            request = container.receive_batch()
            waited = time.monotonic() - started
            time.sleep(seconds)  # the model computes
            container.answer(request, [b"1"])
            assert reply.result()["default"] is False
        assert waited < 0.75


def test_a_delay_that_is_taken_back_ends_at_once(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=20_000, batch_size=3)
    change_batching(frontend, batch_delay_micros=10_000_000)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[0.0])
        assert not container.socket.poll(200)
        change_batching(frontend, batch_delay_micros=0)
        container.answer(container.receive_batch(2.0), [b"1"])
        assert reply.result()["output"] == 1


def test_a_delay_is_brought_forward_by_a_query_with_less_time(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("patient", slo_ms=20_000)
    frontend.configure(*changes.put_application(Application("hasty", InputType.DOUBLES, "late", 1_000_000)))
    frontend.configure(changes.put_link("hasty", "m"))
    change_batching(frontend, batch_delay_micros=10_000_000)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(frontend.predict, "patient", input=[0.0])
        assert container.is_silent()
        hasty = pool.submit(frontend.predict, "hasty", input=[1.0])
        container.answer(container.receive_batch(), [b"1", b"1"])
        assert [reply.result()["default"] for reply in (hasty, patient)] == [False, False]


def test_a_delay_ends_with_the_last_client_that_waits(frontend: Frontend, raw_container: MakeContainer) -> None:
    """Whoever comes after that waits for a delay of its own, not for the rest of that one."""
    frontend.serve("app", slo_ms=20_000)
    change_batching(frontend, batch_delay_micros=1_000_000)
    container = join(frontend, raw_container)
    leaves = HTTPConnection("127.0.0.1", frontend.port)
    leaves.request("POST", "/app/predict", json.dumps({"input": [0.0]}))
    assert container.is_silent(0.4)
    leaves.close()
    assert container.is_silent(0.1)
    with ThreadPoolExecutor() as pool:
        started = time.monotonic()
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        request = container.receive_batch()
        assert time.monotonic() - started > 0.9
        container.answer(request, [b"1"])
        assert reply.result()["default"] is False


def test_answers_that_arrived_while_the_frontend_stood_still_are_read_before_queries_expire(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=300)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[0.0])
        request = container.receive_batch()
        frontend.pause()
        try:
            container.answer(request, [b"1"])
            assert container.is_silent(0.5), "the deadline passes"
        finally:
            frontend.resume()
        assert reply.result()["output"] == 1


def ask_again_and_again(frontend: Frontend, number: int, ends: threading.Event, outputs: list[int]) -> None:
    """Ask on one connection, each time when the last query is answered, with inputs that nobody else asks for."""
    connection = HTTPConnection("127.0.0.1", frontend.port)
    for count in itertools.count():
        if ends.is_set():
            break
        connection.request("POST", "/app/predict", json.dumps({"input": [number, count]}))
        outputs.append(json.loads(connection.getresponse().read())["output"])
    connection.close()


def test_batches_wait_for_clients_of_a_closed_loop(frontend: Frontend, tmp_path: Path) -> None:
    """Two clients whose batches are computed in turns are answered together, once it is known that they return."""

    def gained() -> int:
        return int((frontend.metric("counters", "model:m:1:gained_queries") or {"count": "0"})["count"])

    frontend.serve("app", slo_ms=2000)
    change_batching(frontend, batch_wait=False)
    outputs: list[list[int]] = [[], []]
    ends = threading.Event()
    with running_container(frontend, sleeper(tmp_path, 0.02), "m:1", "doubles"), ThreadPoolExecutor() as pool:
        frontend.wait_for_replicas(1)
        replies = [pool.submit(ask_again_and_again, frontend, i, ends, outputs[i]) for i in range(2)]
        try:
            wait_for(lambda: min(map(len, outputs)) > 30, "many queries are answered")
            assert gained() == 0
            change_batching(frontend, batch_wait=True)
            wait_for(
                lambda: any(one[-10:] == [2] * 10 for one in outputs), "ten batches in a row have both clients' inputs"
            )
            assert gained() >= 10
            gauge = frontend.metric("gauges", "model:m:1:batching") or {}
            assert float(gauge["return_share"]) > 0.5 and 0 < float(gauge["return_micros"]) < 10_000
        finally:
            ends.set()
        for reply in replies:
            reply.result()


def test_under_overload_those_are_answered_that_can_be(frontend: Frontend, tmp_path: Path) -> None:
    """Without it each batch would hold what is about to expire, and nearly all answers came too late."""
    frontend.serve("app", slo_ms=100, batch_size=10)
    with running_container(frontend, sleeper(tmp_path, 0.04), "m:1", "doubles"):
        frontend.wait_for_replicas(1)
        answers = asyncio.run(spread(frontend, 1000, seconds=2.0))  # twice as many as the model can do
    assert sum(not answer["default"] for answer in answers) > 100  # of 500 on a machine of its own


def test_idle_replicas_share_what_waits(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=10_000, batch_size=100)
    containers = [join(frontend, raw_container, number) for number in (1, 2, 3)]
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input_batch=[[float(i)] for i in range(9)])
        for container in containers:
            request = container.receive_batch()
            assert len(request.inputs) == 3
            container.answer(request, [b"1"] * 3)
        assert not any(answer["default"] for answer in reply.result()["batch_predictions"])


def test_a_busy_replica_does_not_hold_up_an_idle_one(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=10_000)
    stuck, other = join(frontend, raw_container, 1), join(frontend, raw_container, 2)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(frontend.predict, "app", input=[0.0])
        request = stuck.receive_batch()
        for i in range(1, 6):
            reply = pool.submit(frontend.predict, "app", input=[float(i)])
            other.answer(other.receive_batch(), [b"1"])
            assert reply.result()["default"] is False
        stuck.answer(request, [b"0"])
        assert waiting.result()["output"] == 0


def test_a_slow_replica_gets_only_what_it_can_answer_in_time(frontend: Frontend, tmp_path: Path) -> None:
    """Idle replicas were given queries in turn, so that a quarter of the answers was late."""
    frontend.serve("app", slo_ms=300)
    slow, quick = tmp_path / "slow", tmp_path / "quick"
    slow.mkdir()
    quick.mkdir()
    with (
        running_container(frontend, sleeper(slow, 0.4), "m:1", "doubles"),
        running_container(frontend, sleeper(quick, 0.02), "m:1", "doubles"),
        running_container(frontend, sleeper(quick, 0.02), "m:1", "doubles"),
    ):
        frontend.wait_for_replicas(3)
        answers = asyncio.run(spread(frontend, 40, seconds=6.0))
    assert sum(not answer["default"] for answer in answers) >= 36


def test_a_query_does_not_join_one_in_flight_that_will_be_late(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=600)
    slow = join(frontend, raw_container, 1)
    with ThreadPoolExecutor() as pool:
        late = [pool.submit(frontend.predict, "app", input=[0.0])]
        request = slow.receive_batch()
        assert slow.is_silent(0.8), "the model computes"
        slow.answer(request, [b"1"])
        late.append(pool.submit(frontend.predict, "app", input=[1.0]))
        in_flight = slow.receive_batch()
        quick = join(frontend, raw_container, 2)
        in_time = pool.submit(frontend.predict, "app", input=[1.0])
        quick.answer(quick.receive_batch(), [b"2"])
        assert in_time.result()["output"] == 2
        assert [reply.result()["default_explanation"] for reply in late] == [SLO_MISSED] * 2
        slow.answer(in_flight, [b"3"])


def test_configuration_appears_changes_and_disappears_within_100_ms(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    join(frontend, raw_container)
    took = []

    def change(*writes: changes.Write) -> None:
        started = time.monotonic()
        frontend.configure(*writes)
        took.append(time.monotonic() - started)

    app = Application("app", InputType.DOUBLES, "one", 1000)
    assert frontend.post("/app/predict", {"input": [1.0]}).status == 404
    change(*changes.put_application(app))
    assert frontend.predict("app", input=[1.0])["default_explanation"] == NO_MODELS
    model = Model(ModelId("m", "1"), InputType.DOUBLES)
    change(changes.put_model(model), changes.put_current_version(model.id), changes.put_link("app", "m"))
    assert frontend.predict("app", input=[1.0])["default_explanation"] == SLO_MISSED
    change(changes.delete_link("app", "m"))
    assert frontend.predict("app", input=[1.0])["default_explanation"] == NO_MODELS
    change(*changes.delete_application("app"))
    assert frontend.post("/app/predict", {"input": [1.0]}).status == 404
    change(*changes.put_application(Application("app", InputType.STRINGS, "two", 1000)))
    assert frontend.predict("app", input="text")["output"] == "two"
    assert statistics.median(took) < 0.1


def test_versions_are_switched_under_load_without_a_default(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", "sum:1", slo_ms=5000)
    with (
        running_container(frontend, "sum_container", "sum:1", "doubles"),
        running_container(frontend, "noop_container", "sum:2", "doubles"),
    ):
        frontend.configure(changes.put_model(Model(ModelId("sum", "2"), InputType.DOUBLES)))
        frontend.wait_for_replicas(2)
        stop = threading.Event()
        with ThreadPoolExecutor() as pool:
            load = [pool.submit(ask_until, frontend, stop, 1000.0 * k) for k in range(2)]
            for version in ("2", "1", "2"):
                frontend.configure(changes.put_current_version(ModelId("sum", version)))
                time.sleep(0.2)  # let the load run
            stop.set()
            asked = [answer for future in load for answer in future.result()]
        assert len(asked) > 100
        assert not any(asked)
        reply = frontend.post("/app/predict", {"input": [1.0]})
        assert reply.headers["X-Clipper-Model"] == "sum:2"


def ask_until(frontend: Frontend, stop: threading.Event, start: float) -> list[bool]:
    defaults = []
    while not stop.is_set():
        defaults.append(frontend.predict("app", input=[start + len(defaults)])["default"])
    return defaults


def test_deleting_a_model_answers_its_queue_at_once(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=30_000, batch_size=1)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(frontend.predict, "app", input=[1.0])
        request = container.receive_batch()
        queued = pool.submit(frontend.predict, "app", input=[2.0])
        wait_for(lambda: lookups(frontend) == 2, "both arrived")
        frontend.configure(changes.delete_model(ModelId("m", "1")))
        assert queued.result()["default_explanation"] == NO_MODELS
        container.answer(request, [b"1"])
        assert sent.result()["output"] == 1


def test_queries_of_a_model_that_loses_its_only_replica_are_answered_at_once(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=30_000, batch_size=1)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(frontend.predict, "app", input=[1.0])
        container.receive_batch()
        joined = pool.submit(frontend.predict, "app", input=[1.0])
        queued = pool.submit(frontend.predict, "app", input=[2.0])
        wait_for(lambda: lookups(frontend) == 3, "all arrived")
        container.close()
        answers = [future.result(5)["default_explanation"] for future in (sent, joined, queued)]
    assert answers == [LAST_REPLICA_DIED, LAST_REPLICA_DIED, NO_MODELS]
    assert frontend.predict("app", input=[3.0])["default_explanation"] == NO_MODELS
    second = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        again = pool.submit(frontend.predict, "app", input=[1.0])
        second.answer(second.receive_batch(), [b"1"])
        assert again.result()["output"] == 1, "nothing is left of what had no answer"


def test_what_waits_for_the_only_replica_is_answered_at_once_when_it_drains(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=30_000, batch_size=1)
    container = raw_container()
    container.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "drains"))
    frontend.wait_for_replicas(1)
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(frontend.predict, "app", input=[1.0])
        request = container.receive_batch()
        queued = pool.submit(frontend.predict, "app", input=[2.0])
        wait_for(lambda: lookups(frontend) == 2, "both arrived")
        container.socket.send_multipart(wire.encode_drain_request())
        assert queued.result(5)["default_explanation"] == NO_MODELS
        container.answer(request, [b"1"], version=4)
        assert sent.result(5)["output"] == 1, "its last batch is finished"


def test_a_draining_replica_is_let_go_when_nobody_waits_for_its_batch(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=400)
    container = raw_container()
    container.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "drains"))
    frontend.wait_for_replicas(1)
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(frontend.predict, "app", input=[1.0])
        container.receive_batch()
        container.socket.send_multipart(wire.encode_drain_request())
        while not isinstance(wire.decode_from_frontend(container.receive()), wire.Drain):
            pass
        assert sent.done() or sent.result(0.2), "until its deadline somebody waits"
        assert sent.result()["default_explanation"] == SLO_MISSED


def test_serves_on_while_redis_is_away_and_restores_what_it_lost(
    redis_port: int, tmp_path: Path, frontend: Frontend
) -> None:
    frontend.serve("app", "sum:1")
    with running_container(frontend, "sum_container", "sum:1", "doubles"):
        frontend.wait_for_replicas(1)
        with redis.Redis(port=redis_port) as client:
            client.flushall()
        assert frontend.predict("app", input=[1.0])["output"] == 1.0
        wait_for(lambda: frontend.snapshot().links == {"app": ("sum",)}, "the configuration is written back")
        frontend.wait_for_replicas(1)
        assert frontend.predict("app", input=[2.0])["output"] == 2.0


def test_a_restarted_frontend_takes_the_place_of_what_it_was(frontend: Frontend, redis_port: int) -> None:
    frontend.process.kill()
    frontend.process.wait(10)
    frontend.start()
    with redis.Redis(port=redis_port) as client:
        assert len(client.keys(LAYOUT.frontends.prefix + "*")) == 1


def test_a_replica_may_come_before_its_model_is_registered(frontend: Frontend) -> None:
    with running_container(frontend, "sum_container", "sum:1", "doubles"):
        frontend.wait_for_replicas(1)
        frontend.serve("app", "sum:1")
        assert frontend.predict("app", input=[3.0])["output"] == 3.0


def test_outputs_are_strict_json(frontend: Frontend, raw_container: MakeContainer) -> None:
    """An output that is JSON is embedded as it is; any other is a string."""
    cases = {
        b"1.10": "1.10",
        b"NaN": '"NaN"',
        b"Infinity": '"Infinity"',
        b"-Infinity": '"-Infinity"',
        b"[NaN]": '"[NaN]"',
        b"007": '"007"',
        b"true": "true",
        b"null": "null",
        b'{"a": [1]}': '{"a": [1]}',
        b'"quoted"': '"quoted"',
        b"": '""',
        b"plain": '"plain"',
        b"123456789012345678901234567890": "123456789012345678901234567890",
        b"\xff": '"�"',
        b"1 2": '"1 2"',
    }
    frontend.serve("app")
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        for number, (output, expected) in enumerate(cases.items()):
            reply = pool.submit(frontend.post, "/app/predict", {"input": [number]})
            container.answer(container.receive_batch(), [output])
            text = reply.result().body.decode()
            assert f'"output":{expected},"default":false' in text
            json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_sigterm_answers_what_is_in_flight(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=5000)
    container = join(frontend, raw_container)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        request = container.receive_batch()
        frontend.process.terminate()
        time.sleep(0.1)  # the signal is to arrive before the answer
        container.answer(request, [b"1"])
        assert reply.result()["output"] == 1
    assert frontend.process.wait(10) == 0


def test_a_second_cluster_on_the_same_redis_is_refused(redis_port: int, tmp_path: Path) -> None:
    with running_frontend(redis_port, tmp_path / "one.log", cluster_id="one/1"):
        second = Frontend(redis_port, tmp_path / "two.log", cluster_id="two/2")
        with pytest.raises(AssertionError, match="used by the Clipper cluster 'one'"):
            second.start()
        assert second.process.wait(10) == 5


def test_a_taken_port_ends_the_program_with_its_own_exit_code(frontend: Frontend, tmp_path: Path) -> None:
    for flag, port in (("port", frontend.port), ("rpc_service_port", frontend.rpc_port)):
        second = Frontend(frontend.redis_port, tmp_path / f"{flag}.log", **{flag: port})
        with pytest.raises(AssertionError, match="cannot listen on"):
            second.start()
        assert second.process.wait(10) == 4


def test_a_name_that_could_not_be_registered_now_is_served_and_escaped_where_it_is_shown(frontend: Frontend) -> None:
    name, escaped = "team/a\u202eb", r"team/a\u202eb"
    frontend.serve("app", f"{name}:1", "doubles", slo_ms=5000)
    with running_container(frontend, "sum_container", f"{name}:1", "doubles"):
        frontend.wait_for_replicas(1)
        reply = frontend.post("/app/predict", {"input": [1.0, 2.0]})
        assert (reply.json["output"], reply.json["default"]) == (3.0, False)
        assert reply.headers["X-Clipper-Model"] == "team/a%E2%80%AEb:1"
        metrics = http("GET", frontend.url + "/metrics")
        assert f"model:{name}:1:num_predictions" in {next(iter(each)) for each in metrics.json["counters"]}
        assert b"\\u202eb:1:num_predictions" in metrics.body and b"\xe2\x80\xae" not in metrics.body
    log = frontend.log.read_text()
    assert escaped in log and "\u202e" not in log
    assert all(re.match(r"\d\d-\d\d-\d\d:", line) for line in log.splitlines())


POISON = 13.0
INPUT_BLAMED = "Model containers died of this input when they had no other: it is not sent to one for a while"


def numbers_in(request: wire.PredictRequest) -> list[float]:
    return [float(np.frombuffer(payload, np.float64)[0]) for payload in request.inputs]


def test_the_input_that_ends_replicas_is_found_and_its_neighbours_are_answered(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=30_000, batch_size=8)
    containers = [join(frontend, raw_container)]
    seen: list[list[float]] = []
    with ThreadPoolExecutor() as pool:
        inputs = [[float(number)] for number in (10, 11, 12, POISON, 14, 15, 16, 17)]
        asked = pool.submit(frontend.predict, "app", input_batch=inputs)
        request = containers[0].receive_batch()
        assert numbers_in(request) == [value for (value,) in inputs]
        containers += [join(frontend, raw_container, number) for number in range(2, 8)]
        containers.pop(0).close()
        while not asked.done():
            for container in list(containers):
                if container.is_silent(0.01):
                    continue
                message = wire.decode_from_frontend(container.receive())
                if not isinstance(message, wire.PredictRequest):
                    continue
                seen.append(numbers_in(message))
                if POISON in seen[-1]:
                    containers.remove(container)
                    container.close()
                else:
                    container.answer(message, [b"%d" % value for value in seen[-1]])
    answers = asked.result()["batch_predictions"]
    assert [answer["output"] for answer in answers] == [10, 11, 12, "default", 14, 15, 16, 17]
    assert answers[3]["default_explanation"] == INPUT_BLAMED
    assert seen.count([POISON]) == 2, "once more when it was alone"
    assert [len(batch) for batch in seen if POISON in batch] == [4, 2, 1, 1]
    assert frontend.predict("app", input=[POISON])["default_explanation"] == INPUT_BLAMED, "at once"
    assert frontend.metric("gauges", "model:m:1:blamed") == {"inputs_max": "1"}
    assert frontend.metric("counters", "model:m:1:blamed_answers") == {"count": "2"}
    with ThreadPoolExecutor() as pool:
        healthy = pool.submit(frontend.predict, "app", input=[20.0])
        answer_next(containers)
        assert healthy.result(5)["output"] == 20
    frontend.configure(changes.delete_model(ModelId("m", "1")))
    frontend.serve("app", slo_ms=200, batch_size=8)
    assert frontend.predict("app", input=[POISON])["default_explanation"] == SLO_MISSED, "it is tried again"


def answer_next(containers: list[RawContainer]) -> None:
    """Answer the batch that one of the containers gets."""
    while True:
        for container in containers:
            if not container.is_silent(0.01):
                message = wire.decode_from_frontend(container.receive())
                if isinstance(message, wire.PredictRequest):
                    container.answer(message, [b"%d" % value for value in numbers_in(message)])
                    return


def test_the_last_replica_is_not_risked_while_others_wait(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=30_000, batch_size=1)
    first, second = join(frontend, raw_container), join(frontend, raw_container, 2)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(frontend.predict, "app", input=[float(number)]) for number in range(4)]
        wait_for(lambda: lookups(frontend) == 4, "all arrived")
        (suspect,) = numbers_in(first.receive_batch())
        busy = second.receive_batch()
        first.close()
        frontend.wait_for_replicas(1)
        order: list[float] = []
        request = busy
        for _ in range(4):
            order += numbers_in(request)
            second.answer(request, [b"%d" % order[-1]])
            if len(order) < 4:
                request = second.receive_batch()
        assert order[-1] == suspect
        assert [future.result(5)["output"] for future in asked] == [0, 1, 2, 3]


def test_an_output_that_is_too_large_fails_alone(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=30_000, batch_size=8)
    container = join(frontend, raw_container)
    most = 32 << 20
    outputs = [b"[" + b" " * (most - 2) + b"]", b"x" * (most + 1), b"3"]
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(frontend.post, "/app/predict", {"input_batch": [[0.0], [1.0], [2.0]]})
        container.answer(container.receive_batch(), outputs)
        answers = asked.result(20).json["batch_predictions"]
    assert [answer["output"] for answer in answers] == [[], "default", 3]
    reason = f"The model raised OutputError: an output is of {most + 1} bytes, and the most are {most}"
    assert answers[1]["default_explanation"] == reason
