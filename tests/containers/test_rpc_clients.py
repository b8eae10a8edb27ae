"""Tests of the connections of a container to scripted frontends over real sockets, with shortened times."""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from clipper_common import constants, wire
from clipper_common.datatypes import InputType
from tests.conftest import find_free_port
from tests.containers.conftest import Serve, SessionThread
from tests.containers.scripted_frontend import PATIENCE_SECONDS, RPC, ScriptedFrontend

ONE = np.array([1.0]).tobytes()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("clipper_containers.rpc_clients._REVIEW_SECONDS", 0.02)


@pytest.fixture
def other() -> Iterator[ScriptedFrontend]:
    with ScriptedFrontend() as frontend:
        yield frontend


def address(frontend: ScriptedFrontend | int) -> str:
    return f"tcp://127.0.0.1:{frontend if isinstance(frontend, int) else frontend.port}"


def zeros(inputs: list[object]) -> list[str]:
    return ["0"] * len(inputs)


def connected(served: SessionThread) -> set[str]:
    return {client.address for client in served.session._clients}


def wait_until(condition: Callable[[], bool], *frontends: ScriptedFrontend) -> None:
    """`frontends` answer heartbeats meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        for frontend in frontends:
            with contextlib.suppress(TimeoutError):
                if isinstance(frontend.receive(0.005), wire.Heartbeat):
                    frontend.send(wire.encode_heartbeat_reply(wire.HeartbeatType.KEEP_ALIVE, RPC))
        time.sleep(0.005)


def test_all_that_are_listed_get_the_same_replica(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
) -> None:
    frontend.frontends = [address(frontend), address(other)]
    serve(zeros)
    assert frontend.register() == other.register()
    assert frontend.predict([ONE]).outputs == other.predict([ONE]).outputs == [b"0"]


def test_the_address_that_was_given_is_only_asked(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
) -> None:
    frontend.frontends = [address(other)]
    served = serve(zeros)
    frontend.answer_inquiry()
    other.register()
    assert connected(served) == {address(other)}
    assert frontend.receive_all_for(0.3) == [], "nobody registers there"


def test_a_frontend_that_does_not_understand_the_question_will_do(frontend: ScriptedFrontend, serve: Serve) -> None:
    frontend.frontends = []
    serve(zeros)
    frontend.register()
    assert frontend.predict([ONE]).outputs == [b"0"]


@pytest.mark.alone
def test_frontends_take_turns(frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve) -> None:
    """However quick the first of them is with its next batch."""
    frontend.frontends = [address(frontend), address(other)]
    seen: list[float] = []

    def note(inputs: list[np.ndarray]) -> list[str]:
        time.sleep(0.02)
        seen.append(float(inputs[0][0]))
        return ["0"] * len(inputs)

    serve(note)
    frontend.register()
    other.register()
    senders = {frontend: 0.0, other: 1.0}
    for sender, number in senders.items():
        sender.ask([np.array([number]).tobytes()])
    for _ in range(5):
        for sender, number in senders.items():
            sender.receive_a(wire.Response)
            sender.ask([np.array([number]).tobytes()])
    # The first two may have come the other way round than they are asked again.
    assert seen[2:10] in ([0.0, 1.0] * 4, [1.0, 0.0] * 4)


def test_a_frontend_that_asks_for_turns_is_told_the_time_since_the_batch_of_another(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
) -> None:
    frontend.frontends = [address(frontend), address(other)]
    serve(zeros)
    frontend.register()
    other.register()

    def turn() -> int | None:
        frontend.send(wire.encode_heartbeat_reply(wire.HeartbeatType.KEEP_ALIVE, RPC, takes_turns=True))
        return frontend.predict([ONE]).turn_micros

    assert turn() is None, "it was the first batch"
    assert other.predict([ONE]).turn_micros is None, "this frontend does not ask for turns"
    assert turn() is not None
    assert turn() is None, "it waited for no other frontend"


def test_a_frontend_that_comes_is_linked_and_one_that_goes_let_go(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(zeros)
    frontend.register()
    frontend.send(wire.encode_frontends(["", address(other)]))
    other.register()
    # The container asks each of them for its list, and the newest list counts. The second batch follows the list of
    # `other` on its connection, so the list has been read once that batch is answered.
    for _ in range(2):
        assert other.predict([ONE]).outputs == [b"0"]
    assert frontend.predict([ONE]).outputs == [b"0"]
    frontend.send(wire.encode_frontends([""]))
    monkeypatch.setattr("clipper_containers.rpc_clients._REACH_SECONDS", 0.0)
    assert frontend.predict([ONE]).outputs == [b"0"]
    assert connected(served) == {address(frontend), address(other)}, "it lives, so it is kept"
    other.__exit__()
    wait_until(lambda: connected(served) == {address(frontend)}, frontend)


def test_a_frontend_that_died_is_tried_while_it_is_listed(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
) -> None:
    frontend.frontends = [address(frontend), address(other)]
    serve(zeros)
    frontend.register()
    other.register()
    other.__exit__()
    assert frontend.predict([ONE]).outputs == [b"0"]
    with ScriptedFrontend(other.port) as again:
        again.register()


def test_nonsense_in_a_list_is_passed_over(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    frontend.frontends = [address(frontend), "nonsense", "tcp://", "tcp://host:port", address(other)]
    serve(zeros)
    frontend.register()
    other.register()
    assert frontend.predict([ONE]).outputs == [b"0"]
    assert "A query frontend cannot be at nonsense, as was said" in caplog.text


class TestBehindANat:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("clipper_containers.rpc_clients._REACH_SECONDS", 0.3)

    def test_the_address_that_was_given_will_do(self, frontend: ScriptedFrontend, serve: Serve) -> None:
        frontend.frontends = [address(find_free_port())]
        serve(zeros)
        frontend.register()
        assert frontend.predict([ONE]).outputs == [b"0"]

    def test_it_is_given_up_once_the_same_frontend_is_reached_directly(
        self, frontend: ScriptedFrontend, serve: Serve
    ) -> None:
        port = find_free_port()
        frontend.frontends = [address(port)]
        served = serve(zeros)
        frontend.register()
        frontend.send(wire.encode_frontends([address(port)]))
        wait_until(lambda: connected(served) == {address(port), address(frontend)}, frontend)
        with ScriptedFrontend(port) as direct:
            direct.register()
            wait_until(lambda: connected(served) == {address(port)}, direct)
            assert direct.predict([ONE]).outputs == [b"0"]


def test_when_none_lives_the_given_address_is_asked_again(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
) -> None:
    frontend.frontends = [address(other)]
    serve(zeros)
    frontend.answer_inquiry()
    other.register()
    with ScriptedFrontend() as fresh:
        frontend.frontends = [address(fresh)]
        other.__exit__()
        frontend.answer_inquiry()
        fresh.register()
        assert fresh.predict([ONE]).outputs == [b"0"]


class TestLeaving:
    def test_all_are_told_and_all_must_let_go(
        self, frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
    ) -> None:
        frontend.frontends = [address(frontend), address(other)]
        served = serve(zeros)
        frontend.register()
        other.register()
        frontend.predict([ONE])
        other.predict([ONE])
        served.stop.request()
        frontend.answer_drain()
        other.receive_a(wire.Drain)
        assert not served.has_ended(0.2)
        assert other.predict([ONE]).outputs == [b"0"]
        other.send(wire.encode_drain_reply())
        assert served.has_ended(1)

    def test_one_that_died_is_not_waited_for(
        self, frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
    ) -> None:
        frontend.frontends = [address(frontend), address(other)]
        served = serve(zeros)
        frontend.register()
        other.register()
        frontend.predict([ONE])
        other.predict([ONE])
        other.__exit__()
        served.stop.request()
        frontend.answer_drain()
        assert served.has_ended(3)


def test_a_session_is_registered_for_each_frontend(
    frontend: ScriptedFrontend, other: ScriptedFrontend, serve: Serve
) -> None:
    frontend.frontends = [address(frontend), address(other)]
    served = serve(zeros, InputType.DOUBLES)
    frontend.register()
    wait_until(lambda: served.registrations == 1, frontend)
    other.register()
    wait_until(lambda: served.registrations == 2, frontend, other)
