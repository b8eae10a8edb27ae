"""Replicas as containers, over an engine that keeps them in a list."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from clipper_admin import ClipperException
from clipper_admin.container_manager import ReplicaFailure
from clipper_admin.docker import containers
from clipper_admin.docker import replicas as container_replicas
from clipper_admin.docker.containers import Cluster, Container
from clipper_admin.docker.engine import Engine
from clipper_admin.docker.replicas import ContainerReplicas
from clipper_admin.model_spec import ModelSpec
from clipper_admin.resources import Resources

CLUSTER = Cluster("c", "net", "redis", 6379)
MODEL = ModelSpec("m", "1", "doubles", "image", num_replicas=2, resources=Resources(cpus=2.0))


class Running:
    """A container as the client of Docker shows it."""

    def __init__(self, container: Container, cluster: Cluster, number: int) -> None:
        found = containers.run_arguments(container, cluster)
        self.name, self.labels, self.number = container.name, found["labels"], number
        self.state = {"Status": "running", "ExitCode": 0, "StartedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.restarts = 0

    @property
    def status(self) -> Any:
        return self.state["Status"]

    @property
    def attrs(self) -> dict[str, Any]:
        return {
            "Name": f"/{self.name}",
            "Created": f"{self.number:04}",
            "RestartCount": self.restarts,
            "State": self.state,
            "Config": {"Labels": self.labels},
        }


class FakeEngine:
    """Keeps containers in a list. It fails to start the one whose number is `fails_at`."""

    def __init__(self) -> None:
        self.containers: list[Running] = []
        self.images: list[str] = []
        self.fails_at = -1
        self._numbers = itertools.count()

    def ensure_image(self, image: str) -> None:
        self.images.append(image)

    def find(self, *labels: str) -> list[Running]:
        wanted = {label.partition("=")[::2] for label in labels}
        return [container for container in self.containers if wanted <= container.labels.items()]

    def start(self, container: Container, cluster: Cluster) -> None:
        number = next(self._numbers)
        if number == self.fails_at:
            raise ClipperException("no space left on device")
        self.containers.append(Running(container, cluster, number))

    def stop(self, found: Sequence[Running]) -> None:
        for container in found:
            container.state |= {"Status": "exited", "ExitCode": 143}

    def rename(self, found: Sequence[Running], suffix: str) -> None:
        for container in found:
            container.name += suffix

    def remove(self, found: Sequence[Running]) -> None:
        self.containers = [container for container in self.containers if container not in found]

    def log_tail(self, found: Running, lines: int, until: float | None = None) -> str:
        return f"last lines of {found.name}" if until is None else f"before {until:.0f}"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def replicas(engine: FakeEngine) -> ContainerReplicas:
    return ContainerReplicas(cast(Engine, engine), "c")


def test_replicas_are_started_and_stopped(engine: FakeEngine, replicas: ContainerReplicas) -> None:
    replicas.scale(CLUSTER, MODEL)
    assert len(replicas.wanted_containers("m", "1")) == 2
    assert engine.images == ["image"]
    assert replicas.wanted_containers("m", "2") == []
    replicas.scale(CLUSTER, replace(MODEL, num_replicas=1))
    assert len(replicas.wanted_containers("m", "1")) == 1
    replicas.scale(CLUSTER, replace(MODEL, num_replicas=1))
    assert len(engine.containers) == 2
    assert engine.images == ["image"]


def test_another_cluster_has_replicas_of_its_own(engine: FakeEngine, replicas: ContainerReplicas) -> None:
    ContainerReplicas(cast(Engine, engine), "other").scale(replace(CLUSTER, name="other"), MODEL)
    assert replicas.wanted_containers("m", "1") == []
    replicas.stop(lambda label: True)
    assert [container.status for container in engine.containers] == ["running", "running"]


def test_one_that_does_not_run_is_stopped_first(engine: FakeEngine, replicas: ContainerReplicas) -> None:
    replicas.scale(CLUSTER, MODEL)
    first, second = replicas.wanted_containers("m", "1")
    first.state["Status"] = "restarting"
    replicas.scale(CLUSTER, replace(MODEL, num_replicas=1))
    assert replicas.wanted_containers("m", "1") == [second]


def test_all_start_or_none(engine: FakeEngine, replicas: ContainerReplicas) -> None:
    replicas.scale(CLUSTER, replace(MODEL, num_replicas=1))
    engine.fails_at = 2
    with pytest.raises(ClipperException, match="no space left"):
        replicas.scale(CLUSTER, replace(MODEL, num_replicas=4))
    assert len(engine.containers) == 1


def test_later_replicas_get_the_resources_of_the_first(engine: FakeEngine, replicas: ContainerReplicas) -> None:
    unlimited = ModelSpec("m", "1", "doubles", "image", num_replicas=3)
    assert replicas.as_deployed(unlimited) == unlimited
    replicas.scale(CLUSTER, MODEL)
    assert replicas.as_deployed(unlimited) == replace(unlimited, resources=MODEL.resources)
    replicas.scale(CLUSTER, replace(MODEL, num_replicas=0))
    assert replicas.as_deployed(unlimited).resources == MODEL.resources


def test_the_last_stopped_replicas_are_kept_for_their_logs(engine: FakeEngine, replicas: ContainerReplicas) -> None:
    replicas.scale(CLUSTER, replace(MODEL, num_replicas=5))
    replicas.scale(CLUSTER, replace(MODEL, version="2"))
    replicas.stop(lambda label: label == "m_1")
    stopped = [container for container in engine.containers if container.status == "exited"]
    assert [container.number for container in stopped] == [2, 3, 4]
    assert all(container.name.endswith("-stopped") for container in stopped)
    assert len(replicas.wanted_containers("m", "2")) == 2


def test_failures_are_told_until_the_replica_is_stable(
    engine: FakeEngine, replicas: ContainerReplicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas.scale(CLUSTER, MODEL)
    newest, oldest = replicas.wanted_containers("m", "1")
    assert replicas.failures("m", "1") == []
    newest.state |= {"Status": "restarting", "ExitCode": 3}
    assert replicas.failures("m", "1") == [
        ReplicaFailure(newest.name, "exited with code 3", f"last lines of {newest.name}")
    ]
    newest.state |= {"Status": "running", "ExitCode": 0, "StartedAt": "2020-01-01T00:00:00.5Z"}
    newest.restarts = 1
    assert replicas.failures("m", "1") == []
    monkeypatch.setattr(container_replicas, "HEALTHY_SECONDS", 1e12)
    assert replicas.failures("m", "1") == [
        ReplicaFailure(newest.name, "ended and was started again", "before 1577836800")
    ]
    assert list(replicas.last_lines("m", "1")) == [newest.name, oldest.name]
