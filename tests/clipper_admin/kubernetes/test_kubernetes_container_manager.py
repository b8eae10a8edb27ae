"""Tests of the manager with an API server that is a dictionary, in which pods are ready at once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipper_admin.container_manager import AlreadyExists, ReplicaFailure
from clipper_admin.exceptions import ClipperException, UnconnectedException
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.kubernetes import kubernetes_container_manager, names
from clipper_admin.kubernetes.kubernetes_container_manager import KubernetesContainerManager
from clipper_admin.model_spec import ModelSpec

MODEL = ModelSpec("m", "1", "doubles", "image", num_replicas=2)
Object = dict[str, Any]


class FakeApi:
    """Keeps objects by kind and name. The pods of a Deployment are made when they are asked for."""

    host = "127.0.0.1"
    is_inside = False
    objects: dict[tuple[str, str], Object] = {}
    troubled: dict[str, Object] = {}
    """The states of containers of Deployments whose pods do not start."""

    def __init__(self, namespace: str) -> None:
        self.objects.setdefault(("Namespace", namespace), {"metadata": {"name": namespace, "labels": {}}})
        addresses = [{"type": "ExternalIP", "address": "10.0.0.1"}]
        ready = [{"type": "Ready", "status": "True"}]
        node = {"metadata": {"name": "node"}, "status": {"addresses": addresses, "conditions": ready}}
        self.objects.setdefault(("Node", "node"), node)

    def create(self, body: Object) -> Object:
        if (body["kind"], body["metadata"]["name"]) in self.objects:
            raise AlreadyExists("it is there already")
        return self.apply(body)

    def apply(self, body: Object) -> Object:
        if body["kind"] == "Service":
            for port in body["spec"]["ports"]:
                port["nodePort"] = 30000 + port["port"] % 1000
        self.objects[body["kind"], body["metadata"]["name"]] = body
        return body

    def fitted(self, body: Object) -> Object:
        return body

    def get(self, kind: str, name: str) -> Object | None:
        return self.objects.get((kind, name))

    def list(self, kind: str, labels: str = "", fields: str = "") -> list[Object]:
        found = self._pods() if kind == "Pod" else [one for (its, _), one in self.objects.items() if its == kind]
        return [one for one in found if _carries(one, labels)]

    def _pods(self) -> Iterator[Object]:
        for (kind, name), deployment in self.objects.items():
            for number in range(deployment["spec"]["replicas"] if kind == "Deployment" else 0):
                template = deployment["spec"]["template"]
                state = self.troubled.get(name, {"state": {"running": {}}, "ready": True})
                containers = [{"name": one["name"], "image": "", **state} for one in template["spec"]["containers"]]
                ready = [] if name in self.troubled else [{"type": "Ready", "status": "True"}]
                yield {
                    "metadata": {"name": f"{name}-{number}", "labels": template["metadata"]["labels"]},
                    "status": {"phase": "Running", "containerStatuses": containers, "conditions": ready},
                }

    def scale(self, name: str, replicas: int) -> None:
        self.objects["Deployment", name]["spec"]["replicas"] = replicas

    def delete(self, kind: str, name: str, grace_seconds: int | None = None) -> None:
        self.objects.pop((kind, name), None)

    def watch(self, kind: str, labels: str, seconds: float) -> Iterator[Mapping[str, Object]]:
        yield {one["metadata"]["name"]: one for one in self.list(kind, labels)}

    def log(self, pod: str, container: str, previous: bool = False, lines: int | None = None) -> bytes:
        return f"last lines of {pod}".encode()

    def warnings(self, name: str) -> Sequence[str]:
        return []


def _carries(found: Object, labels: str) -> bool:
    own = found["metadata"].get("labels", {})
    wanted = [label.partition("=") for label in labels.split(",") if label]
    return all(name in own and (not separator or own[name] == value) for name, separator, value in wanted)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    monkeypatch.setattr(FakeApi, "objects", {})
    monkeypatch.setattr(FakeApi, "troubled", {})
    monkeypatch.setattr(kubernetes_container_manager, "Api", FakeApi)
    return FakeApi


@pytest.fixture
def cm(api: type[FakeApi]) -> KubernetesContainerManager:
    """A manager whose cluster runs."""
    cm = KubernetesContainerManager("c")
    cm.start_clipper(FrontendOptions(num_frontend_replicas=2))
    return cm


def names_of(api: type[FakeApi], kind: str) -> list[str]:
    return sorted(name for its, name in api.objects if its == kind)


def test_a_cluster_is_started_found_and_stopped(cm: KubernetesContainerManager, api: type[FakeApi]) -> None:
    assert len(names_of(api, "Deployment")) == 4
    assert cm.get_query_addr() == "10.0.0.1:30337"
    assert (cm.clipper_management_port, cm.redis_port) == (30338, 6379)
    with pytest.raises(ClipperException, match="already exists in the namespace default"):
        KubernetesContainerManager("c").start_clipper(FrontendOptions())
    found = KubernetesContainerManager("c", redis_port=1)
    with pytest.raises(UnconnectedException):
        found.get_query_addr()
    found.connect()
    assert found.get_query_addr() == cm.get_query_addr()
    assert (found.redis_ip, found.redis_port) == (names.redis("c"), 6379)
    assert found.get_num_frontend_replicas() == 2
    found.set_num_frontend_replicas(1)
    assert cm.get_num_frontend_replicas() == 1
    found.stop_all()
    assert names_of(api, "Deployment") == []
    with pytest.raises(ClipperException, match=r"No cluster named 'c'.*Start one with"):
        cm.connect()


def test_the_ways_to_a_cluster(api: type[FakeApi]) -> None:
    inner = KubernetesContainerManager("c", service_types={"query": "ClusterIP"})
    with pytest.raises(ClipperException, match="pods alone can reach"):
        inner.start_clipper(FrontendOptions())
    assert names_of(api, "Deployment") == []
    proxied = KubernetesContainerManager("c", "127.0.0.1:8001", service_types={"query": "ClusterIP"})
    proxied.start_clipper(FrontendOptions())
    assert re.fullmatch(r"127.0.0.1:8001/api/v1/namespaces/default/services/.*:1337/proxy", proxied.get_query_addr())
    with pytest.raises(ClipperException, match="Those that do: c"):
        KubernetesContainerManager("other").connect()
    api.objects.pop(("Service", names.metrics("c")))
    with pytest.raises(ClipperException, match="is incomplete"):
        proxied.connect()


def test_replicas_are_deployed_scaled_and_stopped(cm: KubernetesContainerManager, api: type[FakeApi]) -> None:
    cm.deploy_model(MODEL)
    assert cm.get_num_replicas("m", "1") == 2
    with pytest.raises(AlreadyExists, match="Somebody else just deploys m:1"):
        cm.deploy_model(MODEL)
    cm.set_num_replicas(replace(MODEL, num_replicas=3))
    assert cm.get_num_replicas("m", "1") == 3
    cm.set_num_replicas(replace(MODEL, version="2", num_replicas=1))
    assert cm.get_num_replicas("m", "2") == 1
    assert list(cm.read_last_lines("m", "2").values()) == [f"last lines of {names.model('c', 'm', '2')}-0"]
    with pytest.raises(ClipperException, match="must not be negative"):
        cm.set_num_replicas(replace(MODEL, num_replicas=-1))
    cm.stop_models({"m": ["1"], "unknown": ["1"]})
    assert (cm.get_num_replicas("m", "1"), cm.get_num_replicas("m", "2")) == (0, 1)
    cm.stop_all_model_containers()
    assert cm.get_num_replicas("m", "2") == 0
    assert len(names_of(api, "Deployment")) == 4


def test_replicas_that_do_not_start_are_removed_or_scaled_back(
    cm: KubernetesContainerManager, api: type[FakeApi], tmp_path: Path
) -> None:
    deployment = names.model("c", "m", "1")
    crashed = {"state": {"terminated": {"exitCode": 3, "reason": "Error"}}, "ready": False}
    api.troubled[deployment] = crashed
    with pytest.raises(ClipperException, match="exited with code 3"):
        cm.deploy_model(MODEL)
    assert cm.get_num_replicas("m", "1") == 0
    assert len(names_of(api, "Deployment")) == 4
    api.troubled.clear()
    cm.deploy_model(MODEL)
    api.troubled[deployment] = crashed
    with pytest.raises(ClipperException, match="exited with code 3"):
        cm.set_num_replicas(replace(MODEL, num_replicas=4))
    assert cm.get_num_replicas("m", "1") == 2
    words = [f"last lines of {deployment}-{number}" for number in range(2)]
    assert cm.find_failures("m", "1") == [
        ReplicaFailure(f"{deployment}-{number}", "exited with code 3", words[number]) for number in range(2)
    ]
    cm.stop_models({"m": ["1"]})
    logs = {Path(path).name for path in cm.get_logs(str(tmp_path))}
    assert {f"{deployment}-0_{names.MODEL}.log", f"{deployment}-1_{names.MODEL}.log"} <= logs


def test_the_manifests_of_a_model_replace_those_of_before(cm: KubernetesContainerManager, tmp_path: Path) -> None:
    former = tmp_path / f"07-deployment-{names.model('c', 'm', '1')}.yaml"
    former.touch()
    paths = cm.export_model(tmp_path, "m", "1", "doubles", "image", 5, load_seconds=7200)
    assert [Path(path).name for path in paths] == sorted(path.name for path in tmp_path.iterdir())
    assert not former.exists()
    text = Path(paths[-1]).read_text()
    assert "replicas: 5" in text and "progressDeadlineSeconds: 14400" in text
