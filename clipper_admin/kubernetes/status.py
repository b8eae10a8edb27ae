"""The state of a cluster, read from its objects: problems of pods, and addresses of services. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipper_common.errors import ClipperException

Object = Mapping[str, Any]

UNSCHEDULABLE: Final = "Unschedulable"

_NO_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_CANNOT_START: Final = _NO_IMAGE | {
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError"),
    *("PostStartHookError", "PreStartHookError", "ContainerCannotRun"),
}
"""Why a container waits, other than for its turn."""
_UNBOUND: Final = "PersistentVolumeClaim"
_VOLUME_SECONDS: Final = 60.0
"""Seconds that a provisioner of volumes may take."""
_SCHEDULING_SECONDS: Final = 5.0
_ADDRESS_TYPES: Final = ("ExternalDNS", "ExternalIP")


# --- pods ---


def name_of(object_: Object) -> str:
    return str(object_["metadata"]["name"])


def is_terminating(object_: Object) -> bool:
    return "deletionTimestamp" in object_["metadata"]


def is_ready(pod: Object) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions") or ()
    )


def is_over(pod: Object) -> bool:
    """Whether it was evicted, or ended in another way after which Kubernetes makes a new one and keeps the old."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def is_started(pod: Object) -> bool:
    """Whether all its containers run."""
    containers = pod.get("status", {}).get("containerStatuses") or ()
    return bool(containers) and all("running" in (container.get("state") or {}) for container in containers)


def has_running(pod: Object) -> bool:
    """Whether any of its containers runs."""
    return any("running" in (container.get("state") or {}) for container in _containers(pod.get("status", {})))


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start, or does not go on."""

    pod: str
    reason: str
    """The reason, such as ``exited with code 3``."""
    container: str = ""
    """The container whose log has the details."""
    is_in_previous_log: bool = False
    """Whether the container runs again, or is about to, with a new log."""
    patience_seconds: float = 0.0
    """Seconds in which the state may get better by itself: a volume is made, a node comes up, a pod that ends makes
    room."""


def trouble_of(pod: Object) -> Trouble | None:
    """Return the problem of a pod; None if it is ready, starting, or ending normally."""
    status = pod.get("status", {})
    if is_terminating(pod) or is_ready(pod):
        return None
    name = name_of(pod)
    if status.get("phase") == "Failed" and status.get("reason"):
        return Trouble(name, f"failed: {status['reason']}: {status.get('message', '')}".rstrip(": "))
    for container in _containers(status):
        if found := _trouble_of_container(name, container):
            return found
    return _unscheduled(name, status)


def _containers(status: Object) -> Iterator[Object]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _trouble_of_container(pod: str, status: Object) -> Trouble | None:
    state, container = status.get("state") or {}, str(status["name"])
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in _CANNOT_START:
        return Trouble(pod, _why_not(status, waiting), container)
    ended = state.get("terminated")
    if ended and not _is_done(ended):
        return Trouble(pod, _how_it_ended(ended), container)
    before = (status.get("lastState") or {}).get("terminated")
    if before and not status.get("ready"):
        return Trouble(pod, _how_it_ended(before), container, is_in_previous_log=True)
    return None


def _why_not(status: Object, waiting: Object) -> str:
    said = f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    if waiting["reason"] not in _NO_IMAGE:
        return f"cannot start: {said}"
    return f"cannot get the image '{status.get('image', '')}', which its node must have, or be able to pull: {said}"


def _is_done(ended: Object) -> bool:
    """Whether this is how an init container ends."""
    return ended.get("reason") == "Completed" and not ended.get("exitCode")


def _how_it_ended(ended: Object) -> str:
    if ended.get("reason") == "OOMKilled":
        return "was killed because it took more memory than it may"
    if ended.get("message"):
        return f"exited with code {ended.get('exitCode')}: {ended['message']}"
    return f"exited with code {ended.get('exitCode')}"


def _unscheduled(name: str, status: Object) -> Trouble | None:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == UNSCHEDULABLE:
            message = str(condition.get("message", ""))
            patience = _VOLUME_SECONDS if _UNBOUND in message else _SCHEDULING_SECONDS
            return Trouble(name, f"cannot be scheduled: {message}".rstrip(": "), patience_seconds=patience)
    return None


def refusal_of(deployment: Object) -> str:
    """Why the pods of a Deployment cannot even be created (a quota, a policy), or nothing."""
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message", ""))
    return ""


def logs_of(pod: Object) -> Iterator[tuple[str, bool]]:
    """The logs that a pod has: names of containers, and whether it is that of the one before."""
    status = pod.get("status", {})
    for container in _containers(status):
        if container.get("restartCount"):
            yield str(container["name"]), True
        yield str(container["name"]), False


# --- addresses ---


@dataclass(frozen=True)
class Viewpoint:
    """The place from which the services of a cluster are looked at."""

    proxy: str | None
    """The address of a ``kubectl proxy``."""
    api_host: str
    """The host at which the API server is reached from here."""
    is_inside: bool
    """Whether this is a pod."""
    wants_internal: bool
    """Whether internal addresses of nodes can be reached from here."""


def address_of(service: Object, nodes: Iterable[Object], viewpoint: Viewpoint) -> str:
    """``host:port`` of a service, with a path behind it where a proxy is used. Raises ClipperException for none."""
    name, namespace = name_of(service), service["metadata"]["namespace"]
    kind, port = service["spec"]["type"], service["spec"]["ports"][0]
    if viewpoint.proxy:
        return f"{viewpoint.proxy}/api/v1/namespaces/{namespace}/services/{name}:{port['port']}/proxy"
    if kind == "LoadBalancer":
        if not (host := balancer_of(service)):
            raise ClipperException(
                f"The load balancer of service '{name}' has no address. Does this Kubernetes cluster provide load "
                "balancers? service_types chooses another kind of service."
            )
        return f"{host}:{port['port']}"
    if kind == "NodePort":
        return f"{node_host(nodes, viewpoint)}:{port['nodePort']}"
    if viewpoint.is_inside:
        return f"{name}.{namespace}.svc:{port['port']}"
    raise ClipperException(no_way_to(name))


def no_way_to(service: str) -> str:
    return (
        f"Service '{service}' is a ClusterIP, which pods alone can reach. Run 'kubectl proxy' and name it with "
        "kubernetes_proxy_addr='127.0.0.1:8001', or choose NodePort or LoadBalancer with service_types."
    )


def balancer_of(service: Object) -> str:
    """The host of a service's load balancer, or nothing while it is being made."""
    for ingress in service.get("status", {}).get("loadBalancer", {}).get("ingress") or ():
        return str(ingress.get("ip") or ingress.get("hostname") or "")
    return ""


def node_host(nodes: Iterable[Object], viewpoint: Viewpoint) -> str:
    """A host at which node ports are reached."""
    addresses = [address for node in _usable(nodes) for address in node["status"].get("addresses") or ()]
    for kind in _ADDRESS_TYPES:
        for address in addresses:
            if address["type"] == kind:
                return str(address["address"])
    internal = [str(address["address"]) for address in addresses if address["type"] == "InternalIP"]
    if viewpoint.api_host in internal:  # what reaches the API server there reaches node ports there
        return viewpoint.api_host
    if internal and (viewpoint.wants_internal or viewpoint.is_inside):
        return internal[0]
    raise ClipperException(
        "No node of this Kubernetes cluster has an external address. If the internal ones can be reached from here, "
        "pass useInternalIP=True; else run 'kubectl proxy' and name it with kubernetes_proxy_addr='127.0.0.1:8001'."
    )


def _usable(nodes: Iterable[Object]) -> Sequence[Object]:
    """Nodes that are ready, or all if none is."""
    known = list(nodes)
    return [node for node in known if is_ready(node)] or known
