"""The life of a connection, over real sockets, with times shortened where a test waits for one."""

import logging
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from clipper_common import constants, wire
from clipper_common.datatypes import InputType, ModelId
from clipper_containers.session import Event
from tests.containers.conftest import Serve
from tests.containers.scripted_frontend import PATIENCE_SECONDS, RPC, ScriptedFrontend

REQUEST_METADATA = wire.HeartbeatType.REQUEST_METADATA
ONE = np.array([1.0]).tobytes()


@pytest.fixture
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HEARTBEAT_SECONDS", 0.05)


class SlowModel:
    """Computes until the test lets it go on."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def predict(self, inputs: list[object]) -> list[str]:
        self.began.set()
        assert self.may_end.wait(PATIENCE_SECONDS)
        return ["slow"] * len(inputs)


def zeros(inputs: list[object]) -> list[str]:
    return ["0"] * len(inputs)


def wait_until(condition: "object") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_handshake_byte_by_byte(frontend: ScriptedFrontend, serve: Serve) -> None:
    served = serve(zeros, InputType.INTS)
    heartbeat = [b"", bytes.fromhex("02000000")]
    assert frontend.receive_frames() == heartbeat
    frontend.send([b"", bytes.fromhex("03000000"), bytes.fromhex("02000000"), bytes.fromhex("01000000")])
    assert frontend.receive_frames() == [b"", b"\0\0\0\0", b"m", b"1", b"1", bytes.fromhex("04000000"), b"replica-a"]
    assert frontend.receive_frames(0.5) == heartbeat
    assert served.registrations == 0
    frontend.send([b"", bytes.fromhex("04000000"), bytes.fromhex("02000000"), bytes.fromhex("00000000")])
    wait_until(lambda: served.registrations == 1)
    codes = [int(event) for _, event in served.session.events]
    assert codes == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("kind", "inputs", "seen"),
    [
        (InputType.BYTES, [b"\x00\xff", b"\x01\x02"], "ndarray int8 [[0, -1], [1, 2]]"),
        (InputType.INTS, [np.int32([1, -2]).tobytes()], "ndarray int32 [[1, -2]]"),
        (InputType.FLOATS, [np.float32([0.5]).tobytes()], "ndarray float32 [[0.5]]"),
        (InputType.DOUBLES, [np.float64([1.0, -2.5]).tobytes()], "ndarray float64 [[1.0, -2.5]]"),
        (InputType.STRINGS, ["hé".encode(), b""], "list str ['hé', '']"),
    ],
)
def test_what_a_model_sees(
    kind: InputType, inputs: list[bytes], seen: str, frontend: ScriptedFrontend, serve: Serve
) -> None:
    def see(batch):  # type: ignore[no-untyped-def]
        element, values = (batch.dtype, batch.tolist()) if kind is not InputType.STRINGS else ("str", batch)
        return [f"{type(batch).__name__} {element} {values}"] * len(batch)

    serve(see, kind)
    assert frontend.register() == wire.Metadata(ModelId("m", "1"), kind, 4, "replica-a")
    response = frontend.predict(inputs, kind)
    assert response.outputs == [seen.encode()] * len(inputs)
    assert response.failed == [False] * len(inputs)


def test_a_raising_model_fails_its_own_inputs_and_lives_on(frontend: ScriptedFrontend, serve: Serve) -> None:
    def picky(inputs: list[str]) -> list[str]:
        if "bad" in inputs:
            raise ValueError("a bad input")
        return [text.upper() for text in inputs]

    serve(picky, InputType.STRINGS)
    frontend.register()
    response = frontend.predict([b"a", b"bad", b"c"], InputType.STRINGS)
    assert response.outputs == [b"A", b"ValueError: a bad input", b"C"]
    assert response.failed == [False, True, False]
    assert frontend.predict([b"x"], InputType.STRINGS).outputs == [b"X"]


def _busy(inputs: list[object]) -> list[str]:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        sum(range(1000))
    return ["busy"] * len(inputs)


def _sleeping(inputs: list[object]) -> list[str]:
    time.sleep(1)
    return ["slept"] * len(inputs)


@pytest.mark.parametrize("predict", [_busy, _sleeping])
@pytest.mark.usefixtures("quick_heartbeats")
def test_heartbeats_while_the_model_computes(predict: object, frontend: ScriptedFrontend, serve: Serve) -> None:
    serve(predict)
    frontend.register()
    frontend.ask([ONE])
    asked_at, heartbeats = time.monotonic(), []
    while not isinstance(frontend.receive(), wire.Response):
        heartbeats.append(time.monotonic())
        frontend.send(wire.encode_heartbeat_reply(wire.HeartbeatType.KEEP_ALIVE, RPC))
    times = [asked_at, *heartbeats, time.monotonic()]
    assert time.monotonic() - asked_at > 0.9
    assert max(later - sooner for sooner, later in pairwise(times)) < 0.5


def test_computing_is_no_silence_of_the_frontend(
    frontend: ScriptedFrontend, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipper_common.rpc_client._SILENCE_SECONDS", 0.2)
    serve(_sleeping)
    frontend.register()
    peer = frontend.peer
    assert frontend.predict([ONE]).outputs == [b"slept"]
    assert frontend.predict([ONE]).outputs == [b"slept"]
    assert frontend.peer == peer


@pytest.mark.usefixtures("quick_heartbeats")
def test_a_batch_that_comes_while_computing_is_answered_next(frontend: ScriptedFrontend, serve: Serve) -> None:
    model = SlowModel()
    served = serve(model.predict)
    frontend.register()
    ids = [frontend.ask([ONE]), frontend.ask([ONE, ONE])]
    wait_until(lambda: [event for _, event in served.session.events].count(Event.RECEIVED_REQUEST) == 2)
    model.may_end.set()
    responses = [frontend.receive_a(wire.Response) for _ in ids]
    assert [(r.message_id, len(r.outputs)) for r in responses] == [(ids[0], 1), (ids[1], 2)]


@pytest.mark.usefixtures("quick_heartbeats")
def test_the_answer_of_an_earlier_registration_is_dropped(frontend: ScriptedFrontend, serve: Serve) -> None:
    """A frontend that starts again counts its messages from 0 again: it would take the answer for another's."""
    model = SlowModel()
    serve(model.predict)
    frontend.register()
    frontend.ask([ONE])
    assert model.began.wait(PATIENCE_SECONDS)
    frontend.register()
    model.may_end.set()
    assert frontend.predict([ONE, ONE]).outputs == [b"slow", b"slow"]


def test_a_frontend_that_starts_again_is_found_again(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve(zeros)
    first = frontend.register()
    frontend.__exit__()
    with ScriptedFrontend(frontend.port) as second:
        began = time.monotonic()
        assert second.register() == first
        assert time.monotonic() - began < 3
        assert second.predict([ONE]).outputs == [b"0"]


def test_a_silent_frontend_gets_a_new_connection(
    frontend: ScriptedFrontend, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("clipper_common.rpc_client._SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(constants, "HEARTBEAT_SECONDS", 0.1)
    serve(zeros)
    assert frontend.receive() == wire.Heartbeat()
    first = frontend.peer
    wait_until(lambda: frontend.receive() == wire.Heartbeat() and frontend.peer != first)
    assert caplog.text.count("Heard nothing from a query frontend at tcp://127.0.0.1") == 1
    frontend.register()


def test_a_refusal_is_logged_once_and_tried_again_slowly(
    frontend: ScriptedFrontend, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr("clipper_common.rpc_client._REFUSED_RETRY_SECONDS", 0.3)
    serve(zeros)
    times = []
    for _ in range(3):
        frontend.receive_a(wire.Metadata, REQUEST_METADATA)
        times.append(time.monotonic())
        frontend.send(wire.encode_refused("another input type"))
    assert min(later - sooner for sooner, later in pairwise(times)) > 0.25
    assert caplog.text.count("refuses this replica: another input type") == 1


@pytest.mark.parametrize(
    "garbage",
    [
        [b"?"],
        [b"", b"", b""],
        [b"", b"\x09\0\0\0", b"\x02\0\0\0", b"\0\0\0\0"],
        [b"", b"\x04\0\0\0", b"\x63\0\0\0"],
        [b"", b"\x04\0\0\0", b"\x02\0\0\0", b"\x07\0\0\0"],
        [b"", b"\x04\0\0\0", b"\x01\0\0\0", b"\0\0\0\0", b"\0\0\0\0", bytes(8), b"\xff" * 24],
        [b"", b"\x04\0\0\0", b"\x03\0\0\0"],
        [b"x" * 1000] * 50,
    ],
)
def test_garbage_is_dropped(garbage: list[bytes], frontend: ScriptedFrontend, serve: Serve) -> None:
    serve(zeros)
    frontend.register()
    frontend.send(garbage)
    assert frontend.predict([ONE]).outputs == [b"0"]


def test_a_batch_of_another_type_gets_errors(frontend: ScriptedFrontend, serve: Serve) -> None:
    serve(zeros)
    frontend.register()
    response = frontend.predict([b"a", b"b"], InputType.STRINGS)
    assert response.outputs == [b"PredictionError: this model takes doubles, and was sent strings"] * 2
    assert response.failed == [True, True]


class TestLeaving:
    def test_idle_says_goodbye_and_goes_when_answered(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        served = serve(zeros)
        frontend.register()
        assert frontend.predict([ONE]).outputs == [b"0"]
        served.stop.request()
        frontend.receive_a(wire.Drain)
        assert not served.has_ended(0.1)
        frontend.send(wire.encode_drain_reply())
        assert served.has_ended(1)

    def test_batches_on_their_way_are_answered(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        served = serve(zeros)
        frontend.register()
        frontend.predict([ONE])
        served.stop.request()
        frontend.receive_a(wire.Drain)
        assert frontend.predict([ONE]).outputs == [b"0"]
        assert frontend.predict([ONE]).outputs == [b"0"]
        frontend.send(wire.encode_drain_reply())
        assert served.has_ended(1)

    def test_the_batch_in_hand_is_answered_first(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        model = SlowModel()
        served = serve(model.predict)
        frontend.register()
        frontend.ask([ONE])
        assert model.began.wait(PATIENCE_SECONDS)
        served.stop.request()
        model.may_end.set()
        assert frontend.receive_a(wire.Response).outputs == [b"slow"]
        frontend.answer_drain()
        assert served.has_ended(1)

    def test_while_the_frontend_is_about_to_accept_it(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        served = serve(zeros)
        frontend.receive_a(wire.Metadata, wire.HeartbeatType.REQUEST_METADATA)
        served.stop.request()
        frontend.receive_a(wire.Drain)
        assert frontend.predict([ONE]).outputs == [b"0"]
        frontend.send(wire.encode_drain_reply())
        assert served.has_ended(1)

    def test_at_once_if_never_registered(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        served = serve(zeros)
        frontend.receive()
        served.stop.request()
        assert served.has_ended(0.5)

    def test_when_the_frontend_forgot_this_replica(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        served = serve(zeros)
        frontend.register()
        frontend.predict([ONE])
        served.stop.request()
        frontend.receive_a(wire.Drain)
        frontend.send(wire.encode_heartbeat_reply(REQUEST_METADATA, RPC))
        assert served.has_ended(0.5)

    def test_does_not_wait_for_ever(
        self, frontend: ScriptedFrontend, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("clipper_containers.session._DRAIN_SECONDS", 0.3)
        served = serve(zeros)
        frontend.register()
        frontend.predict([ONE])
        served.stop.request()
        frontend.receive_a(wire.Drain)
        assert served.has_ended(0.8)

    def test_a_goodbye_that_nobody_waits_for_is_ignored(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        serve(zeros)
        frontend.register()
        frontend.send(wire.encode_drain_reply())
        assert frontend.predict([ONE]).outputs == [b"0"]


def test_no_frontend_at_all_is_reported_once(
    serve: Serve, frontend: ScriptedFrontend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("clipper_common.rpc_client._SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(constants, "HEARTBEAT_SECONDS", 0.02)
    frontend.__exit__()
    caplog.set_level(logging.WARNING)
    serve(zeros)
    wait_until(lambda: "Heard nothing" in caplog.text)
    with ScriptedFrontend(frontend.port) as late:
        late.register()
        assert late.predict([ONE]).outputs == [b"0"]
    assert caplog.text.count("Heard nothing") == 1
