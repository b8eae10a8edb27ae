"""A real query frontend process on a real Redis, the management calls it needs, and hand-made containers."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from clipper_common import changes, wire
from clipper_common.changes import Write
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Application, Model, Replica
from clipper_common.redis_client import RedisClient
from clipper_common.snapshot import Snapshot
from tests.conftest import find_free_port
from tests.waiting import wait_for

GIVE_UP_SECONDS = 30.0

ON_BOTH_LOOPS = {"test_router"}
"""Tests that depend on how an event loop reports events of sockets; the query frontend prefers uvloop."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in ON_BOTH_LOOPS and importlib.util.find_spec("uvloop"):
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    return loops


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def http(
    method: str,
    url: str,
    body: bytes | None = None,
    seconds: float = 30.0,
    headers: dict[str, str] | None = None,
) -> Reply:
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return Reply(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, dict(error.headers), error.read())


def limited(descriptors: int) -> list[str]:
    """The beginning of a command that may have so few files open."""
    return ["prlimit", f"--nofile={descriptors}:{descriptors}"]


class Frontend:
    """`python -m query_frontend` as a child process."""

    def __init__(self, redis_port: int, log: Path, **flags: object) -> None:
        self.redis_port = redis_port
        self.port = find_free_port()
        self.rpc_port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        values = {
            "redis_ip": "127.0.0.1",
            "redis_port": redis_port,
            "host": "127.0.0.1",
            "port": self.port,
            "rpc_service_port": self.rpc_port,
        } | flags
        self._command = [sys.executable, "-m", "query_frontend", *(f"--{k}={v}" for k, v in values.items())]

    def run_instead(self, program: str) -> None:
        """The Python code that is run instead of `query_frontend.__main__`."""
        self._command[1:3] = ["-c", program]

    def limit_descriptors(self, number: int) -> None:
        self._command = [*limited(number), *self._command]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_for(self._is_ready, f"the frontend is ready, see {self.log}")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return http("GET", self.url + "/readyz").status == 200
        except OSError:
            return False

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(10)

    def end(self) -> None:
        """However it is; one that is killed leaves files behind."""
        if not hasattr(self, "process") or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def pause(self) -> None:
        """Stop the supervisor and its workers, until `resume` is called."""
        self._send_to_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._send_to_all(signal.SIGCONT)

    def _send_to_all(self, number: signal.Signals) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            os.kill(pid, number)

    # --- what a client does ---

    def post(self, path: str, body: object, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return http("POST", self.url + path, data, headers=headers)

    def predict(self, app: str, **fields: object) -> Any:
        reply = self.post(f"/{app}/predict", fields)
        assert reply.status == 200, reply
        return reply.json

    def metric(self, category: str, name: str) -> dict[str, str] | None:
        found = http("GET", self.url + "/metrics").json[category]
        return next((entry[name] for entry in found if name in entry), None)

    # --- what the management frontend does ---

    def configure(self, *writes: Write) -> int:
        """Change the configuration, and wait until the frontend follows."""
        return self.with_redis(lambda redis: self._commit(redis, writes))

    @staticmethod
    async def _commit(redis: RedisClient, writes: tuple[Write, ...]) -> int:
        store = ConfigStore(redis)
        revision = await store.commit(await store.read(), writes)
        assert revision is not None
        assert await MembershipStore(redis).wait_until_applied(revision, 5.0)
        return revision

    def snapshot(self) -> Snapshot:
        return self.with_redis(lambda redis: ConfigStore(redis).read())

    def replicas(self) -> list[Replica]:
        return self.with_redis(lambda redis: MembershipStore(redis).read_replicas())

    def with_redis(self, work: Callable[[RedisClient], Any]) -> Any:
        async def run() -> Any:
            redis = RedisClient("127.0.0.1", self.redis_port)
            try:
                return await work(redis)
            finally:
                await redis.close()

        return asyncio.run(run())

    def serve(
        self, app: str, model: str = "m:1", kind: str = "doubles", slo_ms: float = 1000, batch_size: int = -1
    ) -> None:
        """Register an application, a model version, make it the current one, and link the two."""
        model_id, input_type = ModelId.parse(model), InputType.parse(kind)
        self.configure(
            *changes.put_application(Application(app, input_type, "default", int(slo_ms * 1000))),
            changes.put_model(Model(model_id, input_type, batch_size=batch_size)),
            changes.put_current_version(model_id),
            changes.put_link(app, model_id.name),
        )

    def wait_for_replicas(self, number: int) -> None:
        wait_for(lambda: len(self.replicas()) == number, f"{number} replicas are connected")


@contextmanager
def running_frontend(redis_port: int, log: Path, **flags: object) -> Iterator[Frontend]:
    frontend = Frontend(redis_port, log, **flags)
    try:
        frontend.start()
        yield frontend
    finally:
        frontend.end()


@pytest.fixture
def frontend(redis_port: int, tmp_path: Path) -> Iterator[Frontend]:
    with running_frontend(redis_port, tmp_path / "frontend.log") as frontend:
        yield frontend


@contextmanager
def running_container(
    frontend: Frontend, program: str | Path, model: str, kind: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A real model container as a child process: one of ours, or a script."""
    name, version = ModelId.parse(model)
    toplevel = Path(__file__).parents[2] / "containers/python/toplevel"
    environment = os.environ | {
        "CLIPPER_MODEL_NAME": name,
        "CLIPPER_MODEL_VERSION": version,
        "CLIPPER_IP": "127.0.0.1",
        "CLIPPER_PORT": str(frontend.rpc_port),
        "CLIPPER_INPUT_TYPE": kind,
        "CLIPPER_MODEL_PATH": str(Path(program).parent),
        "CLIPPER_METRIC_PORT": "0",
        "PYTHONPATH": str(toplevel),
    }
    arguments = [str(program)] if isinstance(program, Path) else ["-m", f"clipper_containers.{program}"]
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


class RawContainer:
    """A container made by hand: it sends and receives frames, and does nothing by itself."""

    def __init__(self, port: int, heartbeat_millis: int = 0) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart([b"", *frames])

    def receive(self, seconds: float = 5.0) -> list[bytes]:
        assert self.socket.poll(int(seconds * 1000)), "nothing came"
        return self.socket.recv_multipart()

    def is_silent(self, seconds: float = 0.3) -> bool:
        return not self.socket.poll(int(seconds * 1000))

    def join(self, metadata: wire.Metadata) -> None:
        """The handshake, in the container's part."""
        self.socket.send_multipart(wire.encode_heartbeat())
        request = wire.HeartbeatReply(wire.HeartbeatType.REQUEST_METADATA)
        while wire.decode_from_frontend(self.receive()) != request:
            pass  # one that was disconnected may have been sent others while it had a batch
        self.socket.send_multipart(wire.encode_metadata(metadata))

    def receive_batch(self, seconds: float = 5.0) -> wire.PredictRequest:
        """The next batch; heartbeats before it are passed over."""
        while True:
            message = wire.decode_from_frontend(self.receive(seconds))
            if isinstance(message, wire.PredictRequest):
                return message

    def answer(self, request: wire.PredictRequest, outputs: list[bytes], version: int = 3, **changes: Any) -> None:
        response = wire.Response(request.message_id, outputs, [False] * len(outputs))
        self.socket.send_multipart(wire.encode_response(replace_fields(response, changes), version))

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()


def replace_fields(response: wire.Response, changes: dict[str, Any]) -> wire.Response:
    return response._replace(**changes)


@pytest.fixture
def raw_container(frontend: Frontend) -> Iterator[Callable[[], RawContainer]]:
    made: list[RawContainer] = []

    def make() -> RawContainer:
        made.append(RawContainer(frontend.rpc_port))
        return made[-1]

    yield make
    for container in made:
        container.close()


__all__ = ["Frontend", "RawContainer", "Reply", "http", "replace", "running_container", "running_frontend", "wait_for"]
