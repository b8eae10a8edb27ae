"""Whatever connects to the RPC port, the queries of an application are answered in time beside it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import pytest
from open_loop import NEEDS_GENERATOR, OpenLoop, check_harms_nobody

from clipper_common import changes, wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Model
from query_frontend.rpc import zmtp
from tests.conftest import OwnRedis
from tests.query_frontend.conftest import Frontend, running_container, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(120), NEEDS_GENERATOR]

RATE = 50.0
SLO_SECONDS = 0.5
DESCRIPTORS = 256
CONTAINERS = 56
"""The containers that so many descriptors allow."""
CONNECTIONS = 160
"""The HTTP connections that so many descriptors allow."""
SECONDS = 2.0
MAX_GROWTH = 64 << 20
OPENING_WITHOUT_PINGS = zmtp.DEALER.opening.replace(b"\x7f\x03\x01", b"\x7f\x03\x00")
"""The greeting of a ZMTP 3.0 peer, which may be silent for half a minute."""
EMPTY_COMMAND = b"\x04\x00"
PING = b"\x04\x07\x04PING\x00\x00"


@pytest.fixture
def frontend(tmp_path: Path) -> Iterator[Frontend]:
    redis = OwnRedis()
    with ExitStack() as stack:
        stack.callback(redis.kill)
        redis.start()
        frontend = Frontend(redis.port, tmp_path / "frontend.log")
        frontend.limit_descriptors(DESCRIPTORS)
        stack.callback(frontend.end)
        frontend.start()
        frontend.serve("neighbour", "neighbour:1", slo_ms=1000 * SLO_SECONDS)
        stack.enter_context(running_container(frontend, "noop_container", "neighbour:1", "doubles"))
        frontend.wait_for_replicas(1)
        yield frontend


def connect(frontend: Frontend, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", frontend.rpc_port), 10)
    connection.sendall(OPENING_WITHOUT_PINGS + data)
    return connection


def introduction(model: ModelId, number: int = 1) -> bytes:
    metadata = wire.Metadata(model, InputType.DOUBLES, 4, f"{model.name}-{number}", "a key")
    return b"".join(zmtp.encode(wire.encode_metadata(metadata)))


def memory(frontend: Frontend) -> int:
    process = psutil.Process(frontend.process.pid)
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


@pytest.mark.parametrize("command", [EMPTY_COMMAND, PING], ids=["empty commands", "pings"])
def test_a_flood_of_commands_harms_nobody(frontend: Frontend, command: bytes) -> None:
    before = memory(frontend)

    def attack() -> None:
        """Send as much as the frontend takes, and read nothing."""
        with closing(connect(frontend, b"")) as connection:
            timer = threading.Timer(SECONDS, connection.shutdown, (socket.SHUT_RDWR,))
            timer.start()
            with suppress(OSError):
                while timer.is_alive():
                    connection.sendall(command * 100_000)
            timer.join()

    with OpenLoop(f"{frontend.url}/neighbour/predict", RATE).running() as load:
        check_harms_nobody(load, "a flood of commands", SLO_SECONDS, attack)
    assert memory(frontend) < before + MAX_GROWTH


def test_containers_of_models_that_nobody_registered_leave_room(frontend: Frontend) -> None:
    models = [ModelId(f"unknown-{number}", "1") for number in range(DESCRIPTORS)]
    with ExitStack() as stack, OpenLoop(f"{frontend.url}/neighbour/predict", RATE).running() as load:
        with load.step("beside them") as beside:
            for model in models:
                stack.enter_context(closing(connect(frontend, introduction(model))))
            wait_for(lambda: len(frontend.replicas()) == CONTAINERS, "as many as may be are accepted")
        assert not beside.mishaps, beside
        log = frontend.log.read_text()
        assert "Too many open files" not in log
        assert log.count("is refused") == 1, "it is said once"
        assert "it is accepted when its model version is registered" in log


def test_containers_of_one_model_leave_room_for_clients_and_other_models(frontend: Frontend) -> None:
    frontend.serve("greedy", "greedy:1", slo_ms=1000 * SLO_SECONDS)
    frontend.serve("late", "late:1", slo_ms=1000 * SLO_SECONDS)
    with ExitStack() as stack, OpenLoop(f"{frontend.url}/neighbour/predict", RATE).running() as load:
        with load.step("beside them") as beside:
            for number in range(DESCRIPTORS):
                stack.enter_context(closing(connect(frontend, introduction(ModelId("greedy", "1"), number))))
            wait_for(lambda: len(frontend.replicas()) == CONTAINERS, "as many as may be are accepted")
            for name in ("late", "new"):
                stack.enter_context(running_container(frontend, "noop_container", f"{name}:1", "doubles"))
                wait_for(lambda name=name: name in models_of(frontend), "it is accepted in place of another")
            assert frontend.predict("late", input=[1.0])["default"] is False
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", frontend.port), 10))
            wait_for(lambda: is_welcome(frontend), "an idle connection is closed for a new one")
            assert len(frontend.replicas()) == CONTAINERS and {"neighbour", "greedy"} <= models_of(frontend)
        assert not beside.mishaps, beside
        log = frontend.log.read_text()
        assert "Too many open files" not in log
        assert f"{CONTAINERS} containers are connected, the most that may be" in log and "greedy:1 cannot" in log


def is_welcome(frontend: Frontend) -> bool:
    with suppress(OSError):
        return frontend.post("/late/predict", {"input": [2.0]}).status == 200
    return False


def models_of(frontend: Frontend) -> set[str]:
    return {replica.model.name for replica in frontend.replicas()}


def test_a_refused_container_is_accepted_when_its_model_is_registered(frontend: Frontend) -> None:
    late = ModelId("late", "1")
    with ExitStack() as stack:
        for number in range(CONTAINERS - 1):
            stack.enter_context(closing(connect(frontend, introduction(ModelId(f"unknown-{number}", "1")))))
        wait_for(lambda: len(frontend.replicas()) == CONTAINERS, "as many as may be are accepted")
        container = stack.enter_context(running_container(frontend, "noop_container", str(late), "doubles"))
        wait_for(lambda: "is refused" in frontend.log.read_text(), "it is refused")
        connections = ports_of(container.pid)
        frontend.configure(changes.put_model(Model(late, InputType.DOUBLES)))
        wait_for(lambda: any(replica.model_id == late for replica in frontend.replicas()), "it is accepted")
        assert ports_of(container.pid) & connections, "it has not connected anew"


def ports_of(pid: int) -> set[int]:
    return {each.laddr.port for each in psutil.Process(pid).net_connections("tcp") if each.status == "ESTABLISHED"}
