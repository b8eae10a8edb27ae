"""Fakes: a container manager without containers, managers that fail, and a query frontend with fixed answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import redis

from clipper_admin.container_manager import (
    AlreadyExists,
    ContainerManager,
    ModelVersions,
    ReplicaFailure,
    Unreachable,
)
from clipper_admin.model_spec import ImageSpec, ModelSpec
from clipper_common.datatypes import InputType, ModelId
from clipper_common.errors import ClipperException
from clipper_common.layout import LAYOUT
from clipper_common.records import Replica


class FakeContainerManager(ContainerManager):
    """Records what it is asked for. The replicas it "starts" are records in Redis, as of connected ones."""

    def __init__(self, admin_address: str, query_address: str, redis_port: int) -> None:
        super().__init__("fake-cluster")
        self.calls: list[tuple[Any, ...]] = []
        self.admin_address = admin_address
        self.query_address = query_address
        self.num_frontend_replicas = 1
        self.failures: list[ReplicaFailure] = []
        self._redis_port = redis_port
        self._replicas: dict[tuple[str, str], int] = {}

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def start_clipper(self, *args: Any) -> None:
        self.calls.append(("start_clipper", *args))

    def connect(self) -> None:
        self.calls.append(("connect",))

    def get_num_frontend_replicas(self) -> int:
        return self.num_frontend_replicas

    def set_num_frontend_replicas(self, num_frontend_replicas: int) -> None:
        self.calls.append(("set_num_frontend_replicas", num_frontend_replicas))
        self.num_frontend_replicas = num_frontend_replicas

    def build_model(self, wanted: ImageSpec) -> None:
        files = sorted(path.name for path in wanted.model_data_path.iterdir())
        call = (wanted.image, files, wanted.base_image, wanted.container_registry, list(wanted.pkgs_to_install))
        self.calls.append(("build_model", *call))
        self.model_data_path = wanted.model_data_path

    def remove_model(self, image: str) -> None:
        self.calls.append(("remove_model", image))

    def deploy_model(self, model: ModelSpec) -> None:
        self.resources = model.resources
        self._run("deploy_model", model)

    def get_num_replicas(self, name: str, version: str) -> int:
        return self._replicas.get((name, version), 0)

    def set_num_replicas(self, model: ModelSpec) -> None:
        self._run("set_num_replicas", model)

    def _run(self, method: str, model: ModelSpec) -> None:
        self.calls.append((method, model.name, model.version, model.input_type, model.image, model.num_replicas))
        self.load_seconds = model.load_seconds
        self._replicas[model.name, model.version] = model.num_replicas
        self.connect_replicas(model.name, model.version, model.num_replicas)

    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        return list(self.failures)

    def read_last_lines(self, name: str, version: str) -> dict[str, str]:
        return {f"{name}_{version}-1": "", f"{name}_{version}-0": "loading\nstill loading"}

    def get_logs(self, logging_dir: str) -> list[str]:
        path = Path(logging_dir) / "query_frontend.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text("first line\nlast line\n")
        return [str(path)]

    def stop_models(self, models: ModelVersions) -> None:
        self.calls.append(("stop_models", {name: sorted(versions) for name, versions in models.items()}))
        for name, versions in models.items():
            for version in versions:
                self._replicas.pop((name, version), None)
                self.connect_replicas(name, version, 0)

    def stop_all_model_containers(self) -> None:
        self.calls.append(("stop_all_model_containers",))

    def stop_all(self, graceful: bool = True) -> None:
        self.calls.append(("stop_all", graceful))

    def get_admin_addr(self) -> str:
        return self.admin_address

    def get_query_addr(self) -> str:
        return self.query_address

    def get_metric_addr(self) -> str:
        return "localhost:1390"

    def connect_replicas(self, name: str, version: str, number: int) -> None:
        """Make Redis look as if `number` replicas were connected to the query frontend."""
        with redis.Redis(port=self._redis_port, db=LAYOUT.replicas.database) as client:
            for key in client.keys(f"{name},{version},*"):
                client.delete(key)
            for index in range(number):
                replica = Replica(ModelId(name, version), index, index, InputType.DOUBLES)
                client.hset(LAYOUT.replica_place(replica.model_id, replica.replica_id).key, mapping=replica.to_hash())


class NeverConnects(FakeContainerManager):
    """A container manager whose replicas run and are never seen by the query frontend."""

    def connect_replicas(self, name: str, version: str, number: int) -> None:
        pass


class DiesDuringStart(NeverConnects):
    """A container manager whose replicas end at once."""

    def connect_replicas(self, name: str, version: str, number: int) -> None:
        self.failures = [ReplicaFailure(f"{name}_{version}-0", "exited with code 3", "Traceback\nNo module named 'x'")]


class InterruptedWhileWaiting(NeverConnects):
    """The user presses Ctrl-C before its replicas are connected."""

    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        if self.called("deploy_model"):
            raise KeyboardInterrupt
        return []


class AwayForAWhile(FakeContainerManager):
    """A manager that is unreachable at first, so that its replicas are seen only later."""

    absences = 3

    def find_failures(self, name: str, version: str) -> list[ReplicaFailure]:
        if self.absences and self.called("deploy_model"):
            self.absences -= 1
            raise Unreachable("nobody is there")
        super().connect_replicas(name, version, self.get_num_replicas(name, version))
        return []

    def connect_replicas(self, name: str, version: str, number: int) -> None:
        pass


class IsForestalled(FakeContainerManager):
    """Somebody else deploys the same at the same time."""

    def deploy_model(self, model: ModelSpec) -> None:
        raise AlreadyExists(f"Somebody else deploys {model.name}")


class LacksImage(FakeContainerManager):
    """Knows no image."""

    def deploy_model(self, model: ModelSpec) -> None:
        raise ClipperException(f"There is no image '{model.image}'")


class IsOvertaken(FakeContainerManager):
    """While its replicas start, somebody else registers the same version."""

    overtake: Any = None

    def deploy_model(self, model: ModelSpec) -> None:
        super().deploy_model(model)
        self.overtake()


class CannotStop(DiesDuringStart):
    """A container manager whose replicas end at once, and which cannot clean up after them."""

    def stop_models(self, models: ModelVersions) -> None:
        raise ClipperException("stopping is broken")


class FakeQueryFrontend:
    """Answers each path with what `answers` holds, 404 else, and keeps what it was asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {"/metrics": (200, {"counters": []}), "/readyz": (200, {})}


@contextmanager
def fake_query_frontend() -> Iterator[FakeQueryFrontend]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            frontend.requests.append((self.command, self.path, body))
            status, answer = frontend.answers.get(self.path, (404, {"error": f"No such route: {self.path}"}))
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        frontend = FakeQueryFrontend(f"127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield frontend
        finally:
            server.shutdown()
            thread.join()
