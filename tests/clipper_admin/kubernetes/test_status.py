"""Tests of what is read from the status of pods, Deployments and services."""

from typing import Any

import pytest

from clipper_admin.kubernetes import status
from clipper_admin.kubernetes.status import Trouble, Viewpoint
from clipper_common.errors import ClipperException

READY = [{"type": "Ready", "status": "True"}]

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}


def pod(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A pod with these statuses of containers."""
    named = [{"name": "model", "image": "a:1", **container} for container in containers]
    return {"metadata": {"name": "p"}, "status": {"phase": "Running", "containerStatuses": named, **fields}}


RUNNING = {"state": {"running": {}}}
CRASHED = {"exitCode": 3, "reason": "Error"}


# --- pods ---


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        (pod(RUNNING), None),
        (pod(), None),
        ({"metadata": {"name": "p"}}, None),
        ({"metadata": {"name": "p"}, "status": {"containerStatuses": None, "conditions": None}}, None),
        (pod({"state": {"waiting": {"reason": "ContainerCreating"}}}), None),
        (pod({"state": {"waiting": {"reason": "PodInitializing"}}}), None),
        (pod({"state": {"terminated": CRASHED}}), Trouble("p", "exited with code 3", "model")),
        (
            pod({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": CRASHED}}),
            Trouble("p", "exited with code 3", "model", is_in_previous_log=True),
        ),
        (
            pod({**RUNNING, "ready": False, "lastState": {"terminated": CRASHED}}),
            Trouble("p", "exited with code 3", "model", is_in_previous_log=True),
        ),
        (pod({**RUNNING, "ready": True, "lastState": {"terminated": CRASHED}}), None),
        (pod({**RUNNING, "lastState": {"terminated": CRASHED}}, conditions=READY), None),
        (
            pod({"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}),
            Trouble("p", "was killed because it took more memory than it may", "model"),
        ),
        (
            pod(
                {"state": {"terminated": {"exitCode": 128, "reason": "ContainerCannotRun", "message": "no such file"}}}
            ),
            Trouble("p", "exited with code 128: no such file", "model"),
        ),
        (
            pod({"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}),
            Trouble(
                "p",
                "cannot get the image 'a:1', which its node must have, or be able to pull: ErrImagePull: not found",
                "model",
            ),
        ),
        (
            pod({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no user"}}}),
            Trouble("p", "cannot start: CreateContainerConfigError: no user", "model"),
        ),
        (
            pod(conditions=[UNSCHEDULABLE | {"message": "full"}]),
            Trouble("p", "cannot be scheduled: full", patience_seconds=5.0),
        ),
        (
            pod(conditions=[UNSCHEDULABLE | {"message": "1 pod has unbound immediate PersistentVolumeClaims."}]),
            Trouble(
                "p",
                "cannot be scheduled: 1 pod has unbound immediate PersistentVolumeClaims.",
                patience_seconds=60.0,
            ),
        ),
        (
            pod(phase="Failed", reason="Evicted", message="The node was low on memory"),
            Trouble("p", "failed: Evicted: The node was low on memory"),
        ),
    ],
)
def test_trouble(found: dict[str, Any], trouble: Trouble | None) -> None:
    assert status.trouble_of(found) == trouble


def test_a_pod_that_ends_as_it_should_is_in_no_trouble() -> None:
    found = pod({"state": {"terminated": CRASHED}})
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert status.trouble_of(found) is None


def test_an_init_container_that_is_done_is_no_trouble() -> None:
    done = {"name": "init", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    assert status.trouble_of(pod(RUNNING, initContainerStatuses=[done])) is None
    assert status.trouble_of(pod({"state": {"terminated": CRASHED}}, initContainerStatuses=[done])) is not None


def test_started_and_running() -> None:
    waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert status.is_started(pod(RUNNING, RUNNING))
    assert not status.is_started(pod(RUNNING, waiting))
    assert not status.is_started(pod())
    assert status.has_running(pod(RUNNING, waiting))
    assert not status.has_running(pod(waiting))


def test_a_pod_that_was_evicted_is_over() -> None:
    assert status.is_over(pod(phase="Failed", reason="Evicted"))
    assert not status.is_over(pod(RUNNING))
    assert not status.is_over({"metadata": {"name": "p"}})


def test_logs() -> None:
    again = {"name": "b", "restartCount": 1}
    assert list(status.logs_of(pod({"restartCount": 0}, again))) == [("model", False), ("b", True), ("b", False)]
    assert list(status.logs_of({"metadata": {"name": "p"}, "status": {"containerStatuses": None}})) == []


def test_refusal() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    assert status.refusal_of({"status": {"conditions": [refused]}}) == "exceeded quota"
    assert status.refusal_of({"status": {"conditions": [refused | {"status": "False"}]}}) == ""
    assert status.refusal_of({"status": {}}) == ""


# --- addresses ---


def service(kind: str, **more: Any) -> dict[str, Any]:
    ports = [{"port": 1337, "nodePort": 30001}]
    return {"metadata": {"name": "query", "namespace": "n"}, "spec": {"type": kind, "ports": ports}, **more}


def node(ready: bool = True, **addresses: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "node"},
        "status": {
            "addresses": [{"type": kind, "address": address} for kind, address in addresses.items()],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


OUTSIDE = Viewpoint(proxy=None, api_host="api.example", is_inside=False, wants_internal=False)
NODE_PORT = service("NodePort")


@pytest.mark.parametrize(
    ("found", "nodes", "viewpoint", "address"),
    [
        (NODE_PORT, [node(ExternalDNS="dns", ExternalIP="1.2.3.4", InternalIP="10.0.0.1")], OUTSIDE, "dns:30001"),
        (NODE_PORT, [node(ExternalIP="1.2.3.4", InternalIP="10.0.0.1")], OUTSIDE, "1.2.3.4:30001"),
        (NODE_PORT, [node(False, ExternalIP="1.2.3.4"), node(ExternalIP="1.2.3.5")], OUTSIDE, "1.2.3.5:30001"),
        (NODE_PORT, [node(InternalIP="10.0.0.1")], Viewpoint(None, "api", False, True), "10.0.0.1:30001"),
        (NODE_PORT, [node(InternalIP="10.0.0.1")], Viewpoint(None, "api", True, False), "10.0.0.1:30001"),
        (NODE_PORT, [node(InternalIP="10.0.0.1")], Viewpoint(None, "10.0.0.1", False, False), "10.0.0.1:30001"),
        (
            NODE_PORT,
            [node(ExternalIP="1.2.3.4")],
            Viewpoint("127.0.0.1:8001", "api", False, False),
            "127.0.0.1:8001/api/v1/namespaces/n/services/query:1337/proxy",
        ),
        (
            service("LoadBalancer", status={"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}]}}),
            [],
            OUTSIDE,
            "5.6.7.8:1337",
        ),
        (
            service("LoadBalancer", status={"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}),
            [],
            OUTSIDE,
            "lb.example:1337",
        ),
        (service("ClusterIP"), [], Viewpoint(None, "10.96.0.1", True, False), "query.n.svc:1337"),
    ],
)
def test_address(found: dict[str, Any], nodes: list[dict[str, Any]], viewpoint: Viewpoint, address: str) -> None:
    assert status.address_of(found, nodes, viewpoint) == address


@pytest.mark.parametrize(
    ("found", "nodes", "said"),
    [
        (NODE_PORT, [node(InternalIP="10.0.0.1")], "useInternalIP=True"),
        (NODE_PORT, [], "kubernetes_proxy_addr"),
        (service("ClusterIP"), [node(ExternalIP="1.2.3.4")], "'query' is a ClusterIP"),
        (service("LoadBalancer", status={"loadBalancer": {}}), [], "has no address"),
        (service("LoadBalancer"), [], "has no address"),
    ],
)
def test_no_address(found: dict[str, Any], nodes: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ClipperException, match=said):
        status.address_of(found, nodes, OUTSIDE)
