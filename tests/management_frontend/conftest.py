"""Fixtures: the management frontend in this process, and as a process of its own."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from clipper_common.config_store import ConfigStore
from clipper_common.membership_store import MembershipStore
from clipper_common.redis_client import RedisClient
from management_frontend import app
from management_frontend.config import Config
from tests.waiting import wait_for


@pytest.fixture
async def clipper_redis(redis_port: int) -> AsyncIterator[RedisClient]:
    """The test's own view of the Redis that the frontend writes to."""
    clipper_redis = RedisClient("127.0.0.1", redis_port)
    yield clipper_redis
    await clipper_redis.close()


@pytest.fixture
def store(clipper_redis: RedisClient) -> ConfigStore:
    return ConfigStore(clipper_redis)


@pytest.fixture
def members(clipper_redis: RedisClient) -> MembershipStore:
    return MembershipStore(clipper_redis)


@pytest.fixture
async def client(redis_port: int) -> AsyncIterator[TestClient]:
    server = TestServer(app.create_app(Config(redis_ip="127.0.0.1", redis_port=redis_port)))
    async with TestClient(server) as client:
        yield client


class Program:
    """A management frontend in a process of its own."""

    def __init__(self, log: Path, port: int, *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        command = [sys.executable, "-m", "management_frontend", "--host=127.0.0.1", f"--port={port}", *arguments]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)

    def log(self) -> str:
        return self._log.read_text()

    def wait_until_logged(self, text: str) -> None:
        wait_for(lambda: text in self.log(), f"the log to say {text!r}")

    def wait_until_up(self) -> None:
        wait_for(self._answers, f"an answer, log: {self._log}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/admin/ping", timeout=5) as answer:
                return answer.read() == b"PONG"
        except urllib.error.URLError:
            assert self.process.poll() is None, self.log()
            return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts `Program`s, and ends those that still run."""
    programs: list[Program] = []

    def start(port: int, *arguments: str) -> Program:
        programs.append(Program(tmp_path / f"{len(programs)}.log", port, *arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait(10)
