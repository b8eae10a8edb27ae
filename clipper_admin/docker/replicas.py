"""ContainerReplicas: the replicas of a cluster on Docker, started, watched and stopped as containers."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from clipper_admin.container_manager import (
    CLIPPER_DOCKER_LABEL,
    CLIPPER_MODEL_CONTAINER_LABEL,
    ReplicaFailure,
    create_model_container_label,
    parse_model_container_label,
)
from clipper_admin.docker import containers, inspection
from clipper_admin.docker.containers import Cluster, Container
from clipper_admin.docker.engine import Engine, in_parallel
from clipper_admin.model_spec import ModelSpec

HEALTHY_SECONDS = 30.0
"""Seconds after which a replica that was started again counts as healthy."""

_TAIL_LINES: Final = 30
_KEPT_STOPPED: Final = 3
"""The number of stopped replicas of a model version that are kept for their logs."""


class ContainerReplicas:
    """The replicas of all model versions of a cluster, which carry their model version as a label."""

    def __init__(self, engine: Engine, cluster_name: str) -> None:
        self._engine = engine
        self._of_cluster = f"{CLIPPER_DOCKER_LABEL}={cluster_name}"

    def _known(self, name: str, version: str) -> list[Any]:
        """Return all containers of a model version, the newest first."""
        of_version = f"{CLIPPER_MODEL_CONTAINER_LABEL}={create_model_container_label(name, version)}"
        found = self._engine.find(self._of_cluster, of_version)
        return sorted(found, key=lambda container: str(container.attrs["Created"]), reverse=True)

    def wanted_containers(self, name: str, version: str) -> list[Any]:
        """Return the containers of a model version that Docker runs, or is about to restart, the newest first."""
        return [container for container in self._known(name, version) if inspection.is_wanted(container.attrs)]

    # --- starting ---

    def as_deployed(self, model: ModelSpec) -> ModelSpec:
        """Return `model` with the resources of the replicas that it has or had."""
        known = self._known(model.name, model.version)
        return replace(model, resources=inspection.resources_of(known[0].attrs)) if known else model

    def scale(self, cluster: Cluster, model: ModelSpec) -> None:
        """Start or stop replicas until there are `model.num_replicas`. Those to be stopped have ended on return."""
        have = sorted(
            self.wanted_containers(model.name, model.version), key=lambda container: container.status != "running"
        )
        missing = model.num_replicas - len(have)
        if missing > 0:
            self._engine.ensure_image(model.image)
            numbers = [secrets.token_hex(4) for _ in range(missing)]
            self._start_together(cluster, [containers.replica(cluster, model, number) for number in numbers])
        self._stop(have[model.num_replicas :])

    def _start_together(self, cluster: Cluster, wanted: Sequence[Container]) -> None:
        """Start all of these containers, or none."""
        try:
            in_parallel(lambda container: self._engine.start(container, cluster), wanted)
        except BaseException:
            names = {container.name for container in wanted}
            found = self._engine.find(self._of_cluster)
            self._engine.remove([container for container in found if container.name in names])
            raise

    # --- watching ---

    def failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """Return the replicas that ended since they were asked for, also if they run again, until they are stable."""
        found = [container for container in self._known(name, version) if not _is_well(container.attrs)]
        return [
            ReplicaFailure(container.name, inspection.how_it_ended(container.attrs), self._last_words(container))
            for container in found
        ]

    def last_lines(self, name: str, version: str) -> dict[str, str]:
        """Return the last lines in the logs of a model version's replicas that should run, the newest replica first."""
        found = self.wanted_containers(name, version)
        return {container.name: self._engine.log_tail(container, _TAIL_LINES) for container in found}

    def _last_words(self, container: Any) -> str:
        """Return what a replica wrote before its last end, without what it writes now that it runs again."""
        is_running = container.attrs["State"]["Status"] == "running"
        until = inspection.started_at(container.attrs) if is_running else None
        return self._engine.log_tail(container, _TAIL_LINES, until)

    # --- stopping ---

    def stop(self, is_unwanted: Callable[[str], bool]) -> None:
        """Stop the replicas of the model versions whose labels are unwanted, all at the same time."""
        found = self._engine.find(self._of_cluster)
        running = [container for container in found if not inspection.was_stopped(container.attrs)]
        models = [(container, container.labels.get(CLIPPER_MODEL_CONTAINER_LABEL)) for container in running]
        self._stop([container for container, label in models if label and is_unwanted(label)])

    def _stop(self, found: Sequence[Any]) -> None:
        """Stop replicas, and keep the last of each version for their logs."""
        self._engine.stop(found)
        # Labels cannot be changed, so that the name must tell this end from one that nobody asked for.
        self._engine.rename(found, containers.STOPPED_SUFFIX)
        for model in {container.labels[CLIPPER_MODEL_CONTAINER_LABEL] for container in found}:
            known = self._known(*parse_model_container_label(model))
            stopped = [container for container in known if inspection.was_stopped(container.attrs)]
            self._engine.remove(stopped[_KEPT_STOPPED:])


def _is_well(attributes: inspection.Attributes) -> bool:
    """Whether a replica runs as it should, was stopped by Clipper, or has recovered."""
    if inspection.was_stopped(attributes) or not inspection.how_it_ended(attributes):
        return True
    is_running = attributes["State"]["Status"] == "running"
    return is_running and time.time() - inspection.started_at(attributes) > HEALTHY_SECONDS
