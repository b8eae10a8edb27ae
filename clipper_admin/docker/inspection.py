"""The state of a running cluster and of its containers, read from what docker's ``inspect`` tells of these. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from clipper_admin import container_manager as cm
from clipper_admin.docker.containers import (
    RESOURCES_LABEL,
    STOPPED_SUFFIX,
    TOTAL_WORKERS_LABEL,
    WORKERS_LABEL,
    Cluster,
)
from clipper_admin.resources import Resources
from clipper_common.errors import ClipperException

Attributes = Mapping[str, Any]

# --- a cluster ---


@dataclass(frozen=True)
class RunningCluster:
    """A cluster as it was started. Ports are those of the host."""

    cluster: Cluster
    query_port: int
    management_port: int
    rpc_port: int
    metric_port: int
    total_workers: int
    """The number of workers of the query frontend, at the start."""
    workers: int
    """The number of workers that make up one of `num_frontend_replicas`."""


def running_cluster(wanted: Cluster, labels: Mapping[str, str], frontend: Attributes) -> RunningCluster:
    """Return how a cluster runs, by the labels of all its containers and by its query frontend."""
    own = labels_of(frontend)
    cluster = replace(
        wanted,
        network=str(frontend["HostConfig"]["NetworkMode"]),
        redis_ip=own.get(cm.CLIPPER_REDIS_IP_LABEL, ""),
        redis_port=read_port(labels, cm.CLIPPER_REDIS_PORT_LABEL),
        log_config=log_config_of(frontend),
    )
    return RunningCluster(
        cluster,
        query_port=read_port(own, cm.CLIPPER_QUERY_PORT_LABEL),
        management_port=read_port(labels, cm.CLIPPER_MANAGEMENT_PORT_LABEL),
        rpc_port=read_port(own, cm.CLIPPER_RPC_PORT_LABEL),
        metric_port=read_port(labels, cm.CLIPPER_METRIC_PORT_LABEL),
        total_workers=int(own.get(TOTAL_WORKERS_LABEL, 1)),
        workers=int(own.get(WORKERS_LABEL, 1)),
    )


# --- a container ---


def labels_of(attributes: Attributes) -> dict[str, str]:
    return dict(attributes["Config"].get("Labels") or {})


def name_of(attributes: Attributes) -> str:
    return str(attributes["Name"]).lstrip("/")


def was_stopped(attributes: Attributes) -> bool:
    """Whether Clipper stopped this replica."""
    return name_of(attributes).endswith(STOPPED_SUFFIX)


def is_wanted(attributes: Attributes) -> bool:
    """Whether the container runs, or will by itself. One that a user stopped or killed is not wanted any more."""
    return not was_stopped(attributes) and attributes["State"]["Status"] not in ("exited", "dead")


def resources_of(attributes: Attributes) -> Resources:
    """The resources with which a replica was deployed."""
    values = json.loads(labels_of(attributes).get(RESOURCES_LABEL, "{}"))
    if isinstance(values.get("gpus"), list):
        values["gpus"] = tuple(values["gpus"])
    return Resources(**values)


def read_port(labels: Mapping[str, str], label: str) -> int:
    """The port in a label. Raises ClipperException when there is none."""
    text = labels.get(label, "")
    if not text.isdecimal():
        raise ClipperException(
            f"The containers of this cluster carry no port in the label {label}: some of them are missing. "
            "stop_all() removes the rest, start_clipper() starts anew."
        )
    return int(text)


def log_config_of(attributes: Attributes) -> dict[str, Any]:
    config = attributes["HostConfig"]["LogConfig"]
    return {"type": config["Type"], "config": dict(config.get("Config") or {})}


def how_it_ended(attributes: Attributes) -> str:
    """Return how an unhealthy container ended last; empty if it never did."""
    state = attributes["State"]
    if state.get("OOMKilled"):
        return "was killed because it took more memory than it may"
    if state.get("Error"):
        return f"could not be started: {state['Error']}"
    if state["Status"] in ("exited", "dead", "restarting"):
        return f"exited with code {state['ExitCode']}"
    return "ended and was started again" if attributes.get("RestartCount") else ""


def started_at(attributes: Attributes) -> float:
    """Seconds since 1970 at which a container was started last."""
    # Docker writes nanoseconds, of which datetime knows nothing.
    whole, _, fraction = str(attributes["State"]["StartedAt"]).rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
