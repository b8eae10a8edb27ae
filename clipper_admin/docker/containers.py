"""The containers of a cluster, as keyword arguments of docker's ``run``. Pure."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

from clipper_admin import container_manager as cm
from clipper_admin import images, workers
from clipper_admin.container_manager import create_model_container_label
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.model_spec import ModelSpec
from clipper_admin.resources import ALL_GPUS, UNLIMITED, Resources
from clipper_common import constants
from clipper_common.errors import ClipperException

RESOURCES_LABEL: Final = "ai.clipper.model_container.resources"
NETWORK_LABEL: Final = "ai.clipper.network.label"
"""On networks that Clipper made, and so may remove."""
KUBERNETES_LABEL: Final = "io.kubernetes.pod.name"
"""On the containers of pods, where nodes run on Docker."""
TOTAL_WORKERS_LABEL: Final = "ai.clipper.query_frontend.total_workers"
WORKERS_LABEL: Final = "ai.clipper.query_frontend.workers"
"""Labels: the number of workers at the start, and the number of those that make up one of `num_frontend_replicas`."""
STOPPED_SUFFIX: Final = "-stopped"
"""At the end of the name of a replica that Clipper stopped, and keeps for its log."""

_PROMETHEUS_FILE: Final = "/etc/prometheus/prometheus.yml"
_PROMETHEUS_COMMAND: Final = (
    f"--config.file={_PROMETHEUS_FILE}",
    "--storage.tsdb.path=/prometheus",
    "--web.console.libraries=/etc/prometheus/console_libraries",
    "--web.console.templates=/etc/prometheus/consoles",
    "--web.enable-lifecycle",
)
"""The image's own, and what lets the SDK of Clipper 0.4 ask for another look at the file."""
_RESTART_POLICY: Final = {"Name": "unless-stopped"}
_CLUSTER_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_LONGEST_CLUSTER_NAME: Final = 63
_TAKEN_PORT: Final = re.compile(r":(\d+)\b")
_TAKEN_PORT_TEXTS: Final = ("port is already allocated", "address already in use", "ports are not available")
_OURS_ALONE: Final = frozenset({"name", "image", "command", "network", "networking_config", "ports", "detach"})
_UNFIT_NETWORKS: Final = {
    "host": "its containers have neither names to find each other by nor ports of their own, and Redis, which must be "
    "reachable inside the cluster only, would listen on all addresses of the machine",
    "bridge": "containers on Docker's default network cannot find each other by name",
    "none": "its containers cannot reach each other",
}


# --- what a cluster is ---


@dataclass(frozen=True)
class Cluster:
    """The properties that all containers of a cluster have in common."""

    name: str
    network: str
    redis_ip: str
    redis_port: int
    log_config: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``run``, by the user."""


@dataclass(frozen=True)
class Port:
    """A port of a container that the host publishes; 0 on the host means: any that is free."""

    inside: int
    on_host: int
    label: str
    protocols: tuple[str, ...] = ("tcp",)


@dataclass(frozen=True)
class Container:
    """A container to be run, without the settings that all containers share."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    alias: str = ""
    """A further name in the network, which several may share."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files that are written into it before it starts, by path."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Files of the engine's machine that it reads, by the path that each has inside."""
    resources: Resources = UNLIMITED
    load_seconds: float = constants.LOAD_SECONDS
    """Seconds for which Docker does not call a container unhealthy because it does not serve yet."""
    log_config: Mapping[str, Any] | None = None
    """Other than the cluster's."""

    def with_ports_chosen(self, choose: Callable[[], int]) -> Self:
        """The same with a port from `choose` wherever any would do."""
        return replace(self, ports=tuple(replace(port, on_host=port.on_host or choose()) for port in self.ports))

    def moved(self, taken: int, free: int) -> Self:
        """The same with another port on the host."""
        first = next(port for port in self.ports if port.on_host == taken)
        return replace(self, ports=tuple(replace(port, on_host=free) if port is first else port for port in self.ports))


def check_cluster_name(name: str) -> None:
    """Raise ClipperException for a name that images and networks cannot carry."""
    if not _CLUSTER_NAME.fullmatch(name) or len(name) > _LONGEST_CLUSTER_NAME:
        raise ClipperException(
            f"'{name}' cannot be the name of a cluster on Docker: it becomes part of the names of images. Use up to "
            f"{_LONGEST_CLUSTER_NAME} lower case letters and digits, with single '.', '_' or '-' between them."
        )


def check_network(name: str) -> None:
    """Raise ClipperException, with the reason, for a network on which no cluster can run."""
    if name in _UNFIT_NETWORKS or name.startswith("container:"):
        reason = _UNFIT_NETWORKS.get(name, "it belongs to one container")
        raise ClipperException(
            f"docker_network='{name}' cannot be used: {reason}. Name a network of your own, which is made if it does "
            "not exist."
        )


def check_extra_arguments(extra: Mapping[str, Any]) -> None:
    """Raise ClipperException for arguments of ``run`` that the manager gives itself."""
    if clash := _OURS_ALONE & extra.keys():
        raise ClipperException(
            f"extra_container_kwargs cannot hold {', '.join(sorted(clash))}: the manager decides about that itself"
        )


# --- the containers ---


def number_of(cluster_name: str) -> str:
    """The suffix of the names of a cluster's containers, which makes a second cluster of the same name impossible."""
    return hashlib.sha256(cluster_name.encode()).hexdigest()[:10]


def query_frontend_name(cluster_name: str) -> str:
    return f"query_frontend-{number_of(cluster_name)}"


def redis_name(cluster_name: str) -> str:
    return f"redis-{number_of(cluster_name)}"


def exporters_alias(cluster_name: str) -> str:
    return f"exporters.{cluster_name}"


def replicas_alias(cluster_name: str) -> str:
    return f"replicas.{cluster_name}"


def redis(cluster_name: str) -> Container:
    """A Redis for this cluster alone. Nothing of it is published."""
    return Container(redis_name(cluster_name), images.REDIS_IMAGE, images.REDIS_COMMAND)


def management_frontend(cluster: Cluster, options: FrontendOptions, port: int, cluster_id: str) -> Container:
    return Container(
        f"mgmt_frontend-{number_of(cluster.name)}",
        options.mgmt_frontend_image,
        _options(
            redis_ip=cluster.redis_ip,
            redis_port=cluster.redis_port,
            **_cluster_id(cluster_id),
            **options.mgmt_frontend_flags,
        ),
        ports=(Port(constants.MANAGEMENT_PORT, port, cm.CLIPPER_MANAGEMENT_PORT_LABEL),),
        labels={cm.CLIPPER_MGMT_FRONTEND_CONTAINER_LABEL: "", **_redis_labels(cluster)},
    )


def query_frontend(cluster: Cluster, options: FrontendOptions, port: int, rpc_port: int, cluster_id: str) -> Container:
    """The query frontend: one container, whose workers make up all of the `num_frontend_replicas`."""
    name = query_frontend_name(cluster.name)
    total = workers.total(options.num_frontend_replicas, options.workers)
    where = {"redis_ip": cluster.redis_ip, "redis_port": cluster.redis_port, "advertise": name}
    return Container(
        name,
        options.query_frontend_image,
        _options(**where, **options.query_frontend_arguments(), workers=total, **_cluster_id(cluster_id)),
        ports=(
            Port(constants.QUERY_PORT, port, cm.CLIPPER_QUERY_PORT_LABEL),
            Port(constants.RPC_PORT, rpc_port, cm.CLIPPER_RPC_PORT_LABEL),
        ),
        labels={
            cm.CLIPPER_QUERY_FRONTEND_CONTAINER_LABEL: "",
            TOTAL_WORKERS_LABEL: str(total),
            WORKERS_LABEL: str(options.workers),
            **_redis_labels(cluster),
        },
    )


def exporter(cluster_name: str, image: str) -> Container:
    return Container(
        f"query_frontend_exporter-{number_of(cluster_name)}",
        image,
        ("--query_frontend_name", f"{query_frontend_name(cluster_name)}:{constants.QUERY_PORT}"),
        alias=exporters_alias(cluster_name),
    )


def prometheus(cluster_name: str, port: int, metric_file: str = "", is_mounted: bool = False) -> Container:
    """The SDK of Clipper 0.4 adds its replicas to the `metric_file`, which Prometheus reads if it is mounted."""
    return Container(
        f"metric_frontend-{number_of(cluster_name)}",
        images.PROMETHEUS_IMAGE,
        _PROMETHEUS_COMMAND,
        ports=(Port(constants.PROMETHEUS_PORT, port, cm.CLIPPER_METRIC_PORT_LABEL),),
        labels={cm.CLIPPER_METRIC_CONFIG_LABEL: metric_file} if metric_file else {},
        files={} if is_mounted else {_PROMETHEUS_FILE: prometheus_configuration(cluster_name)},
        mounts={_PROMETHEUS_FILE: metric_file} if is_mounted else {},
    )


def prometheus_configuration(cluster_name: str) -> bytes:
    """Return the configuration as JSON, which is YAML. The DNS of the network knows what runs, so a change needs no new
    configuration."""

    def job(name: str, alias: str) -> dict[str, Any]:
        by_name = {"names": [alias], "type": "A", "port": constants.METRIC_PORT, "refresh_interval": "2s"}
        return {"job_name": name, "dns_sd_configs": [by_name]}

    jobs = [job("query", exporters_alias(cluster_name)), job("models", replicas_alias(cluster_name))]
    interval = {"scrape_interval": "5s", "evaluation_interval": "5s"}
    return json.dumps({"global": interval, "scrape_configs": jobs}, indent=2).encode()


def fluentd(cluster_name: str, port: int) -> Container:
    """Collects what all others write, and writes it itself."""
    source = f"<source>\n  @type forward\n  port {constants.FLUENTD_PORT}\n</source>\n"
    match = "<match **>\n  @type stdout\n</match>\n"
    return Container(
        f"fluentd-{number_of(cluster_name)}",
        images.FLUENTD_IMAGE,
        ports=(Port(constants.FLUENTD_PORT, port, cm.CLIPPER_FLUENTD_PORT_LABEL, ("tcp", "udp")),),
        files={"/fluentd/etc/fluent.conf": (source + match).encode()},
        log_config={"type": "json-file"},
    )


def fluentd_log(address: str) -> dict[str, Any]:
    """The log configuration of what sends its log to the Fluentd at `address`, as the Docker engine sees it."""
    # Async, so that containers start, and bounded, so that they stop, when nobody listens there.
    config = {"fluentd-address": address, "fluentd-async": "true", "fluentd-max-retries": "10", "tag": "{{.Name}}"}
    return {"type": "fluentd", "config": config}


def replica(cluster: Cluster, model: ModelSpec, number: str) -> Container:
    label = create_model_container_label(model.name, model.version)
    return Container(
        f"{label}-{number}",
        model.image,
        labels={cm.CLIPPER_MODEL_CONTAINER_LABEL: label, RESOURCES_LABEL: json.dumps(asdict(model.resources))},
        environment={
            constants.ENV_MODEL_NAME: model.name,
            constants.ENV_MODEL_VERSION: model.version,
            constants.ENV_RPC_HOST: query_frontend_name(cluster.name),
            constants.ENV_INPUT_TYPE: model.input_type,
        },
        alias=replicas_alias(cluster.name),
        resources=model.resources,
        load_seconds=model.load_seconds,
    )


def _options(**values: Any) -> tuple[str, ...]:
    return tuple(f"--{name}={value}" for name, value in values.items())


def _cluster_id(cluster_id: str) -> dict[str, str]:
    # The option is needed only where another cluster could use the same Redis. Frontends of 0.4 do not know it.
    return {"cluster_id": cluster_id} if cluster_id else {}


def _redis_labels(cluster: Cluster) -> dict[str, str]:
    return {cm.CLIPPER_REDIS_IP_LABEL: cluster.redis_ip, cm.CLIPPER_REDIS_PORT_LABEL: str(cluster.redis_port)}


# --- arguments of run ---


def run_arguments(container: Container, cluster: Cluster) -> dict[str, Any]:
    """The keyword arguments of ``run`` (and ``create``). What the user asks for goes before what we would choose."""
    arguments: dict[str, Any] = {"restart_policy": _RESTART_POLICY, **_limits(container.resources)}
    log_config = container.log_config or cluster.log_config
    if log_config:
        arguments["log_config"] = dict(log_config)
    if container.load_seconds > constants.LOAD_SECONDS:  # what is not named here is as the image says
        arguments["healthcheck"] = {"start_period": int(container.load_seconds * 1e9)}
    arguments |= cluster.extra
    if container.mounts:
        arguments["mounts"] = [*(cluster.extra.get("mounts") or ()), *map(_mount, container.mounts.items())]
    return arguments | {
        "image": container.image,
        "command": list(container.command) or None,
        "name": container.name,
        "network": cluster.network,
        "networking_config": _networking(container, cluster.network),
        "ports": {f"{port.inside}/{protocol}": port.on_host for port in container.ports for protocol in port.protocols},
        "labels": _merged(cluster.extra.get("labels"), _labels(container, cluster)),
        "environment": _merged(cluster.extra.get("environment"), container.environment),
    }


def _mount(inside_and_source: tuple[str, str]) -> dict[str, Any]:
    inside, source = inside_and_source
    return {"Type": "bind", "Source": source, "Target": inside, "ReadOnly": True}


def _labels(container: Container, cluster: Cluster) -> dict[str, str]:
    ports = {port.label: str(port.on_host) for port in container.ports}
    return {cm.CLIPPER_DOCKER_LABEL: cluster.name, **container.labels, **ports}


def _networking(container: Container, network: str) -> dict[str, Any] | None:
    return {network: {"Aliases": [container.alias]}} if container.alias else None


def _merged(theirs: Mapping[str, str] | Iterable[str] | None, ours: Mapping[str, str]) -> dict[str, str]:
    """Docker takes dictionaries and lists, of labels as of variables."""
    if theirs is None or isinstance(theirs, Mapping):
        return {**(theirs or {}), **ours}
    pairs = (text.partition("=") for text in theirs)
    return {**{name: value for name, _, value in pairs}, **ours}


def _limits(resources: Resources) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if resources.memory_bytes is not None:
        limits |= {"mem_limit": resources.memory_bytes, "memswap_limit": resources.memory_bytes}
    if resources.cpus is not None:
        limits["nano_cpus"] = round(resources.cpus * 1e9)
    if resources.gpus:
        which = {"device_ids": list(resources.gpus)} if isinstance(resources.gpus, tuple) else {"count": resources.gpus}
        limits["device_requests"] = [{**which, "capabilities": [["gpu"]]}]
    return limits


assert ALL_GPUS == -1, "Docker's number for all GPUs"


def taken_port(message: str, container: Container) -> int | None:
    """The port of `container` that Docker says it cannot bind, if that is what `message` says."""
    if not any(text in message for text in _TAKEN_PORT_TEXTS):
        return None
    named = {int(number) for number in _TAKEN_PORT.findall(message)}
    return next((port.on_host for port in container.ports if port.on_host in named), None)
