"""Fixtures: real clusters of each container manager that this machine can run. They must leave nothing behind."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_support
import psutil
import pytest
from docker_support import built_images, docker_client, missing
from kubernetes_support import IN_EVERY_RUN, ON_EVERY_MANAGER, kubernetes_api, left_nothing_in_kubernetes
from managers import MANAGERS, NewManager
from targets import pytest_addoption, pytest_terminal_summary, select

from bench import generator
from clipper_admin import ClipperConnection, ContainerManager, images
from clipper_admin.container_manager import CLIPPER_DOCKER_LABEL
from clipper_admin.docker.containers import KUBERNETES_LABEL, NETWORK_LABEL

__all__ = [
    "built_images",
    "docker_client",
    "kubernetes_api",
    "left_nothing_in_kubernetes",
    "pytest_addoption",
    "pytest_terminal_summary",
]  # fixtures and hooks that are not of this file

HOME = "CLIPPER_HOME"

NewCluster = Callable[..., ClipperConnection]

NEEDS = {"docker": "left_nothing_in_docker", "kubernetes": "left_nothing_in_kubernetes"}
"""The fixture that each manager needs."""
MARKS = {"docker": [pytest.mark.docker, pytest.mark.timeout(300)], "kubernetes": kubernetes_support.MARKS}


@pytest.fixture(scope="session")
def load_generator() -> None:
    """Skip the test, or fail it where a compiler is required, if the load generator can neither run nor be built."""
    if not generator.can_run():
        missing("compiler", "the load generator needs a C compiler: apt-get install gcc libc6-dev")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what Kubernetes could not do otherwise than Docker, or only when there is time for it."""
    unwanted = [item for item in items if manager_of(item) == "kubernetes" and item.path.stem not in ON_EVERY_MANAGER]
    for item in items:
        if item.get_closest_marker("kubernetes") and not IN_EVERY_RUN & {item.path.stem, item.name}:
            item.add_marker(pytest.mark.long)
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item not in unwanted]
    select(config, items)


def manager_of(item: pytest.Item) -> str | None:
    call = getattr(item, "callspec", None)
    return call.params.get("new_manager") if call else None


@pytest.fixture(scope="module")
def left_nothing_in_docker(docker_client: Any, built_images: dict[str, str]) -> Iterator[None]:
    """Checks that the clusters of a module leave the engine as they found it, but for the images of their models."""
    before, images_before = what_docker_has(docker_client), image_names(docker_client)
    yield
    assert what_docker_has(docker_client) == before
    for name in image_names(docker_client) - images_before:
        if not name.startswith(f"{images.__registry__}/"):
            docker_client.images.remove(name)


def what_docker_has(client: Any) -> dict[str, set[str]]:
    """Names of what clusters make, and of all volumes."""
    ours = client.containers.list(all=True, filters={"label": CLIPPER_DOCKER_LABEL}, ignore_removed=True)
    return {
        "containers": {container.name for container in ours if KUBERNETES_LABEL not in container.labels},
        "networks": {network.name for network in client.networks.list(filters={"label": NETWORK_LABEL})},
        "volumes": {volume.name for volume in client.volumes.list()},
    }


def image_names(client: Any) -> set[str]:
    return {tag for image in client.images.list() for tag in image.tags}


@pytest.fixture(scope="module")
def clipper_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("clipper") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME, str(home))
        yield home
    assert not processes_below(home)
    assert not home.exists(), "stop_all left files"


def processes_below(home: Path) -> list[str]:
    """The living processes that a cluster in `home` started: all inherit this variable."""
    return [
        f"{process.pid} {process.cmdline()}"
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _environment(process).get(HOME) == str(home)
    ]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except psutil.Error:
        return {}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=MARKS.get(name, [])) for name in sorted(MANAGERS)])
def new_manager(request: pytest.FixtureRequest, clipper_home: Path) -> Iterator[NewManager]:
    """Makes managers; whatever their clusters are, they are stopped in the end."""
    needed = request.getfixturevalue(NEEDS[request.param]) if request.param in NEEDS else None
    made: list[ContainerManager] = [] if needed is None else needed

    def new_manager(cluster_name: str = "default-cluster", **options: Any) -> ContainerManager:
        made.append(MANAGERS[request.param](cluster_name, **options))
        return made[-1]

    yield new_manager
    for manager in made:
        manager.stop_all(graceful=False)


@pytest.fixture
def new_cluster(new_manager: NewManager) -> NewCluster:
    """Starts clusters."""

    def new_cluster(cluster_name: str, **options: Any) -> ClipperConnection:
        conn = ClipperConnection(new_manager(cluster_name, **options))
        conn.start_clipper()
        return conn

    return new_cluster


@pytest.fixture(scope="module")
def conn(new_manager: NewManager) -> ClipperConnection:
    """A connection to a cluster that all tests of a module share: each uses names of its own."""
    conn = ClipperConnection(new_manager("shared"))
    conn.start_clipper()
    return conn
