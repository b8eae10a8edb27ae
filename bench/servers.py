"""The servers that are compared: how each is started for one kind of input, where it listens, what CPU time it took."""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import workloads
from bench.cluster import NOOP, Cluster
from bench.programs import ROOT, Program, ProgramFailed, free_port, http, listens, python, wait_until
from bench.report import progress
from bench.workloads import Dialect, Workload
from clipper_common.constants import DEFAULT_PREDICTION_CACHE_SIZE_BYTES

_PEERS: Final = ROOT / "bench" / "peers"
PEERS: Final = sorted(path.stem.removesuffix("_") for path in _PEERS.glob("*_.py"))
_COMPILED: Final = ROOT / "build" / "compiled"
_ENVIRONMENTS: Final = ROOT / "bench" / ".venvs"
_METADATA: Final = re.compile(r"^# /// script\n(.*?)^# ///$", re.MULTILINE | re.DOTALL)
_SYSTEM_FOLDERS: Final = ("/usr/local/bin", "/usr/bin")
_SPARE_PORTS: Final = 4
_START_SECONDS: Final = 90.0
_INSTALL_SECONDS: Final = 1800.0
_APP: Final = "noop"
_OWN_PACKAGES: Final = ("clipper_admin", "aiohttp", "uvloop", "orjson", "pysimdjson", "pyzmq", "numpy")
_SLO_SECONDS: Final = 0.5
_MODELS: Final = ROOT / "bench" / "models"
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""A model computes with one thread in every server."""


def _own_versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _OWN_PACKAGES}


def _compiled_versions() -> dict[str, str]:
    if not list(_COMPILED.glob("query_frontend/**/*.so")):
        raise ProgramFailed("nothing is compiled: `make compiled` does that, with a C compiler")
    return _own_versions()


class Running(NamedTuple):
    """A server that answers."""

    port: int
    path: str
    cpu_seconds: Callable[[], dict[str, float]]
    """So far, by program."""
    defaults: Callable[[], int]
    """Answers so far that were not the model's."""


class Served(NamedTuple):
    """A served model, which answers inputs of one type."""

    input_type: str
    file: Path | None = None
    """A model that `trained` loads; None for one that does nothing."""
    packages: tuple[str, ...] = ()
    """The packages that it needs."""
    max_batch_size: int = 64
    """The largest batch that peers are allowed."""
    slo_seconds: float = _SLO_SECONDS
    """Clipper's latency objective; peers have none."""


class Server(NamedTuple):
    """A server that can be started for a served model."""

    what: str
    start: Callable[[Served], AbstractContextManager[Running]]
    dialect: Dialect = workloads.plain
    distinct: bool = True
    """Is asked another input each time."""
    versions: Callable[[tuple[str, ...]], dict[str, str]] = lambda packages: _own_versions()
    """Return the versions of its packages, and of those that the model needs, after installing what is missing."""


# --- ours ---


@contextmanager
def _own(module: str, served: Served) -> Iterator[Running]:
    port = free_port()
    with Program(python(f"bench.{module}", f"--port={port}", f"--input-type={served.input_type}")) as program:
        wait_until(f"{module} listens", lambda: listens(port), [program])
        yield Running(port, "/bench/predict", lambda: {module: program.cpu_seconds()}, lambda: 0)


@contextmanager
def _clipper(cache_bytes: int, checkout: Path, served: Served) -> Iterator[Running]:
    with Cluster(cache_bytes, served.input_type, checkout=checkout) as cluster:
        if served.file is None:
            cluster.serve(_APP, served.slo_seconds, NOOP)
        else:
            folder = str(served.file.parent)
            cluster.add_application(_APP, served.slo_seconds)
            cluster.add_model(_APP, python("bench.models.scikit"), CLIPPER_MODEL_PATH=folder, **_ONE_THREAD)
            cluster.link(_APP, _APP)
        yield Running(cluster.query_port, f"/{_APP}/predict", cluster.cpu_seconds, lambda: cluster.defaults(_APP))


def _start(start: Callable[..., AbstractContextManager[Running]], *arguments: object) -> Any:
    return lambda served: start(*arguments, served)


# --- peers ---


@contextmanager
def _peer(name: str, path: str, environment: dict[str, str], served: Served) -> Iterator[Running]:
    environment_folder = _environment(name, served.packages)
    port, *spare = (free_port() for _ in range(1 + _SPARE_PORTS))
    with tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as folder:
        told = {
            "BENCH_PORT": str(port),
            "BENCH_SPARE_PORTS": ",".join(map(str, spare)),
            "BENCH_INPUT_TYPE": served.input_type,
            "BENCH_MAX_BATCH_SIZE": str(served.max_batch_size),
            "BENCH_FOLDER": folder,
            "PYTHONPATH": f"{_PEERS}:{_MODELS}",
            "PATH": f"{environment_folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            **_ONE_THREAD,
            **({"BENCH_MODEL": str(served.file)} if served.file else {}),
        }
        argv = [str(environment_folder / "bin" / "python"), str(_script(name))]
        with Program(argv, told | environment, Path(folder)) as program:
            try:
                wait_until(f"{name} listens", lambda: listens(port), [program], _START_SECONDS)
                yield Running(port, path, lambda: {name: program.cpu_seconds()}, lambda: 0)
            except ProgramFailed as error:
                program.check()
                raise ProgramFailed(f"{error}\n{program.last_words()}") from error


def _environment(name: str, packages: tuple[str, ...]) -> Path:
    """Return the virtual environment of a peer whose model needs these packages."""
    return _ENVIRONMENTS / "-".join([name, *map(_package, packages)])


def _package(requirement: str) -> str:
    return requirement.partition("==")[0]


def _install(name: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Make the peer's virtual environment if there is none that fits. Returns the versions of its dependencies.

    A peer that needs another release of one of the model's packages pins it among its own dependencies.
    """
    own = dependencies(name)
    pinned = {_package(dependency) for dependency in own}
    wanted = [*own, *(package for package in packages if _package(package) not in pinned)]
    folder = _environment(name, packages)
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text().splitlines() != wanted:
        progress(f"installing {' '.join(wanted)}")
        command = [_interpreter(name), "-m", "venv", "--clear", str(folder)]
        subprocess.run(command, check=True, timeout=_INSTALL_SECONDS)
        command = [str(folder / "bin" / "pip"), "install", "--quiet", *wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
        if done.returncode:
            raise ProgramFailed(f"{name} cannot be installed:\n{done.stderr[-2000:]}")
        stamp.write_text("\n".join(wanted))
    pairs = (dependency.split("==") for dependency in wanted)
    own_python = _required_python(name)
    return {package: version for package, version in pairs} | ({"python": own_python} if own_python else {})


def _script(name: str) -> Path:
    return _PEERS / f"{name}_.py"  # without the underscore it would be imported in place of the package


def dependencies(name: str) -> list[str]:
    return list(_head(name)["dependencies"])


def _required_python(name: str) -> str:
    """Return the only release of Python that a peer runs with; empty if it runs with any."""
    return str(_head(name).get("requires-python", "")).removeprefix("==")


def _interpreter(name: str) -> str:
    """Return a Python that the peer runs with: this one, unless it names another release."""
    wanted = _required_python(name)
    if wanted in ("", platform.python_version()):
        return sys.executable
    minor = wanted.rpartition(".")[0]
    for found in filter(None, (shutil.which(f"python{minor}", path=path) for path in _SYSTEM_FOLDERS)):
        told = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        if told.stdout.split()[-1] == wanted:
            return found
    raise ProgramFailed(f"{name} needs Python {wanted}, which is in none of {', '.join(_SYSTEM_FOLDERS)}")


def _head(name: str) -> dict[str, Any]:
    """Return the metadata at the head of the script (PEP 723)."""
    found = _METADATA.search((_script(name)).read_text())
    assert found is not None
    return tomllib.loads("\n".join(line.removeprefix("#").strip() for line in found[1].splitlines()))


def _as_peer(name: str, path: str, what: str, dialect: Dialect = workloads.plain, **environment: str) -> Server:
    start = _start(_peer, name, path, environment)
    return Server(what, start, dialect, versions=lambda packages: _install(name, packages))


SERVERS: Final = {
    "yardstick": Server(
        "a bare aiohttp handler that decodes the JSON and answers by itself", _start(_own, "yardstick")
    ),
    "ceiling": Server("a bare protocol, batches, a worker process, and nothing else", _start(_own, "ceiling")),
    "clipper": Server(
        "all features on, also the cache, which distinct inputs do not hit",
        _start(_clipper, DEFAULT_PREDICTION_CACHE_SIZE_BYTES, ROOT),
    ),
    "clipper-no-cache": Server("the cache turned off", _start(_clipper, 0, ROOT)),
    "clipper-cached": Server(
        "one repeated input, answered from the cache",
        _start(_clipper, DEFAULT_PREDICTION_CACHE_SIZE_BYTES, ROOT),
        distinct=False,
    ),
    "clipper-compiled": Server(
        "as clipper, with the query path and what containers share with it compiled (`make compiled`)",
        _start(_clipper, DEFAULT_PREDICTION_CACHE_SIZE_BYTES, _COMPILED),
        versions=lambda packages: _compiled_versions(),
    ),
    "mosec": _as_peer("mosec", "/inference", "Rust in front, batches, a worker process"),
    "mosec-orjson": _as_peer(
        "mosec", "/inference", "mosec with orjson in its worker instead of its default", BENCH_ORJSON="1"
    ),
    "torchserve": _as_peer("torchserve", "/predictions/noop", "Java in front, batches, a worker process"),
    "mlserver": _as_peer(
        "mlserver", "/v2/models/noop/infer", "FastAPI, batches, a worker process", workloads.open_inference
    ),
    "triton": _as_peer(
        "triton",
        "/v2/models/noop/infer",
        "C++ in front, batches, a Python process (pytriton)",
        workloads.open_inference,
    ),
    "litserve": _as_peer("litserve", "/predict", "FastAPI, batches over ZeroMQ, a worker process"),
    "bentoml": _as_peer(
        "bentoml", "/predict", "Starlette, adaptive batches, the model in the server's process", workloads.list_of_one
    ),
    "rayserve": _as_peer(
        "rayserve", "/predict", "HAProxy, batches, one replica in a process: its settings for throughput"
    ),
    "rayserve-defaults": _as_peer("rayserve", "/predict", "Ray Serve without these settings", BENCH_DEFAULTS="1"),
}


@contextmanager
def serving(name: str, workload: Workload, served: Served | None = None) -> Iterator[Running]:
    """The server, answering queries of this kind, by a model that does nothing unless it is given another one.

    Raises `ProgramFailed`, with its last words, when it does not answer.
    """
    served = served or Served(workload.input_type)
    server = SERVERS[name]
    server.versions(served.packages)
    with server.start(served) as running:
        body = workloads.fixed(workloads.body(workload, server.dialect))
        answers: list[Any] = []

        def is_served() -> bool:
            try:
                answers.append(http(running.port, running.path, body))
            except OSError as error:
                answers.append((0, repr(error).encode()))
            return bool(answers[-1][0] == 200)

        try:
            wait_until(f"{name} answers", is_served, seconds=_START_SECONDS)
        except ProgramFailed as error:
            status, text = answers[-1]
            raise ProgramFailed(
                f"{error}; the last answer was {status}: {text[:500].decode(errors='replace')}"
            ) from error
        yield running


def versions(name: str, packages: tuple[str, ...] = ()) -> dict[str, str]:
    return {"python": sys.version.split()[0]} | SERVERS[name].versions(packages)
