"""Which process is which: a process id alone may be another's by tomorrow."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Self

import psutil

from clipper_common.waiting import TimeLimit

ENV_CLUSTER_ID: Final = "CLIPPER_CLUSTER_ID"
ENV_CLUSTER_DIRECTORY: Final = "CLIPPER_CLUSTER_DIRECTORY"
ENV_PROGRAM_ID: Final = "CLIPPER_PROGRAM_ID"

_TOLERANCE_SECONDS: Final = 1.5  # the system computes start times from the clock, which may be set
_KILL_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.01


class Identity(NamedTuple):
    """A process, and no other that gets its id later."""

    pid: int
    start_time: float

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The identity of the process that has this id now, if one has."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.start_time) < _TOLERANCE_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def is_stopped(self) -> bool:
        """Whether this process was stopped by a signal, not by a debugger, and not continued."""
        try:
            return self.is_alive() and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def send(self, number: signal.Signals) -> None:
        """Signal this process, if it still lives."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def listening_ports(pid: int) -> set[int]:
    """The TCP ports on which a process of ours listens, or one that it started."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        connections = [connection for member in family for connection in member.net_connections("tcp")]
    except psutil.Error:
        return set()
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def marked(marks: Mapping[str, str]) -> list[psutil.Process]:
    """The other living processes whose environment holds `marks`."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _has(process, marks)]


def kill_group(leader: int, marks: Mapping[str, str]) -> None:
    """Kill what is left of the process group of `leader`, which may be gone, as far as it is marked as ours."""
    for process in _group(leader):
        if _has(process, marks):
            _kill(process)


def kill_marked(marks: Mapping[str, str]) -> None:
    """Kill every process that is marked, and those that they start meanwhile. They are gone on return."""
    # One that is dead may stay as a zombie until its new parent looks: it is not waited for.
    for _ in TimeLimit(_KILL_SECONDS).attempts(_POLL_SECONDS):
        alive = marked(marks)
        if not alive:
            return
        for process in alive:
            _kill(process)


def _has(process: psutil.Process, marks: Mapping[str, str]) -> bool:
    try:
        environment = process.environ()
        return marks.items() <= environment.items() and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _group(leader: int) -> Iterator[psutil.Process]:
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getpgid(pid) == leader:
                yield psutil.Process(pid)


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()  # psutil compares the start time first
