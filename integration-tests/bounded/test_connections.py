"""Tests that idle clients, and clients that do not read, do not affect other clients of any port."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from tests.conftest import OwnRedis, find_free_port
from tests.query_frontend.conftest import Frontend, RawContainer, http, limited, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(60)]

DESCRIPTORS = 256
CLIENTS = 300
IDLE_CORES = 0.3
"""The CPU time per second that a program may take to which many idle clients are connected."""

PROGRAMS = {
    "query_frontend": ["query_frontend", "--rpc_service_port=0"],
    "query_frontend, two workers": ["query_frontend", "--rpc_service_port=0", "--workers=2"],
    "management_frontend": ["management_frontend"],
    "exporter": ["query_frontend.exporter", "--query_frontend_name=127.0.0.1:1"],
}
PATHS = {"query_frontend": "/livez", "management_frontend": "/admin/get_all_applications", "exporter": "/metrics"}


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    server = OwnRedis()
    try:
        server.start()
        yield server.port
    finally:
        server.kill()


@contextmanager
def running(arguments: list[str], redis_port: int, log: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A program that may have few file descriptors, and its port."""
    port = find_free_port()
    command = [sys.executable, "-m", *arguments, "--host=127.0.0.1", f"--port={port}"]
    if "exporter" not in arguments[0]:
        command += ["--redis_ip=127.0.0.1", f"--redis_port={redis_port}"]
    with log.open("wb") as output:
        process = subprocess.Popen([*limited(DESCRIPTORS), *command], stdout=output, stderr=output)
    try:
        wait_for(lambda: can_connect(port), f"{arguments[0]} listens, see {log}")
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(20)


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def seconds_of_cpu(program: psutil.Process) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in (program, *program.children(recursive=True)))


def answers(url: str) -> bool:
    """Whether it does; a moment ago there may have been no room."""
    with contextlib.suppress(OSError):
        method, body = ("POST", b'{"verbose": false}') if "/admin/" in url else ("GET", None)
        return http(method, url, body, 2.0).status == 200
    return False


@pytest.mark.parametrize("name", PROGRAMS)
def test_more_clients_than_descriptors(name: str, redis_port: int, tmp_path: Path) -> None:
    arguments = PROGRAMS[name]
    path = PATHS[arguments[0].rpartition(".")[2]]
    with running(arguments, redis_port, tmp_path / "log") as (program, port), ExitStack() as stack:
        url = f"http://127.0.0.1:{port}{path}"
        wait_for(lambda: answers(url), "it answers")
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        wait_for(lambda: answers(url), "there is room again")
        before = seconds_of_cpu(program)
        time.sleep(1)  # what is measured here
        assert seconds_of_cpu(program) - before < IDLE_CORES
        assert answers(url)
        for each in (program, *program.children(recursive=True)):
            assert each.num_fds() < DESCRIPTORS
        stack.close()
        wait_for(lambda: answers(url), "it answers")


def test_more_silent_containers_than_descriptors(redis_port: int, tmp_path: Path) -> None:
    """One that registers is served all the same, and is not taken for one of them."""
    log = tmp_path / "frontend.log"
    frontend = Frontend(redis_port, log)
    frontend.limit_descriptors(DESCRIPTORS)
    try:
        frontend.start()
        frontend.serve("app")
        with ExitStack() as stack:
            container = stack.enter_context(contextlib.closing(RawContainer(frontend.rpc_port)))
            container.join(wire.Metadata(ModelId("m", "1"), InputType.DOUBLES, 3))
            frontend.wait_for_replicas(1)
            for _ in range(CLIENTS):
                stack.enter_context(socket.create_connection(("127.0.0.1", frontend.rpc_port), 5))
            other = stack.enter_context(contextlib.closing(RawContainer(frontend.rpc_port)))
            other.join(wire.Metadata(ModelId("m", "1"), InputType.DOUBLES, 3))
            frontend.wait_for_replicas(2)
            assert frontend.predict("app", input=[1.0])["default"], "nobody answers, but it is asked"
            assert container.receive_batch().inputs or other.receive_batch().inputs
            worker = psutil.Process(frontend.process.pid).children()[0]
            wait_for(lambda: worker.num_fds() < DESCRIPTORS / 2, "most of the silent ones are sent away")
    finally:
        frontend.end()
