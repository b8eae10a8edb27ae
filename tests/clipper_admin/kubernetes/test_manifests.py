"""The objects of a cluster as values, held against the schemas of Kubernetes."""

import copy
from typing import Any

import kubernetes_validate
import pytest

from clipper_admin.kubernetes import manifests
from clipper_admin.kubernetes.spec import Cluster, FrontendOptions, Images, Ingress, Model, RedisVolume

KUBERNETES = "1.33"

PLAIN = Cluster("c")
EVERYTHING = Cluster(
    "cluster.1",
    namespace="serving",
    makes_namespace=True,
    redis_volume=RedisVolume("1Gi", "fast"),
    service_types={"query": "LoadBalancer", "redis": "NodePort", "metric": "ClusterIP"},
    image_pull_secrets=("registry",),
    node_selector={"disk": "ssd"},
    tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
    ingress=Ingress("clipper.example.com", "nginx", "clipper-tls", {"a/b": "c"}),
    resources={"redis": {"limits": {"memory": "2Gi"}}},
)
MODEL = Model("m", "1", "doubles", "registry/c-m:1")


def objects(cluster: Cluster) -> list[dict[str, Any]]:
    found = manifests.cluster_objects(cluster, FrontendOptions(), Images())
    return [*found, *manifests.model_objects(cluster, MODEL)]


@pytest.mark.parametrize("cluster", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_every_object_is_one_of_kubernetes(cluster: Cluster) -> None:
    for found in objects(cluster):
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
        wrong = copy.deepcopy(found) | {"nonsense": 1}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, KUBERNETES, strict=True)
