"""Tells a worker that hangs from one that is slow, by the beats of its event loop and by what its process does.

Time counts against a worker only as far as it could have used it: not while the watcher itself did not run, since then
the machine slept or all were stopped, and not while the worker waits for a processor, for memory or for a debugger.
"""

import os
from enum import Enum, auto
from pathlib import Path
from typing import Final, NamedTuple

from query_frontend.workers.context import BEAT_SECONDS

CHECK_SECONDS: Final = BEAT_SECONDS
_HUNG_SECONDS: Final = 2.5
"""Without a beat. The longest turns of an event loop that does its work are far shorter."""
_LONGEST_CHECK_SECONDS: Final = 2 * CHECK_SECONDS
"""No more time than this counts between two checks."""
_USES_NO_PROCESSOR: Final = "ST"
"""States of a process that waits for something else than a processor, or was stopped."""


class Process(NamedTuple):
    """The state and the CPU time of a process, as the system tells them."""

    state: str
    """As in proc(5)."""
    cpu_seconds: float


class Verdict(Enum):
    ALIVE = auto()
    HANGS = auto()
    """Since this check."""
    STILL_HANGS = auto()


class Watch:
    """Watches one worker, from when it serves."""

    def __init__(self, now: float, beats: int) -> None:
        self._checked = now
        self._beats = beats
        self._process: Process | None = None
        self.silent_seconds = 0.0
        self._hangs = False

    def check(self, now: float, beats: int, process: Process | None) -> Verdict:
        """To be asked every `CHECK_SECONDS`. `beats` are those so far; without a `process` all time counts."""
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
    """None where the system does not say."""
    try:
        _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except OSError:
        return None
    state, *numbers = fields.split()
    return Process(state, (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK"))
