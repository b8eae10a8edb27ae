"""Prometheus in a cluster: what it scrapes, and what it may ask Kubernetes. Pure."""

import json
from typing import Any, Final

from clipper_admin.container_manager import CLIPPER_MODEL_CONTAINER_LABEL
from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.pods import Manifest
from clipper_admin.kubernetes.spec import Cluster
from clipper_common.constants import METRIC_PORT

SCRAPED: Final = {"prometheus.io/scrape": "true", "prometheus.io/port": str(METRIC_PORT)}
"""Annotations of pods whose metrics are fetched."""
BY_API: Final = "prometheus.yml"
BY_DNS: Final = "prometheus-dns.yml"
FOLDER: Final = "/etc/prometheus"

# Debian's build and others leave the discovery by Kubernetes' API out, and refuse a configuration that has it.
COMMAND: Final = f"""\
file={FOLDER}/{BY_API}
if ! promtool check config $file >&2; then
    echo "This Prometheus cannot ask Kubernetes for pods: it finds them by DNS, without their names and labels." >&2
    file={FOLDER}/{BY_DNS}
fi
exec prometheus --config.file=$file --storage.tsdb.path=/prometheus
"""

_RBAC: Final = "rbac.authorization.k8s.io"
_POD: Final = "__meta_kubernetes_pod_"


_JOBS: Final = {"query": names.QUERY, "models": names.MODEL}
"""The components that are scraped, by the name of the job."""


def services(cluster: Cluster) -> list[tuple[str, str]]:
    """The headless services by which pods are found in the DNS: their names and components."""
    return [(names.exporters(cluster.name), names.QUERY), (names.replicas(cluster.name), names.MODEL)]


def configurations(cluster: Cluster) -> dict[str, str]:
    """Prometheus' configuration by file name. Nothing needs to be told of a change: either way it finds all pods."""
    by_api = [_by_api(cluster, job, component) for job, component in _JOBS.items()]
    by_dns = [_by_dns(job, name) for job, (name, _) in zip(_JOBS, services(cluster), strict=True)]
    return {BY_API: _configuration(by_api), BY_DNS: _configuration(by_dns)}


def _configuration(found: list[Manifest]) -> str:
    """JSON, which is YAML."""
    interval = {"scrape_interval": "5s", "evaluation_interval": "5s"}
    return json.dumps({"global": interval, "scrape_configs": found}, indent=2) + "\n"


def _by_api(cluster: Cluster, name: str, component: str) -> Manifest:
    discovery = {
        "role": "pod",
        "namespaces": {"names": [cluster.namespace]},
        "selectors": [{"role": "pod", "label": names.as_text(names.selector(cluster.name, component))}],
    }
    model = CLIPPER_MODEL_CONTAINER_LABEL.replace(".", "_")
    relabeling: list[dict[str, Any]] = [
        {"source_labels": [f"{_POD}annotation_prometheus_io_scrape"], "regex": "true", "action": "keep"},
        {"source_labels": [f"{_POD}phase"], "regex": "Pending|Succeeded|Failed", "action": "drop"},
        # Each port of a pod is a target of its own. The SDK of Clipper 0.4 gives its ports no names.
        {"source_labels": [f"{_POD}container_port_number"], "regex": str(METRIC_PORT), "action": "keep"},
        {"source_labels": [f"{_POD}label_{model}"], "target_label": model},
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "kubernetes_namespace"},
        {"source_labels": [f"{_POD}name"], "target_label": "kubernetes_pod_name"},
    ]
    return {"job_name": name, "kubernetes_sd_configs": [discovery], "relabel_configs": relabeling}


def _by_dns(name: str, service: str) -> Manifest:
    by_name = {"names": [service], "type": "A", "port": METRIC_PORT, "refresh_interval": "2s"}
    return {"job_name": name, "dns_sd_configs": [by_name]}


def access(metadata: Manifest) -> list[Manifest]:
    """Prometheus' account, which may see the pods of its namespace and nothing else."""
    name = metadata["name"]
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": metadata["namespace"]}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": False},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "subjects": [subject],
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        },
    ]
