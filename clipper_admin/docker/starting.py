"""Starting the containers of a cluster, and watching until the frontends answer."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from clipper_admin import container_manager as labels
from clipper_admin import http_client, images
from clipper_admin.docker import containers, inspection, metric_file
from clipper_admin.docker.containers import Cluster
from clipper_admin.docker.engine import Engine, in_parallel
from clipper_admin.frontend_options import FrontendOptions
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

_WATCH_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.1
_TAIL_LINES: Final = 30


@dataclass(frozen=True)
class Plan:
    """The containers to be started. Ports are those of the host."""

    cluster: Cluster
    has_own_redis: bool
    fluentd: str | int | None
    """The address of one that runs, the port for one of the cluster's own, or none."""
    options: FrontendOptions
    query_port: int
    management_port: int
    rpc_port: int
    prometheus_port: int

    @property
    def images(self) -> list[str]:
        """Return the images that the machine must have."""
        options = self.options
        of_clipper = [options.query_frontend_image, options.mgmt_frontend_image, options.frontend_exporter_image]
        redis = [images.REDIS_IMAGE] if self.has_own_redis else []
        fluentd = [images.FLUENTD_IMAGE] if isinstance(self.fluentd, int) else []
        return [*of_clipper, images.PROMETHEUS_IMAGE, *redis, *fluentd]


def claim(engine: Engine, plan: Plan) -> Any:
    """Create the exporter, which only one process can do. Raises NameTaken if another starts the same cluster."""
    return engine.create(containers.exporter(plan.cluster.name, plan.options.frontend_exporter_image), plan.cluster)


def start(engine: Engine, plan: Plan) -> None:
    """Start all containers but the exporter."""
    cluster = replace(plan.cluster, log_config=_start_fluentd(engine, plan))
    if plan.has_own_redis:
        engine.start(containers.redis(cluster.name), cluster)
    # A Redis that others can reach records whose it is; our own needs no such record.
    cluster_id = "" if plan.has_own_redis else f"{cluster.name}/{uuid.uuid4().hex}"
    frontends = [
        containers.management_frontend(cluster, plan.options, plan.management_port, cluster_id),
        containers.query_frontend(cluster, plan.options, plan.query_port, plan.rpc_port, cluster_id),
    ]
    start_each = [lambda container=container: engine.start(container, cluster) for container in frontends]
    in_parallel(lambda begin: begin(), [*start_each, lambda: _start_prometheus(engine, cluster, plan.prometheus_port)])


def _start_prometheus(engine: Engine, cluster: Cluster, port: int) -> None:
    try:
        file = str(metric_file.write(cluster.name, containers.prometheus_configuration(cluster.name)))
    except OSError:  # then clients of Clipper 0.4 cannot connect, and nobody else misses it
        engine.start(containers.prometheus(cluster.name, port), cluster)
        return
    try:
        engine.start(containers.prometheus(cluster.name, port, file, is_mounted=True), cluster)
    except ClipperException as error:
        if file not in str(error):  # as an engine on another machine says, which has no such file
            raise
        engine.start(containers.prometheus(cluster.name, port, file), cluster)


def _start_fluentd(engine: Engine, plan: Plan) -> Mapping[str, Any] | None:
    """The log configuration of all other containers."""
    if not isinstance(plan.fluentd, int):
        return containers.fluentd_log(plan.fluentd) if plan.fluentd else None
    started = engine.start(containers.fluentd(plan.cluster.name, plan.fluentd), plan.cluster)
    port = inspection.read_port(started.labels, labels.CLIPPER_FLUENTD_PORT_LABEL)
    return containers.fluentd_log(f"127.0.0.1:{port}")


def watch(engine: Engine, cluster_name: str, management_address: str, query_address: str) -> None:
    """Watch until both frontends answer, for some seconds. Raises ClipperException when a container ends meanwhile."""
    limit = TimeLimit(_WATCH_SECONDS)
    checks = [("management frontend", management_address, "/admin/ping"), ("query frontend", query_address, "/metrics")]
    for program, address, path in checks:
        for _ in limit.attempts(_POLL_SECONDS):
            if _answers(program, address, path):
                break
            _raise_if_dead(engine, cluster_name)


def _answers(program: str, address: str, path: str) -> bool:
    try:
        http_client.call(program, address, path)
    except ClipperException:
        return False
    return True


def _raise_if_dead(engine: Engine, cluster_name: str) -> None:
    for container in engine.find(f"{labels.CLIPPER_DOCKER_LABEL}={cluster_name}"):
        if ending := inspection.how_it_ended(container.attrs):
            tail = engine.log_tail(container, _TAIL_LINES)
            raise ClipperException(f"{container.name} {ending} during the start. It wrote:\n{tail}")
