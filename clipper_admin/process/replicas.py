"""ProcessReplicas: the replicas of a cluster of processes, started, watched and stopped by way of its supervisor."""

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Final

from clipper_admin.container_manager import ReplicaFailure
from clipper_admin.model_spec import ModelSpec
from clipper_admin.process import bundles, locks, ports, programs, supervisor_client
from clipper_admin.process.state import Cluster, ClusterFiles, Program, State, Status, write_json
from clipper_common import constants
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

STOP_SECONDS = constants.DRAIN_SECONDS + 3.0
"""Seconds to wait for programs to stop; the supervisor kills them a second earlier."""
HEALTHY_SECONDS = 30.0
"""Seconds after which a replica that was restarted counts as healthy."""

_LOCK_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_RESTART_MARK: Final = re.compile(r"^--- start \d+: .* ---$")


class ProcessReplicas:
    """The replicas of all model versions, as programs in the files of a cluster that its supervisor runs."""

    def __init__(self, files: ClusterFiles) -> None:
        self._files = files

    # --- starting ---

    def scale(self, cluster: Cluster, model: ModelSpec) -> None:
        """Start or stop replicas until there are `model.num_replicas`. Those to be stopped are gone on return."""
        launch = bundles.resolve(self._files, model.image)
        with locks.locked(self._files.changes_lock, _LOCK_SECONDS):
            have = sorted(self._files.replicas(model.name, model.version), key=self._worth)
            surplus = [program.id for program in have[model.num_replicas :]]
            self._files.delete_programs(surplus)
            added = self._add(launch, cluster, model, model.num_replicas - len(have))
            self._apply()
        self._wait("not been started", lambda: all(self._files.status(id_) for id_ in added))
        self._wait_until_gone(surplus)

    def _worth(self, program: Program) -> tuple[bool, int]:
        status = self._files.status(program.id)
        return not (status and status.state == State.RUNNING), programs.number_of(program.id)

    def _add(self, launch: bundles.Launch, cluster: Cluster, model: ModelSpec, count: int) -> list[str]:
        known = [*self._files.logs(), *self._files.programs_folder.glob("*.json")]
        first = programs.next_number(model.name, model.version, known)
        path = os.pathsep.join(filter(None, [bundles.toplevel_folder(), os.environ.get("PYTHONPATH")]))
        taken = cluster.ports | self._metric_ports()
        ids = []
        for number in range(first, first + count):
            port = ports.find_port(0, taken)
            taken.add(port)
            program = programs.replica(launch, cluster, model, number, port, path)
            self._files.write_program(program)
            ids.append(program.id)
        return ids

    def _metric_ports(self) -> set[int]:
        environments = (program.environment for program in self._files.programs().values())
        return {int(e[constants.ENV_METRIC_PORT]) for e in environments if constants.ENV_METRIC_PORT in e}

    def _apply(self) -> None:
        """Make the change of `programs/` real. The caller holds the lock."""
        write_json(self._files.targets, programs.metric_targets(self._files.programs().values()))
        supervisor_client.notify(self._files)

    def _wait_until_gone(self, ids: Iterable[str]) -> None:
        self._wait("not stopped", lambda: not any(self._files.status(id_) for id_ in ids))

    def _wait(self, trouble: str, is_done: Callable[[], bool]) -> None:
        for _ in TimeLimit(STOP_SECONDS).attempts(_POLL_SECONDS):
            if is_done():
                return
        raise ClipperException(
            f"Replicas have {trouble} within {STOP_SECONDS:.0f} seconds: does the supervisor hang? "
            "stop_all(graceful=False) ends it."
        )

    # --- watching ---

    def failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """Return the replicas that ended since they were asked for, also if they run again, until they are stable."""
        ids = [program.id for program in self._files.replicas(name, version)]
        found = [(id_, self._files.status(id_)) for id_ in ids]
        return [
            ReplicaFailure(id_, status.last_exit, self._last_words(id_))
            for id_, status in found
            if status and status.last_exit and not _has_recovered(status)
        ]

    def last_lines(self, name: str, version: str) -> dict[str, str]:
        """Return the last lines in the logs of a model version's replicas, the newest replica first."""
        ids = sorted((program.id for program in self._files.replicas(name, version)), key=programs.number_of)
        return {id_: self._files.log_tail(id_) for id_ in reversed(ids)}

    def _last_words(self, id_: str) -> str:
        """Return what a replica wrote before its last end, without what its successor writes."""
        lines = self._files.log_tail(id_).splitlines()
        marks = [number for number, line in enumerate(lines) if _RESTART_MARK.match(line)]
        own = lines[: marks[-1]] if marks and marks[-1] else lines
        return "\n".join(own)

    # --- stopping ---

    def stop(self, is_unwanted: Callable[[Program], bool]) -> None:
        """Stop those of all programs that are unwanted, and wait until they are gone."""
        with locks.locked(self._files.changes_lock, _LOCK_SECONDS):
            ids = [program.id for program in self._files.programs().values() if is_unwanted(program)]
            self._files.delete_programs(ids)
            self._apply()
        self._wait_until_gone(ids)


def _has_recovered(status: Status) -> bool:
    return status.state == State.RUNNING and time.time() - status.start_time > HEALTHY_SECONDS
