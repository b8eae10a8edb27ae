"""The resources that pods request of their node, and may take at most. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.pods import Manifest
from clipper_admin.kubernetes.spec import Cluster
from clipper_admin.resources import ALL_GPUS, Resources
from clipper_common.errors import ClipperException

# No limits of CPU: a program that is held back misses deadlines while its node idles.
_USUAL: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    names.REDIS: {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "1Gi"}},
    names.MANAGEMENT: {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
    names.EXPORTER: {"requests": {"cpu": "10m", "memory": "48Mi"}, "limits": {"memory": "256Mi"}},
    names.METRICS: {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}},
    names.MODEL: {"requests": {"cpu": "50m", "memory": "64Mi"}},
}
_WORKER_CPU_MILLIS: Final = 100
_WORKER_MEBIBYTES: Final = 128
_WORKER_MOST_MEBIBYTES: Final = 2048
"""The most mebibytes that a worker takes besides its cache. Queues are long when a model is slow and its inputs are
large."""
_MEBIBYTE: Final = 2**20


def of(cluster: Cluster, component: str) -> Manifest:
    return _copied(cluster.resources.get(component, _USUAL[component]))


def of_query_frontend(cluster: Cluster, options: FrontendOptions) -> Manifest:
    """More for more workers; each of them has a cache."""
    if names.QUERY in cluster.resources:
        return _copied(cluster.resources[names.QUERY])
    most = _WORKER_MOST_MEBIBYTES - (-options.cache_size // _MEBIBYTE)
    return {
        "requests": {
            "cpu": f"{_WORKER_CPU_MILLIS * options.workers}m",
            "memory": f"{_WORKER_MEBIBYTES * options.workers}Mi",
        },
        "limits": {"memory": f"{most * options.workers}Mi"},
    }


def of_model(cluster: Cluster, wanted: Resources) -> Manifest:
    """The limits of a model version are also its requests: they are reserved for it."""
    limits: dict[str, str] = {}
    if wanted.cpus is not None:
        limits["cpu"] = f"{max(1, round(wanted.cpus * 1000))}m"
    if wanted.memory_bytes is not None:
        limits["memory"] = str(wanted.memory_bytes)
    if wanted.gpus is not None:
        limits["nvidia.com/gpu"] = str(_number_of_gpus(wanted.gpus))
    found = of(cluster, names.MODEL)
    merged = {kind: found.get(kind, {}) | limits for kind in ("requests", "limits")}
    return {kind: values for kind, values in merged.items() if values}


def _number_of_gpus(gpus: int | tuple[str, ...]) -> int:
    if isinstance(gpus, int) and gpus != ALL_GPUS:
        return gpus
    given = list(gpus) if isinstance(gpus, tuple) else "all"
    raise ClipperException(
        f"Invalid value: gpus={given!r}. Kubernetes itself chooses the GPUs of a replica: say how many it gets."
    )


def _copied(resources: Mapping[str, Mapping[str, Any]]) -> Manifest:
    return {kind: dict(values) for kind, values in resources.items()}
