"""The objects of a cluster as values: compared whole with files, and held against the schemas of Kubernetes.

``python tests/clipper_admin/kubernetes/test_manifests.py`` writes the files anew; read what changed.
"""

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from clipper_admin import ClipperException
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.kubernetes import export, manifests, names, prometheus
from clipper_admin.kubernetes.pods import CLIPPER_USER
from clipper_admin.kubernetes.spec import Cluster, Images, Ingress, RedisVolume
from clipper_admin.model_spec import ModelSpec
from clipper_admin.resources import ALL_GPUS, Resources
from clipper_common import constants

FILES = Path(__file__).parent / "manifests"
DOCKERFILES = Path(__file__).parents[3] / "dockerfiles"
KUBERNETES = "1.33"

IMAGES = Images("r/query:1", "r/management:1", "r/exporter:1", "redis:1", "prometheus:1")
PLAIN = Cluster("c")
EVERYTHING = Cluster(
    "cluster.1",
    namespace="serving",
    makes_namespace=True,
    redis_port=6380,
    redis_volume=RedisVolume("1Gi", "fast"),
    service_types={"query": "LoadBalancer", "redis": "NodePort", "metric": "ClusterIP"},
    image_pull_secrets=("registry",),
    node_selector={"disk": "ssd"},
    tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
    ingress=Ingress("clipper.example.com", "nginx", "clipper-tls", {"example.com/timeout": "60"}),
    resources={"redis": {"limits": {"memory": "2Gi"}}, "query-frontend": {"requests": {"cpu": 2, "memory": "1Gi"}}},
    isolates_models=True,
)
EXTERNAL = Cluster("c", redis_ip="redis.example.com", has_network_policies=False, restricts_models=False)
MODEL = ModelSpec("m", "1", "doubles", "r/c-m:1")
FULL_OPTIONS = FrontendOptions(
    cache_size=2**20 + 1,
    qf_http_thread_pool_size=2,
    qf_http_timeout_request=7,
    qf_http_timeout_content=70,
    num_frontend_replicas=3,
    workers=2,
    query_frontend_flags={"max_connections": 500},
    mgmt_frontend_flags={"allowed_origins": "https://dashboard.example.com"},
)
LARGE_MODEL = ModelSpec("a-model", "2.0-rc", "strings", "r/a-model:2.0-rc", 3, Resources(2**30, 1.5, 2))
CASES = {
    "plain": (PLAIN, FrontendOptions(), MODEL),
    "everything": (EVERYTHING, FULL_OPTIONS, LARGE_MODEL),
    "external": (EXTERNAL, FrontendOptions(), MODEL),
}


def objects(case: str) -> list[dict[str, Any]]:
    cluster, options, model = CASES[case]
    return [*manifests.cluster_objects(cluster, options, IMAGES), *manifests.model_objects(cluster, model)]


every_case = pytest.mark.parametrize("case", CASES)
every_object = pytest.mark.parametrize(
    "found",
    [
        pytest.param(found, id=f"{case}-{found['kind']}-{found['metadata']['name']}")
        for case in CASES
        for found in objects(case)
    ],
)


def templates(case: str) -> Iterator[dict[str, Any]]:
    for found in objects(case):
        if found["kind"] == "Deployment":
            yield found["spec"]["template"]


def one(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(object_ for object_ in found if (object_["kind"], object_["metadata"]["name"]) == (kind, name))


def model_container(cluster: Cluster, model: ModelSpec) -> dict[str, Any]:
    _, deployment = manifests.model_objects(cluster, model)
    container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


# --- whole ---


@every_case
def test_manifests_are_those_in_the_files(case: str) -> None:
    written = {path.name: path.read_text() for path in (FILES / case).iterdir()}
    assert export.files(objects(case)) == written


@every_case
def test_yaml_says_the_same_and_always_does(case: str) -> None:
    text = export.to_yaml(objects(case))
    assert list(yaml.safe_load_all(text)) == objects(case)
    assert export.to_yaml(objects(case)) == text


@every_case
def test_files_are_applied_in_the_order_of_their_names(case: str) -> None:
    found = export.files(objects(case))
    assert sorted(found) == list(found)
    assert [yaml.safe_load(found[name]) for name in sorted(found)] == objects(case)


def test_files_of_a_former_export_are_replaced() -> None:
    there = ["00-deployment-a.yaml", "01-service-a.yaml", "02-service-b.yaml", "kustomization.yaml", "service-a.yaml"]
    assert export.replaced(["00-service-a.yaml", "01-deployment-a.yaml"], there) == there[:2]
    assert export.replaced(there, there) == []


@every_object
def test_every_object_is_one_of_kubernetes(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, KUBERNETES, strict=True)
    wrong = copy.deepcopy(found) | {"nonsense": 1}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@every_object
def test_every_object_of_a_cluster_is_found_by_its_labels(found: dict[str, Any]) -> None:
    if found["kind"] == "Namespace":
        return
    labels = found["metadata"]["labels"]
    assert labels["ai.clipper.container.label"] == labels["app.kubernetes.io/instance"]
    recommended = {"name", "instance", "component", "part-of", "managed-by"}
    assert {f"app.kubernetes.io/{name}" for name in recommended} <= labels.keys()


@every_case
def test_no_two_objects_have_the_same_name(case: str) -> None:
    found = [(object_["kind"], object_["metadata"]["name"]) for object_ in objects(case)]
    assert len(set(found)) == len(found)


@every_case
def test_selectors_are_among_the_labels_of_their_pods(case: str) -> None:
    pods = [template["metadata"]["labels"] for template in templates(case)]
    for found in objects(case):
        spec = found.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if selector:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pods), found["metadata"]["name"]


@every_case
def test_probes_services_and_ingresses_name_ports_that_exist(case: str) -> None:
    found = objects(case)
    for service in (object_ for object_ in found if object_["kind"] == "Service"):
        pods = [
            template["spec"]["containers"]
            for template in templates(case)
            if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ]
        found_ports = [port for container in pods[0] for port in container["ports"]]
        ports = {port[key] for port in found_ports for key in ("name", "containerPort")}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for template in templates(case):
        for container in template["spec"]["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in (value for name, value in container.items() if name.endswith("Probe")):
                assert {
                    check["port"] for check in probe.values() if isinstance(check, dict) and "port" in check
                } <= ports


# --- what the "restricted" pod security standard asks for, and more ---


@pytest.mark.parametrize("case", ["plain", "everything"])
def test_pods_have_no_rights(case: str) -> None:
    for template in templates(case):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        is_prometheus = template["metadata"]["labels"]["ai.clipper.name"] == "metrics"
        assert spec["automountServiceAccountToken"] is is_prometheus
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_models_may_keep_the_rights_of_their_images() -> None:
    for template in templates("external"):
        is_model = template["metadata"]["labels"]["ai.clipper.name"] == "model"
        assert ("securityContext" in template["spec"]) is not is_model
        assert all(("securityContext" in container) is not is_model for container in template["spec"]["containers"])


@pytest.mark.parametrize("dockerfile", sorted(DOCKERFILES.glob("*Dockerfile")), ids=lambda path: path.name)
def test_user_is_that_of_the_images(dockerfile: Path) -> None:
    users = [line.split()[1] for line in dockerfile.read_text().splitlines() if line.startswith("USER")]
    assert not users or users[-1] == f"{CLIPPER_USER}:{CLIPPER_USER}"


def test_prometheus_may_see_pods_of_its_namespace_only() -> None:
    found = objects("plain")
    assert not {object_["kind"] for object_ in found} & {"ClusterRole", "ClusterRoleBinding"}
    role = one(found, "Role", "c-prometheus")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    binding = one(found, "RoleBinding", "c-prometheus")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "c-prometheus", "namespace": "default"}]


# --- ends and beginnings ---


@every_case
def test_pods_have_the_time_that_they_need_to_stop(case: str) -> None:
    for template in templates(case):
        component = template["metadata"]["labels"]["ai.clipper.name"]
        grace = template["spec"].get("terminationGracePeriodSeconds", 30)
        if component == "query-frontend":
            assert grace > manifests.PRESTOP_SECONDS + manifests.DRAIN_SECONDS + 30
        if component == "model":
            assert grace > constants.DRAIN_SECONDS


def test_a_model_that_computes_is_not_killed() -> None:
    container = model_container(PLAIN, MODEL)
    assert "livenessProbe" not in container
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] == 3600


@pytest.mark.parametrize(("load_seconds", "start_seconds"), [(900, 3600), (7200, 14400), (0.5, 3600)])
def test_a_model_that_loads_is_not_killed(load_seconds: float, start_seconds: int) -> None:
    objects = manifests.model_objects(PLAIN, replace(MODEL, load_seconds=load_seconds))
    spec = objects[-1]["spec"]
    probe = spec["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == spec["progressDeadlineSeconds"] == start_seconds


# --- options ---


def test_own_redis_needs_no_id_and_another_one_does() -> None:
    for case, wanted in [("plain", False), ("external", True)]:
        for template in templates(case):
            container = template["spec"]["containers"][0]
            if "frontend" in container["name"]:
                assert ("--cluster_id=c/default" in container["args"]) is wanted


@pytest.mark.parametrize(("cpus", "wanted"), [(1, "1000m"), (0.25, "250m"), (0.0001, "1m")])
def test_resources_of_a_model(cpus: float, wanted: str) -> None:
    container = model_container(PLAIN, replace(MODEL, resources=Resources(cpus=cpus)))
    assert container["resources"] == {"requests": {"cpu": wanted, "memory": "64Mi"}, "limits": {"cpu": wanted}}


@pytest.mark.parametrize("gpus", [ALL_GPUS, ("0", "1")])
def test_gpus_are_a_number(gpus: Any) -> None:
    with pytest.raises(ClipperException, match=r"gpus='?.*say how many"):
        manifests.model_objects(PLAIN, replace(MODEL, resources=Resources(gpus=gpus)))


def test_another_configuration_of_prometheus_makes_another_pod() -> None:
    def annotations(cluster: Cluster) -> Any:
        found = manifests.cluster_objects(cluster, FrontendOptions(), IMAGES)
        return one(found, "Deployment", names.metrics(cluster.name))["spec"]["template"]["metadata"]["annotations"]

    assert annotations(PLAIN) == annotations(PLAIN)
    assert annotations(PLAIN) != annotations(Cluster("c", namespace="other"))


def test_prometheus_keeps_to_its_cluster() -> None:
    configuration = yaml.safe_load(prometheus.configurations(Cluster("a", namespace="n"))[prometheus.BY_API])
    for job in configuration["scrape_configs"]:
        (discovery,) = job["kubernetes_sd_configs"]
        assert discovery["namespaces"] == {"names": ["n"]}
        assert discovery["selectors"][0]["label"].startswith("ai.clipper.container.label=a,")


# --- wrong options ---


WRONG = [
    ({"name": "Big"}, r"cluster_name='Big'"),
    ({"name": "c" * 64}, r"cluster_name='c"),
    ({"name": "-c"}, r"cluster_name='-c'"),
    ({"namespace": "a.b"}, r"namespace='a.b'"),
    ({"namespace": ""}, r"namespace=''"),
    ({"redis_port": 0}, r"redis_port=0"),
    ({"redis_ip": ""}, r"redis_ip=''"),
    ({"redis_ip": "r", "redis_volume": RedisVolume("1Gi")}, r"redis_volume.*redis_ip='r'"),
    ({"service_types": ["query"]}, r"service_types must be 'dict' type"),
    ({"service_types": {"frontend": "NodePort"}}, r"service_types has unknown keys: frontend"),
    ({"service_types": {"query": "Node"}}, r"service_types has unknown values: Node"),
    ({"service_types": {"query": "ExternalName"}}, r"Clipper does not support 'ExternalName' service"),
    ({"image_pull_secrets": "secret"}, r"image_pull_secrets='secret'"),
    ({"image_pull_secrets": (1,)}, r"an element of image_pull_secrets=1"),
    ({"node_selector": {"a": True}}, r"node_selector=\{'a': True\}"),
    ({"tolerations": {"key": "gpu"}}, r"tolerations=\{'key': 'gpu'\}"),
    ({"tolerations": 3}, r"tolerations=3"),
    ({"node_selector": ["disktype"]}, r"node_selector=\['disktype'\]"),
    ({"ingress": "a.example.com"}, r"ingress='a.example.com'.*Ingress\(...\) from clipper_admin.kubernetes.spec"),
    ({"redis_volume": "1Gi"}, r"redis_volume='1Gi'.*RedisVolume\(...\) from clipper_admin.kubernetes.spec"),
    ({"tolerations": ({"keys": "gpu"},)}, r"tolerations="),
    ({"resources": {"frontend": {}}}, r"resources=.*query-frontend"),
    ({"resources": {"redis": {"cpu": 1}}}, r"resources\['redis'\]"),
    ({"resources": {"redis": {"limits": 1}}}, r"resources\['redis'\]"),
    ({"resources": {"redis": {"limits": {"cpu": "much"}}}}, r"resources\['redis'\]\['limits'\]\['cpu'\] is 'much'"),
    ({"isolates_models": True, "has_network_policies": False}, r"network policies"),
]


@pytest.mark.parametrize(("options", "text"), WRONG, ids=[text for _, text in WRONG])
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ClipperException, match=text):
        Cluster(**{"name": "c", **options})


@pytest.mark.parametrize("size", ["", "much", "1 Gi", -1, None, True])
def test_wrong_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ClipperException, match="the size of redis_volume is"):
        RedisVolume(size)


@pytest.mark.parametrize("host", ["", "http://a", "a b", "A.example.com", "-a", None])
def test_wrong_hosts_are_refused(host: Any) -> None:
    with pytest.raises(ClipperException, match="ingress host="):
        Ingress(host)


if __name__ == "__main__":
    shutil.rmtree(FILES, ignore_errors=True)
    for case in CASES:
        (FILES / case).mkdir(parents=True)
        for name, text in export.files(objects(case)).items():
            (FILES / case / name).write_text(text)
