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
UNREGISTERED = 56
"""The containers of unregistered model versions that so many descriptors allow."""
SECONDS = 2.0
MAX_GROWTH = 64 << 20
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
    connection.sendall(zmtp.DEALER.opening + data)
    return connection


def introduction(model: ModelId) -> bytes:
    metadata = wire.Metadata(model, InputType.DOUBLES, 4, f"{model.name}-1", "a key")
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
            wait_for(lambda: len(frontend.replicas()) == 1 + UNREGISTERED, "as many as may be are accepted")
        assert not beside.mishaps, beside
        log = frontend.log.read_text()
        assert "Too many open files" not in log
        assert log.count("is refused") == 1, "it is said once"
        assert "it is accepted when its model version is registered" in log


def test_a_refused_container_is_accepted_when_its_model_is_registered(frontend: Frontend) -> None:
    late = ModelId("late", "1")
    with ExitStack() as stack:
        for number in range(UNREGISTERED):
            stack.enter_context(closing(connect(frontend, introduction(ModelId(f"unknown-{number}", "1")))))
        wait_for(lambda: len(frontend.replicas()) == 1 + UNREGISTERED, "as many as may be are accepted")
        container = stack.enter_context(running_container(frontend, "noop_container", str(late), "doubles"))
        wait_for(lambda: "is refused" in frontend.log.read_text(), "it is refused")
        connections = ports_of(container.pid)
        frontend.configure(changes.put_model(Model(late, InputType.DOUBLES)))
        wait_for(lambda: any(replica.model_id == late for replica in frontend.replicas()), "it is accepted")
        assert ports_of(container.pid) & connections, "it has not connected anew"


def ports_of(pid: int) -> set[int]:
    return {each.laddr.port for each in psutil.Process(pid).net_connections("tcp") if each.status == "ESTABLISHED"}
