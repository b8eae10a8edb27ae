"""The common parts of the pods of a cluster: security, probes, resources, preferred nodes. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from clipper_admin.kubernetes.spec import Cluster

Manifest = dict[str, Any]

CLIPPER_USER: Final = 10001
"""The user of Clipper's images."""
REDIS_USER: Final = 999
PROMETHEUS_USER: Final = 65534

_REVISIONS: Final = 3
"""Kept, for `kubectl rollout undo`."""
_TMP: Final = "tmp"


def container(name: str, image: str, **fields: Any) -> Manifest:
    """A container without rights."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **fields,
    }


def template(
    cluster: Cluster,
    labels: Mapping[str, str],
    user: int,
    containers: list[Manifest],
    volumes: list[Manifest],
    annotations: Mapping[str, str] | None = None,
    **fields: Any,
) -> Manifest:
    """A pod template that the "restricted" pod security standard admits."""
    metadata: Manifest = {"labels": dict(labels)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    spec: Manifest = {
        "automountServiceAccountToken": False,
        # A service of the namespace could be called so that its variables are taken for ours.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": volumes,
    }
    if cluster.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    if cluster.node_selector:
        spec["nodeSelector"] = dict(cluster.node_selector)
    if cluster.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in cluster.tolerations]
    return {"metadata": metadata, "spec": spec | fields}


def unrestricted(template: Manifest) -> Manifest:
    """The same pods with the user and the rights that their images ask for."""
    spec = {name: value for name, value in template["spec"].items() if name != "securityContext"}
    spec["containers"] = [
        {name: value for name, value in container.items() if name != "securityContext"}
        for container in spec["containers"]
    ]
    return {**template, "spec": spec}


def deployment(
    metadata: Manifest,
    selector: Mapping[str, str],
    replicas: int,
    template: Manifest,
    strategy: Manifest,
    **fields: Any,
) -> Manifest:
    spec = {
        "replicas": replicas,
        "revisionHistoryLimit": _REVISIONS,
        "selector": {"matchLabels": dict(selector)},
        "strategy": strategy,
        "template": template,
        **fields,
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


ROLLING: Final[Manifest] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
RECREATE: Final[Manifest] = {"type": "Recreate"}


def spread(selector: Mapping[str, str]) -> list[Manifest]:
    """Prefer other zones and nodes than those where pods with these labels run."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(selector)},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def empty_volume(name: str) -> Manifest:
    return {"name": name, "emptyDir": {}}


def mount(name: str, path: str, **fields: Any) -> Manifest:
    return {"name": name, "mountPath": path, **fields}


TMP_VOLUME: Final = empty_volume(_TMP)
TMP_MOUNT: Final = mount(_TMP, "/tmp")


def port(name: str, number: int) -> Manifest:
    return {"name": name, "containerPort": number}


def http_probes(alive: str, ready: str, start_seconds: int) -> Manifest:
    """All probes of a container whose port is called `http`, by the paths that tell whether it is alive and ready."""

    def get(path: str, period: int, failures: int) -> Manifest:
        return {"httpGet": {"path": path, "port": "http"}, **_pace(period, failures)}

    return {
        "startupProbe": get(alive, 1, start_seconds),
        "readinessProbe": get(ready, 2, 3),
        "livenessProbe": get(alive, 10, 6),
    }


def tcp_probe(port: str, period: int, failures: int) -> Manifest:
    return {"tcpSocket": {"port": port}, **_pace(period, failures)}


def command_probe(command: list[str], period: int, failures: int) -> Manifest:
    return {"exec": {"command": command}, **_pace(period, failures)}


def _pace(period: int, failures: int) -> Manifest:
    # Longer than an event loop, or a new process on a busy node, may take.
    return {"periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
