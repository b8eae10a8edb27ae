"""The specification of a cluster on Kubernetes, as values that are checked when they are made. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from clipper_admin import images
from clipper_admin.arguments import check_text, check_texts, check_whole_number
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

_SERVICE_TYPES: Final = (CLUSTER_IP, NODE_PORT, LOAD_BALANCER)
_COMPONENTS: Final = (names.REDIS, names.MANAGEMENT, names.QUERY, names.EXPORTER, names.METRICS, names.MODEL)
_TOLERATION: Final = ("key", "operator", "value", "effect", "tolerationSeconds")
_QUANTITY: Final = re.compile(r"\d+(?:\.\d+)?(?:[kMGTPE]|[KMGTPE]i|m|e\d+)?")
_PROXY: Final = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[\w./~-]*)?")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True)
class Ingress:
    """A host name for the query frontends, served by the Kubernetes cluster's ingress controller."""

    host: str
    class_name: str | None = None
    """Which controller; None is the Kubernetes cluster's own choice."""
    tls_secret: str | None = None
    """The secret with the certificate for HTTPS."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """The annotations that this controller needs."""

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not _HOST.fullmatch(self.host):
            raise ClipperException(
                f"Invalid value: ingress host={self.host!r}. It should be a name such as clipper.example.com."
            )


@dataclass(frozen=True)
class RedisVolume:
    """A volume that keeps the configuration when Redis' pod goes."""

    size: str
    """As Kubernetes writes it, such as ``1Gi``."""
    storage_class: str | None = None
    """None leaves the choice to the Kubernetes cluster."""

    def __post_init__(self) -> None:
        _check_quantity("the size of redis_volume", self.size)


@dataclass(frozen=True)
class Cluster:
    """The properties that all objects of a cluster have in common."""

    name: str
    namespace: str = "default"
    makes_namespace: bool = False
    redis_ip: str | None = None
    """The host of a Redis that runs already; None gives the cluster one of its own."""
    redis_port: int = constants.REDIS_PORT
    redis_volume: RedisVolume | None = None
    service_types: Mapping[str, str] = field(default_factory=dict)
    """The service types that differ from `DEFAULT_SERVICE_TYPES`."""
    image_pull_secrets: tuple[str, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    ingress: Ingress | None = None
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Requests and limits, as Kubernetes writes them, of components that shall not have the usual ones."""
    has_network_policies: bool = True
    isolates_models: bool = False
    """Whether models may connect to the query frontends only."""
    restricts_models: bool = True
    """False lets models run with the user and the rights that their images ask for, such as those of Clipper 0.4."""

    def __post_init__(self) -> None:
        names.check_cluster_name(self.name)
        names.check_namespace(self.namespace)
        check_whole_number("redis_port", self.redis_port, least=1, most=65535)
        if self.redis_ip is not None:
            check_text("redis_ip", self.redis_ip)
        if self.redis_ip is not None and self.redis_volume is not None:
            raise ClipperException(
                f"redis_volume is for a Redis of the cluster's own, and redis_ip={self.redis_ip!r} names another: "
                "give one of the two."
            )
        if self.isolates_models and not self.has_network_policies:
            raise ClipperException("Models are isolated by network policies, and there shall be none: choose one")
        _check_type("ingress", self.ingress, Ingress)
        _check_type("redis_volume", self.redis_volume, RedisVolume)
        check_service_types(self.service_types)
        check_texts("image_pull_secrets", self.image_pull_secrets)
        check_node_selector(self.node_selector)
        check_tolerations(self.tolerations)
        check_resources(self.resources)

    def service_type(self, key: str) -> str:
        return self.service_types.get(key, DEFAULT_SERVICE_TYPES[key])

    @property
    def redis_address(self) -> str:
        """The host of the Redis that the frontends use."""
        return self.redis_ip or names.redis(self.name)


@dataclass(frozen=True)
class Images:
    """The images of the containers of a cluster."""

    query_frontend: str = images.image_name(images.QUERY_FRONTEND)
    mgmt_frontend: str = images.image_name(images.MANAGEMENT_FRONTEND)
    frontend_exporter: str = images.image_name(images.FRONTEND_EXPORTER)
    redis: str = images.REDIS_IMAGE
    prometheus: str = images.PROMETHEUS_IMAGE


# --- checks ---


def check_proxy(address: str) -> str:
    """The address of a ``kubectl proxy`` without its scheme. Raises ClipperException for what cannot be one."""
    bare = check_text("kubernetes_proxy_addr", address).removeprefix("http://").rstrip("/")
    if not _PROXY.fullmatch(bare):
        raise ClipperException(
            f"Invalid value: kubernetes_proxy_addr={address!r}. It should be the host:port at which 'kubectl proxy' "
            "listens, such as '127.0.0.1:8001'. It speaks plain HTTP: no other scheme can be used."
        )
    return bare


def check_service_types(value: Mapping[str, str] | None) -> dict[str, str]:
    """Types of some or all services; None is none. Raises ClipperException for what Kubernetes does not know."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ClipperException(f"service_types must be 'dict' type, and is {value!r}")
    if unknown := sorted(set(map(str, value)) - DEFAULT_SERVICE_TYPES.keys()):
        raise ClipperException(
            f"service_types has unknown keys: {', '.join(unknown)}. These are known: "
            f"{', '.join(DEFAULT_SERVICE_TYPES)}."
        )
    if "ExternalName" in value.values():
        raise ClipperException("Clipper does not support 'ExternalName' service")
    if unknown := sorted({str(kind) for kind in value.values()} - set(_SERVICE_TYPES)):
        raise ClipperException(
            f"service_types has unknown values: {', '.join(unknown)}. These are known: {', '.join(_SERVICE_TYPES)}."
        )
    return dict(value)


def check_node_selector(value: Mapping[str, str] | None) -> dict[str, str]:
    """Labels of nodes; None is none."""
    found = {} if value is None else value
    if not isinstance(found, Mapping) or not all(isinstance(text, str) for text in found.values()):
        raise ClipperException(
            f"Invalid value: node_selector={value!r}. It should be a dictionary of texts, such as "
            "{'disktype': 'ssd'}."
        )
    return dict(found)


def check_tolerations(value: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Taints that pods bear."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(one, Mapping) and not one.keys() - set(_TOLERATION) for one in value):
        raise ClipperException(
            f"Invalid value: tolerations={value!r}. It should be a list of dictionaries with some of "
            f"{', '.join(_TOLERATION)}."
        )
    return tuple(value)


def check_resources(value: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    """Requests and limits by component; None is none."""
    if not isinstance(value, (Mapping, type(None))) or set(map(str, value or ())) - set(_COMPONENTS):
        raise ClipperException(
            f"Invalid value: resources={value!r}. It should be a dictionary, with some of {', '.join(_COMPONENTS)} "
            "as its keys."
        )
    for component, kinds in (value or {}).items():
        is_map = isinstance(kinds, Mapping) and all(isinstance(quantities, Mapping) for quantities in kinds.values())
        if not is_map or kinds.keys() - {"requests", "limits"}:
            raise ClipperException(
                f"Invalid value: resources[{component!r}]={kinds!r}. It should be a dictionary with 'requests', "
                "'limits' or both, such as {'requests': {'cpu': '500m'}, 'limits': {'memory': '2Gi'}}."
            )
        for kind, quantities in kinds.items():
            for name, quantity in quantities.items():
                _check_quantity(f"resources[{component!r}][{kind!r}][{name!r}]", quantity)
    return dict(value or {})


def _check_type(what: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise ClipperException(
            f"Invalid value: {what}={value!r}. It should be {kind.__name__}(...) from {kind.__module__}."
        )


def _check_quantity(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not _QUANTITY.fullmatch(str(value)):
        raise ClipperException(
            f"Invalid value: {what} is {value!r}. It should be a quantity of Kubernetes, such as '500m' or '2Gi'."
        )
