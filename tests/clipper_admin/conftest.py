"""Fixtures: a connection to a real management frontend, with a container manager that starts nothing."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from clipper_admin import ClipperConnection, ClipperException
from clipper_admin.management_client import ManagementClient
from tests.clipper_admin.fakes import FakeContainerManager, FakeQueryFrontend, fake_query_frontend
from tests.conftest import find_free_port


@pytest.fixture(scope="session")
def management_address(redis_server: int) -> Iterator[str]:
    port = find_free_port()
    command = [sys.executable, "-m", "management_frontend", "--host=127.0.0.1", f"--port={port}"]
    program = subprocess.Popen([*command, "--redis_ip=127.0.0.1", f"--redis_port={redis_server}"])
    try:
        _wait_until_up(f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"
    finally:
        program.terminate()
        program.wait(10)


def _wait_until_up(address: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return ManagementClient(lambda: address).ping()
        except ClipperException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.fixture
def query_frontend() -> Iterator[FakeQueryFrontend]:
    with fake_query_frontend() as frontend:
        yield frontend


Connect = Callable[[type[FakeContainerManager]], ClipperConnection]


@pytest.fixture
def connect(management_address: str, query_frontend: FakeQueryFrontend, redis_port: int) -> Connect:
    """A connected ClipperConnection over a manager of the given kind."""

    def connect(kind: type[FakeContainerManager]) -> ClipperConnection:
        conn = ClipperConnection(kind(management_address, query_frontend.address, redis_port))
        conn.connect()
        return conn

    return connect


@pytest.fixture
def conn(connect: Connect) -> ClipperConnection:
    return connect(FakeContainerManager)


@pytest.fixture
def cm(conn: ClipperConnection) -> FakeContainerManager:
    assert isinstance(conn.cm, FakeContainerManager)
    return conn.cm
