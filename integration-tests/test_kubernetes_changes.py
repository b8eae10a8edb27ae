"""Tests that applications notice no change of a cluster on Kubernetes under load. Each step asserts zero failures."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_support
import pytest
from kubernetes_support import kubectl
from open_loop import NEEDS_GENERATOR, OpenLoop, Step

from clipper_admin import ClipperConnection, ContainerManager, KubernetesContainerManager
from clipper_admin.deployers import python as python_deployer
from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.spec import RedisVolume
from tests.waiting import wait_for

pytestmark = [*kubernetes_support.MARKS, pytest.mark.integration, NEEDS_GENERATOR]

CLUSTER = "changing"
SLO_MICROS = 500_000
WAIT_SECONDS = 90.0
STORAGE_CLASS = "clipper-test"


def pods(component: str) -> dict[str, bool]:
    """The names of all pods in which something runs, or shall run, and whether they are ready and stay."""
    selector = names.as_text(names.selector(CLUSTER, component))
    found = json.loads(kubectl("get", "pods", f"--selector={selector}", "--output=json"))["items"]
    return {pod["metadata"]["name"]: _is_ready(pod) for pod in found if not _has_ended(pod)}


def _has_ended(pod: dict[str, Any]) -> bool:
    """Whether only the name is left, until Kubernetes has cleared up."""
    containers = pod["status"].get("containerStatuses", [])
    return "deletionTimestamp" in pod["metadata"] and not any("running" in each["state"] for each in containers)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def wait_for_pods(component: str, number: int, *gone: str) -> None:
    """Wait until there are so many pods, all of them ready, and none that shall be `gone`."""

    def settled() -> bool:
        found = pods(component)
        return len(found) == number and all(found.values()) and not set(gone) & set(found)

    wait_for(settled, f"{number} pods of {component}", WAIT_SECONDS)


def delete_pod(component: str, number: int) -> None:
    """Delete one of `number` pods, and wait until another one took its place."""
    victim = sorted(pods(component))[0]
    kubectl("delete", "pod", victim, "--wait=false")
    wait_for_pods(component, number, victim)


def answering(text: str) -> Callable[[Any], list[str]]:
    return lambda inputs: [text for _ in inputs]


@contextmanager
def cluster(managers: list[ContainerManager], **options: Any) -> Iterator[ClipperConnection]:
    manager = KubernetesContainerManager(CLUSTER, **options)
    managers.append(manager)
    conn = ClipperConnection(manager)
    try:
        conn.start_clipper()
        python_deployer.create_endpoint(conn, "app", "doubles", answering("one"), slo_micros=SLO_MICROS)
        yield conn
    finally:
        conn.stop_all(graceful=False)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[RedisVolume]:
    """Of a folder of the only node."""
    tmp_path.chmod(0o777)
    described = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": STORAGE_CLASS},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": STORAGE_CLASS,
            "hostPath": {"path": str(tmp_path)},
        },
    }
    kubectl("apply", "--filename=-", given=json.dumps(described))
    yield RedisVolume("1Gi", STORAGE_CLASS)
    kubectl("delete", "persistentvolume", STORAGE_CLASS)


@pytest.fixture(autouse=True)
def report(capsys: pytest.CaptureFixture[str]) -> Iterator[list[Step]]:
    """Shows what each step was like."""
    steps: list[Step] = []
    yield steps
    with capsys.disabled():
        print("", *steps, sep="\n  ")


@pytest.mark.timeout(900)
def test_nothing_is_lost_while_the_cluster_changes(
    left_nothing_in_kubernetes: list[ContainerManager], report: list[Step]
) -> None:
    with cluster(left_nothing_in_kubernetes) as conn, load(conn, report) as loop:
        for number in (3, 2):
            with loop.step(f"query frontends -> {number}"):
                conn.set_num_frontend_replicas(number)
                wait_for_pods(names.QUERY, number)
        for number in (4, 2):
            with loop.step(f"replicas -> {number}"):
                conn.set_num_replicas("app", number)
                wait_for_pods(names.MODEL, number)
        with loop.step("another version") as step:
            python_deployer.deploy_python_closure(conn, "app", 2, "doubles", answering("two"), num_replicas=2)
        assert set(step.outputs) == {"one", "two"}
        with loop.step("back to the first version") as step:
            conn.set_model_version("app", 1)
        assert set(step.outputs) == {"one", "two"}
        with loop.step("the second version is stopped"):
            conn.stop_versioned_models({"app": [2]})
            wait_for_pods(names.MODEL, 2)
        with loop.step("the pods of a version are replaced"):
            deployment = names.model(CLUSTER, "app", "1")
            kubectl("rollout", "restart", f"deployment/{deployment}")
            kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={WAIT_SECONDS:.0f}s")
            wait_for_pods(names.MODEL, 2)
        with loop.step("the pods of the query frontends are replaced"):
            deployment = names.query_frontends(CLUSTER)
            kubectl("rollout", "restart", f"deployment/{deployment}")
            kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={WAIT_SECONDS:.0f}s")
            wait_for_pods(names.QUERY, 2)
        for component, number in ((names.QUERY, 2), (names.MODEL, 2), (names.MANAGEMENT, 1), (names.REDIS, 1)):
            with loop.step(f"a pod of {component} is deleted"):
                delete_pod(component, number)
        assert_configured(conn)


def test_redis_with_a_volume_is_deleted(
    left_nothing_in_kubernetes: list[ContainerManager], report: list[Step], volume: RedisVolume
) -> None:
    with cluster(left_nothing_in_kubernetes, redis_volume=volume) as conn, load(conn, report) as loop:
        with loop.step("the pod of a Redis with a volume is deleted"):
            delete_pod(names.REDIS, 1)
        assert_configured(conn)


@contextmanager
def load(conn: ClipperConnection, report: list[Step]) -> Iterator[OpenLoop]:
    """Queries throughout the block, none of which may end otherwise than with an output."""
    loop = OpenLoop(f"http://{conn.get_query_addr()}/app/predict", keeps_outputs=True)
    with loop.running():
        try:
            yield loop
        finally:
            report += loop.steps
    for step in [*loop.steps, loop.between]:
        assert step.outcomes.total() > 0
        assert not step.losses, str(step)


def assert_configured(conn: ClipperConnection) -> None:
    """Redis has all that it had, and takes changes."""
    wait_for(lambda: conn.get_all_apps() == ["app"], "the configuration", WAIT_SECONDS)
    assert conn.get_current_model_version("app") == "1"
    conn.register_application("later", "doubles", "none", SLO_MICROS)
    conn.link_model_to_app("later", "app")
    assert conn.predict("later", [1.0])["output"] == "one"
