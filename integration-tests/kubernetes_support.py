"""Shared by tests with Kubernetes: its API, or the reason why there is none, and the objects that clusters left."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from docker_support import missing

from clipper_admin import ClipperException, KubernetesContainerManager
from clipper_admin.container_manager import CLIPPER_DOCKER_LABEL
from clipper_admin.kubernetes import names
from clipper_admin.kubernetes.api import PLURALS, Api
from clipper_admin.kubernetes.namespaces import MADE_LABEL

ON_EVERY_MANAGER = {"test_basic_concepts", "test_manager_contract", "test_old_containers", "test_quickstart"}
"""The modules that are run on Kubernetes too. What is inside containers is tested with Docker."""

IN_EVERY_RUN = {"test_manager_contract", "test_clusters_side_by_side"}
"""The module and the test on Kubernetes that `make test-kubernetes` runs. `make test-all` runs all of them."""

MARKS = [pytest.mark.kubernetes, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def kubernetes_api() -> Api:
    """The API of a real Kubernetes cluster. Without one the tests are skipped, unless Kubernetes is required."""
    try:
        api = Api("default")
        api.list("Node")
    except ClipperException as error:
        missing("kubernetes", f"no Kubernetes cluster answers: {error}")
    return api


@pytest.fixture(scope="module")
def left_nothing_in_kubernetes(
    kubernetes_api: Api, docker_client: Any, built_images: dict[str, str]
) -> Iterator[list[KubernetesContainerManager]]:
    """Checks that the clusters of the managers in the list leave nothing. Nodes share the engine that has images."""
    before = made_namespaces()
    managers: list[KubernetesContainerManager] = []
    yield managers
    assert what_is_left_of({manager.cluster_name for manager in managers}) == set()
    namespaces = {f"namespace/{manager.namespace}" for manager in managers}
    assert namespaces & made_namespaces() <= before
    for image in docker_client.images.list():
        for tag in image.tags:
            if any(tag.startswith(f"{manager.cluster_identifier}-") for manager in managers):
                docker_client.images.remove(tag, force=True)


def what_is_left_of(clusters: Iterable[str]) -> set[str]:
    """Return all objects, of every kind and in any namespace, that have the label of these clusters."""
    kinds = [plural for kind, plural in PLURALS.items() if kind not in ("Event", "Namespace", "Node")]
    kinds += ["clusterroles", "clusterrolebindings", "persistentvolumes"]
    selector = f"{CLIPPER_DOCKER_LABEL} in ({','.join(clusters)})"
    return set(kubectl("get", ",".join(kinds), "--all-namespaces", f"--selector={selector}", "--output=name").split())


def made_namespaces() -> set[str]:
    return set(kubectl("get", "namespaces", f"--selector={MADE_LABEL}", "--output=name").split())


def kubectl(*arguments: str, given: str | None = None) -> str:
    """Return the output of the command. If it fails, raise with its errors."""
    command = shutil.which("kubectl") or missing("kubernetes", "there is no command kubectl")
    result = subprocess.run(
        [command, *arguments], input=given, capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def objects(manager: KubernetesContainerManager, kind: str, component: str = "") -> list[dict[str, Any]]:
    """The objects of a kind that belong to a cluster, or to one of its components."""
    selector = (
        names.selector(manager.cluster_name, component) if component else names.cluster_selector(manager.cluster_name)
    )
    arguments = ["get", kind, "--selector", names.as_text(selector), "--output=json"]
    return list(json.loads(kubectl(*arguments, "--namespace", manager.namespace))["items"])
