"""What a cluster on Kubernetes shall be: values, checked when they are made. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clipper_admin import images
from clipper_admin.container_manager import UNLIMITED, Resources
from clipper_admin.docker.containers import PROMETHEUS_IMAGE, REDIS_IMAGE
from clipper_admin.kubernetes import names
from clipper_common import constants
from clipper_common.errors import ClipperException

NODE_PORT: Final = "NodePort"
CLUSTER_IP: Final = "ClusterIP"
LOAD_BALANCER: Final = "LoadBalancer"
DEFAULT_SERVICE_TYPES: Final = {
    "redis": CLUSTER_IP,
    "management": NODE_PORT,
    "query": NODE_PORT,
    "query-rpc": NODE_PORT,
    "metric": NODE_PORT,
}
"""Redis has no password: it is not shown to the world unless that is asked for."""

_QUANTITY: Final = re.compile(r"\d+(?:\.\d+)?(?:[kMGTPE]|[KMGTPE]i|m)?")


@dataclass(frozen=True)
class Ingress:
    """How the query frontends are reached by a name, through the Kubernetes cluster's ingress controller."""

    host: str
    class_name: str | None = None
    tls_secret: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RedisVolume:
    """A volume that keeps the configuration when Redis' pod goes."""

    size: str
    storage_class: str | None = None
    """None is the Kubernetes cluster's own choice."""


@dataclass(frozen=True)
class Cluster:
    """What all objects of a cluster have in common."""

    name: str
    namespace: str = "default"
    makes_namespace: bool = False
    redis_ip: str | None = None
    """The host of a Redis that runs already; None gives the cluster one of its own."""
    redis_port: int = constants.REDIS_PORT
    redis_volume: RedisVolume | None = None
    service_types: Mapping[str, str] = field(default_factory=dict)
    """Those that shall not be as in `DEFAULT_SERVICE_TYPES`."""
    image_pull_secrets: tuple[str, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    ingress: Ingress | None = None
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Requests and limits, as Kubernetes writes them, of components that shall not have the usual ones."""
    has_network_policies: bool = True

    def __post_init__(self) -> None:
        names.check_cluster_name(self.name)
        names.check_namespace(self.namespace)
        check_service_types(self.service_types)

    def service_type(self, key: str) -> str:
        return self.service_types.get(key, DEFAULT_SERVICE_TYPES[key])

    @property
    def redis_address(self) -> str:
        """The host of the Redis that the frontends use."""
        return self.redis_ip or names.redis(self.name)


@dataclass(frozen=True)
class Images:
    """What the containers of a cluster run."""

    query_frontend: str = images.image_name(images.QUERY_FRONTEND)
    mgmt_frontend: str = images.image_name(images.MANAGEMENT_FRONTEND)
    frontend_exporter: str = images.image_name(images.FRONTEND_EXPORTER)
    redis: str = REDIS_IMAGE
    prometheus: str = PROMETHEUS_IMAGE


@dataclass(frozen=True)
class FrontendOptions:
    """How the query frontends run."""

    cache_size: int = constants.DEFAULT_PREDICTION_CACHE_SIZE_BYTES
    thread_pool_size: int = 1
    timeout_request: int = 5
    timeout_content: int = 300
    num_replicas: int = 1
    """Pods."""
    workers: int = 1
    """Processes of each pod."""


@dataclass(frozen=True)
class Model:
    """A model version that shall be served."""

    name: str
    version: str
    input_type: str
    image: str
    num_replicas: int = 1
    resources: Resources = UNLIMITED


def check_service_types(value: Mapping[str, str] | None) -> dict[str, str]:
    """Types of some or all services; None is none. Raises ClipperException for what Kubernetes does not know."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ClipperException(f"service_types must be 'dict' type, and is {value!r}")
    if unknown := sorted(set(map(str, value)) - DEFAULT_SERVICE_TYPES.keys()):
        known = ", ".join(DEFAULT_SERVICE_TYPES)
        raise ClipperException(f"service_types has unknown keys: {', '.join(unknown)}. These are known: {known}.")
    if "ExternalName" in value.values():
        raise ClipperException("Clipper does not support 'ExternalName' service")
    known_types = (CLUSTER_IP, NODE_PORT, LOAD_BALANCER)
    if unknown := sorted({str(kind) for kind in value.values()} - set(known_types)):
        raise ClipperException(
            f"service_types has unknown values: {', '.join(unknown)}. These are known: {', '.join(known_types)}."
        )
    return dict(value)
