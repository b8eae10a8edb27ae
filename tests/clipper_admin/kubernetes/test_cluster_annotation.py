"""The values of a cluster, kept on an object."""

from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.kubernetes import cluster_annotation
from clipper_admin.kubernetes.manifests import cluster_objects
from clipper_admin.kubernetes.spec import Cluster, Images, Ingress, RedisVolume

FULL = Cluster(
    name="c",
    namespace="n",
    redis_volume=RedisVolume("1Gi"),
    service_types={"query": "LoadBalancer"},
    image_pull_secrets=("s",),
    node_selector={"a": "b"},
    tolerations=({"key": "k", "operator": "Exists"},),
    ingress=Ingress("host.example", annotations={"x": "y"}),
    resources={"redis": {"limits": {"memory": "2Gi"}}},
    has_network_policies=False,
)


def test_it_is_read_as_it_was_written() -> None:
    for cluster in (FULL, Cluster("c", "n", redis_ip="redis.example", redis_port=1234)):
        objects = cluster_objects(cluster, FrontendOptions(), Images())
        changed = [it for it in cluster_annotation.recorded(objects, cluster) if it not in objects]
        (keeper,) = changed
        assert (keeper["kind"], keeper["metadata"]["name"]) == ("Deployment", "query-frontend-0-at-c")
        assert cluster_annotation.read(keeper, Cluster("c", "n")) == cluster


def test_other_annotations_stay() -> None:
    (keeper,) = cluster_annotation.recorded(
        [{"kind": "Deployment", "metadata": {"name": "query-frontend-0-at-c", "annotations": {"a": "b"}}}], FULL
    )
    assert keeper["metadata"]["annotations"].keys() == {"a", cluster_annotation.ANNOTATION}


def test_without_it_what_the_manager_was_given_counts() -> None:
    assert cluster_annotation.read({"metadata": {}}, FULL) == FULL


def test_values_of_another_version_are_left_out() -> None:
    (keeper,) = cluster_annotation.recorded(
        [{"kind": "Deployment", "metadata": {"name": "query-frontend-0-at-c"}}], FULL
    )
    text = keeper["metadata"]["annotations"][cluster_annotation.ANNOTATION]
    keeper["metadata"]["annotations"][cluster_annotation.ANNOTATION] = text.replace("{", '{"new_in_0_9": 1, ', 1)
    assert cluster_annotation.read(keeper, Cluster("c", "n")) == FULL
