"""Distinguishes a worker that hangs from a slow one, by the heartbeats of its event loop and the state of its process.

Only time in which the worker could run counts. Time in which the watcher itself did not run does not count, because the
machine slept or all processes were stopped; nor does time in which the worker waits for a processor, for memory or for
a debugger.
"""

import os
from enum import Enum, auto
from pathlib import Path
from typing import Final, NamedTuple

from query_frontend.workers.context import BEAT_SECONDS

CHECK_SECONDS: Final = BEAT_SECONDS
_HUNG_SECONDS: Final = 2.5
"""Seconds without a heartbeat after which a worker hangs. The longest turns of a working event loop are far shorter."""
_LONGEST_CHECK_SECONDS: Final = 2 * CHECK_SECONDS
"""The most seconds that count between two checks."""
_USES_NO_PROCESSOR: Final = "ST"
"""States of a process that waits for something other than a processor, or that is stopped."""


class Process(NamedTuple):
    """The state and the CPU time of a process, as the operating system reports them."""

    state: str
    """The letter of the state, as in proc(5)."""
    cpu_seconds: float


class Verdict(Enum):
    ALIVE = auto()
    HANGS = auto()
    """The verdict that the worker hangs since this check."""
    STILL_HANGS = auto()


class Watch:
    """Watches one worker from the moment at which it serves."""

    def __init__(self, now: float, beats: int) -> None:
        self._checked = now
        self._beats = beats
        self._process: Process | None = None
        self.silent_seconds = 0.0
        self._hangs = False

    def check(self, now: float, beats: int, process: Process | None) -> Verdict:
        """Check the worker; to be called every `CHECK_SECONDS`.

        `beats` is the number of heartbeats so far. If `process` is None, all time counts.
        """
        elapsed = min(now - self._checked, _LONGEST_CHECK_SECONDS)
        before, self._process, self._checked = self._process, process, now
        if beats != self._beats:
            self._beats, self.silent_seconds, self._hangs = beats, 0.0, False
            return Verdict.ALIVE
        self.silent_seconds += _could_use(elapsed, before, process)
        if self.silent_seconds < _HUNG_SECONDS:
            return Verdict.ALIVE
        hung, self._hangs = self._hangs, True
        return Verdict.STILL_HANGS if hung else Verdict.HANGS


def _could_use(elapsed: float, before: Process | None, process: Process | None) -> float:
    if process is None or process.state in _USES_NO_PROCESSOR:
        return elapsed
    return process.cpu_seconds - before.cpu_seconds if before is not None else 0.0


def read_process(pid: int) -> Process | None:
    """Return the state of a process; None if the operating system does not report it."""
    try:
        _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except OSError:
        return None
    state, *numbers = fields.split()
    return Process(state, (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK"))
