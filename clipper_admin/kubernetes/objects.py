"""Objects other than pods: services, volumes, what keeps pods from being evicted together. Pure."""

from collections.abc import Mapping
from typing import Final

from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.pods import Manifest
from clipper_admin.kubernetes.spec import Cluster, Ingress, RedisVolume
from clipper_common.constants import METRIC_PORT

POLICY_API: Final = "policy/v1"
OLDER_APIS: Final = {POLICY_API: "policy/v1beta1"}
"""The older API version with the same object, for servers without the newer one."""


def metadata(cluster: Cluster, name: str, component: str) -> Manifest:
    return {"name": name, "namespace": cluster.namespace, "labels": names.labels(cluster.name, component)}


def annotated(manifest: Manifest, annotations: Mapping[str, str]) -> Manifest:
    """The same object with more annotations."""
    metadata = manifest["metadata"]
    return manifest | {"metadata": metadata | {"annotations": {**metadata.get("annotations", {}), **annotations}}}


def namespace(cluster: Cluster) -> Manifest:
    labels = {"app.kubernetes.io/part-of": "clipper", "app.kubernetes.io/managed-by": names.MANAGED_BY}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace, "labels": labels}}


def config_map(metadata: Manifest, data: Mapping[str, str]) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}


def service(metadata: Manifest, selector: Mapping[str, str], kind: str, number: int, port: str) -> Manifest:
    """A service with the port `number`, for the port of the pods that is called `port`.

    The service's own port has its number for a name: the SDK of Clipper 0.4 reads the number from there.
    """
    spec = {
        "type": kind,
        "selector": dict(selector),
        "ports": [{"name": str(number), "protocol": "TCP", "port": number, "targetPort": port}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def headless_service(cluster: Cluster, name: str, component: str) -> Manifest:
    """A name in the DNS for the addresses of all pods of a component that serve metrics."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": names.selector(cluster.name, component),
        "ports": [{"name": "metrics", "protocol": "TCP", "port": METRIC_PORT, "targetPort": METRIC_PORT}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(cluster, name, component), "spec": spec}


def disruption_budget(metadata: Manifest, selector: Mapping[str, str]) -> Manifest:
    # Not `minAvailable`: with one replica it would keep its node from ever being drained.
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": dict(selector)}}
    return {"apiVersion": POLICY_API, "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}


def volume_claim(metadata: Manifest, volume: RedisVolume) -> Manifest:
    spec: Manifest = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": volume.size}}}
    if volume.storage_class is not None:
        spec["storageClassName"] = volume.storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def ingress(metadata: Manifest, wanted: Ingress, number: int) -> Manifest:
    """The way from a host name to the service of the same name."""
    backend = {"service": {"name": metadata["name"], "port": {"number": number}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    spec: Manifest = {"rules": [{"host": wanted.host, "http": {"paths": paths}}]}
    if wanted.class_name is not None:
        spec["ingressClassName"] = wanted.class_name
    if wanted.tls_secret is not None:
        spec["tls"] = [{"hosts": [wanted.host], "secretName": wanted.tls_secret}]
    if wanted.annotations:
        metadata = {**metadata, "annotations": dict(wanted.annotations)}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}
