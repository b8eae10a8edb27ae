"""Starting the programs of a cluster: choosing their ports, and watching until they listen."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from clipper_admin import external_redis
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.process import ports, processes, programs, supervisor_client
from clipper_admin.process.ports import LOOPBACK
from clipper_admin.process.state import Cluster, ClusterFiles, Program, all_clusters
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

START_SECONDS = 30.0
"""Seconds that the programs of a cluster may take until they listen."""

_POLL_SECONDS: Final = 0.02

Logger = logging.Logger | logging.LoggerAdapter[Any]


def choose_ports(wanted: Cluster, logger: Logger) -> Cluster:
    """The cluster with free ports in place of those that are taken."""
    # A program of another cluster may be down just now, and will want its port back.
    others = {n: c for n, c in all_clusters().items() if supervisor_client.is_supervised(ClusterFiles(n))}
    taken = {port for cluster in others.values() for port in cluster.ports}

    def choose(what: str, port: int) -> int:
        found = ports.find_port(port, taken)
        if port not in (found, 0):
            logger.warning("Port %d for the %s is taken: using %d", port, what, found)
        taken.add(found)
        return found

    return replace(
        wanted,
        query_port=choose("query frontend", wanted.query_port),
        management_port=choose("management frontend", wanted.management_port),
        rpc_port=choose("model containers", wanted.rpc_port),
        metric_port=choose("metrics", wanted.metric_port),
        redis_port=choose("Redis", wanted.redis_port) if wanted.has_own_redis else wanted.redis_port,
    )


def start(files: ClusterFiles, cluster: Cluster, options: FrontendOptions) -> None:
    """Start all programs. Raises ClipperException when one dies, or does not listen in time."""
    if not cluster.has_own_redis:
        _check_redis(cluster.redis_ip, cluster.redis_port)
    files.create()
    files.write_cluster(cluster)
    if cluster.has_own_redis:
        _run(files, [programs.redis_server(files, cluster.redis_port)], {cluster.redis_port})
    _run(files, programs.frontends(files, cluster, options), cluster.ports - {cluster.redis_port})


def _check_redis(host: str, port: int) -> None:
    if not ports.accepts(host, port):
        raise ClipperException(
            f"No Redis answers at {host}:{port}. Is it up, and is this its address? "
            "Without redis_ip the cluster gets a Redis of its own."
        )
    external_redis.check(host, port)


def _run(files: ClusterFiles, new: Sequence[Program], listening: set[int]) -> None:
    for program in new:
        files.write_program(program)
    supervisor_client.notify(files)
    for _ in TimeLimit(START_SECONDS).attempts(_POLL_SECONDS):
        missing = _silent(listening) or listening - _listening(files, new)
        if not missing:
            return
        _raise_if_dead(files, new)
    silent = ", ".join(map(str, sorted(missing)))
    raise ClipperException(f"Nothing listens on port {silent} after {START_SECONDS:.0f} seconds.\n{_tails(files, new)}")


def _silent(listening: set[int]) -> set[int]:
    return {port for port in listening if not ports.accepts(LOOPBACK, port)}


def _listening(files: ClusterFiles, new: Sequence[Program]) -> set[int]:
    """The ports on which these programs themselves listen: someone else may have been faster to take one."""
    statuses = [files.status(program.id) for program in new]
    return {port for status in statuses if status for port in processes.listening_ports(status.pid)}


def _raise_if_dead(files: ClusterFiles, new: Sequence[Program]) -> None:
    for program in new:
        status = files.status(program.id)
        if status and status.last_exit:
            raise ClipperException(f"{program.id} {status.last_exit} during the start.\n{_tails(files, [program])}")


def _tails(files: ClusterFiles, of: Sequence[Program]) -> str:
    return "\n".join(f"Last lines of {program.id}:\n{files.log_tail(program.id)}" for program in of)
