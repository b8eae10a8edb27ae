"""New container managers, on ports that are free."""

from collections.abc import Callable
from typing import Any

from clipper_admin import (
    ContainerManager,
    DockerContainerManager,
    KubernetesContainerManager,
    ProcessContainerManager,
)

NewManager = Callable[..., ContainerManager]


def process_manager(cluster_name: str, **options: Any) -> ContainerManager:
    free_ports = dict.fromkeys(
        ["clipper_query_port", "clipper_management_port", "clipper_rpc_port", "redis_port", "prometheus_port"], 0
    )
    return ProcessContainerManager(cluster_name, **free_ports | options)


def docker_manager(cluster_name: str, **options: Any) -> ContainerManager:
    free_ports = dict.fromkeys(
        ["clipper_query_port", "clipper_management_port", "clipper_rpc_port", "prometheus_port", "fluentd_port"], 0
    )
    return DockerContainerManager(cluster_name, **free_ports | options)


SMALL = {
    component: {"requests": {"cpu": "5m", "memory": "16Mi"}}
    for component in ["redis", "mgmt-frontend", "query-frontend", "frontend-exporter", "metrics", "model"]
}
"""Small requests of resources, so that many models fit on a small node."""


def kubernetes_manager(cluster_name: str, **options: Any) -> ContainerManager:
    return KubernetesContainerManager(cluster_name, **{"resources": SMALL} | options)


MANAGERS: dict[str, NewManager] = {
    "process": process_manager,
    "docker": docker_manager,
    "kubernetes": kubernetes_manager,
}
ON_ONE_MACHINE = ["process", "docker"]
"""The managers whose containers differ. Kubernetes runs the same containers as Docker."""
