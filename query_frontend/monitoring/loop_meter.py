"""Measures the iterations (turns) of the event loop from a thread, and logs the stacks of the long ones.

uvloop has no hook for its turns. So the thread schedules a callback on the loop and measures its delay, which is what
any new event would wait. While the callback is overdue, the thread samples the stack of the loop's thread. The CPU time
of the loop's thread tells a turn that computes from one that waits, for the disk or for a processor.

An idle loop is not woken up for this: the thread sleeps until the loop's epoll descriptor has events.
"""

import asyncio
import logging
import math
import os
import select
import selectors
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from clipper_common import long_work
from query_frontend.monitoring.metric_kinds import Counter, Leaves
from query_frontend.monitoring.metrics import SystemMetrics

logger = logging.getLogger(__name__)

_IDLE_MILLIS: Final = 100
"""Milliseconds between samples of an idle loop: the epoll descriptor does not signal timers."""
_SWITCH_SECONDS: Final = 0.001
"""Python's switch interval: seconds after which the loop's thread passes the GIL to this one. With the usual 5 ms it
never would in turns of 4 ms, between which the GIL is free for too short a time; they would all count as one turn."""
_BUSY: Final = 0.1
"""A callback is scheduled on a loop that computed for at least this share of the time."""
_QUIET: Final = 0.01
_QUIET_LOOKS: Final = 2
"""The number of consecutive samples with less than `_QUIET` of computing after which a loop counts as idle: waking up
for each of many events costs more than regular samples."""
_WAITING_LIMITS: Final = 5
"""A turn that hardly computes is logged when it takes this many times the limit: the machine may be busy."""
_LOG_SECONDS: Final = 10.0
_WINDOW_SECONDS: Final = 60.0
_MAX_FRAMES: Final = 12
_NO_PYTHON_CODE: Final = "the event loop itself, or compiled code"
_LOOP_CODE: Final[frozenset[CodeType]] = frozenset(
    [asyncio.Runner.run.__code__, selectors.DefaultSelector.select.__code__]
)
"""The code that the loop's thread executes between two turns; for uvloop, which is compiled, that of its caller."""


def can_measure() -> bool:
    """Whether a thread can read the CPU time of another on this system. On macOS it cannot."""
    return hasattr(time, "pthread_getcpuclockid")


class Turn(NamedTuple):
    """A turn of the event loop, measured from the sample that found it."""

    wall_seconds: float
    cpu_seconds: float
    stack: str


class Peak:
    """The greatest value of the last one to two minutes. Reading it does not reset it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._now = self._before = 0.0

    def add(self, value: float) -> None:
        self._move_on()
        self._now = max(self._now, value)

    def value(self) -> float:
        self._move_on()
        return max(self._now, self._before)

    def _move_on(self) -> None:
        windows = int((self._clock() - self._since) / _WINDOW_SECONDS)
        if windows:
            self._before = self._now if windows == 1 else 0.0
            self._now = 0.0
            self._since += windows * _WINDOW_SECONDS


class Turns:
    """Counts measured turns in metrics, and makes a log line of long ones, at most one in ten seconds."""

    def __init__(
        self, limit_seconds: float, metrics: SystemMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_seconds
        self._clock = clock
        self._slow: Counter = metrics.slow_turns
        self._computing: Counter = metrics.slow_computing_turns
        self._peaks = {"wall_micros_max": Peak(clock), "cpu_micros_max": Peak(clock)}
        self._worst: Turn | None = None
        """The longest turn that was not logged yet."""
        self._untold = 0
        self._quiet_until = -math.inf

    def longest(self) -> Leaves:
        """Return the wall and CPU time of the longest recent turns."""
        return {name: str(round(peak.value() * 1e6)) for name, peak in self._peaks.items()}

    def add(self, turn: Turn) -> None:
        self._peaks["wall_micros_max"].add(turn.wall_seconds)
        self._peaks["cpu_micros_max"].add(turn.cpu_seconds)
        self._slow.count += turn.wall_seconds > self._limit
        self._computing.count += turn.cpu_seconds > self._limit
        if turn.cpu_seconds > self._limit or turn.wall_seconds > self._limit * _WAITING_LIMITS:
            self._untold += 1
            self._worst = max(turn, self._worst or turn)

    def take_line(self) -> str | None:
        """Return the line to write to the log now, if there is one."""
        worst, now = self._worst, self._clock()
        if worst is None or now < self._quiet_until:
            return None
        others = f", the longest of {self._untold} long ones," if self._untold > 1 else ""
        self._worst, self._untold, self._quiet_until = None, 0, now + _LOG_SECONDS
        wall, cpu = worst.wall_seconds * 1000, worst.cpu_seconds * 1000
        return f"a turn of the event loop{others} took {wall:.0f} ms, {cpu:.0f} ms of it computing, in {worst.stack}"


class _Probe:
    """A callback that was scheduled on the loop, and the wall and CPU times at which it ran."""

    def __init__(self, wall: float, cpu: float) -> None:
        self.wall = wall
        self.cpu = cpu
        self.ran: tuple[float, float] | None = None
        self.stack = ""
        self.next_stack = 0.0
        """Seconds overdue at which the next stack is taken. They double: the last stack is of a turn's second half."""

    def __call__(self) -> None:
        self.ran = time.monotonic(), time.thread_time()


class LoopMeter:
    """A context manager that measures the turns of the running event loop until it is exited."""

    def __init__(self, limit_seconds: float, turns: Turns) -> None:
        self._period = limit_seconds
        """Seconds between samples of a busy loop. A turn of twice this limit is always found."""
        self._turns = turns
        self._probe: _Probe | None = None

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._cpu_clock = time.pthread_getcpuclockid(self._watched)
        self._seen_cpu = time.thread_time()
        self._stopping = threading.Lock()
        self._stopping.acquire()
        self._stop_reader, self._stop_writer = os.pipe()
        self._events = select.poll()
        self._events.register(self._stop_reader, select.POLLIN)
        descriptor = _epoll_descriptor(self._loop)
        if descriptor is not None:
            self._events.register(descriptor, select.POLLIN)
        self._switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._thread = threading.Thread(target=self._run, name="loop meter", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop the thread. The loop must not be closed yet."""
        sys.setswitchinterval(self._switch_interval)
        self._stopping.release()
        os.close(self._stop_writer)
        self._thread.join()
        os.close(self._stop_reader)

    # --- in the thread ---

    def _run(self) -> None:
        stops = False
        while not stops:
            due = time.monotonic() + _IDLE_MILLIS / 1000
            has_events = bool(self._events.poll(_IDLE_MILLIS))
            # The time of the event is not known: the loop's thread may have held the GIL since then.
            is_active = self._look(math.inf if has_events else time.monotonic() - due) or has_events
            quiet = 0 if is_active else _QUIET_LOOKS
            while quiet < _QUIET_LOOKS and not stops:
                due = time.monotonic() + self._period
                stops = self._stopping.acquire(timeout=self._period)
                quiet = 0 if self._look(time.monotonic() - due) else quiet + 1

    def _look(self, late_seconds: float) -> bool:
        """Sample the loop, `late_seconds` after the planned time. Return whether it is active.

        A turn that holds the GIL, such as one that parses a large text, delays this thread. The CPU time that the loop
        used meanwhile is counted as part of that turn.
        """
        now, cpu = time.monotonic(), time.clock_gettime(self._cpu_clock)
        computed, self._seen_cpu = cpu - self._seen_cpu, cpu
        if self._probe is not None and self._probe.ran is not None:
            self._end(self._probe, *self._probe.ran)
        if (line := self._turns.take_line()) is not None:
            logger.warning("%s", line)
        if self._probe is not None:
            self._note_stack(self._probe, now)
        else:
            if computed < self._period * _BUSY and _is_waiting(self._frame()):
                return computed > self._period * _QUIET
            in_turn = time.perf_counter() - long_work.turn_began_after(self._loop)  # at most
            missed = max(0.0, min(late_seconds, computed, in_turn))
            self._probe = _Probe(now - missed, cpu - missed)
            self._note_stack(self._probe, now)  # before the next call, which may release the GIL
            self._loop.call_soon_threadsafe(self._probe)
        return True

    def _note_stack(self, probe: _Probe, now: float) -> None:
        overdue = now - probe.wall
        if overdue >= max(self._period / 2, probe.next_stack):
            probe.stack = describe(self._frame()) or probe.stack
            probe.next_stack = 2 * overdue

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._watched)

    def _end(self, probe: _Probe, wall: float, cpu: float) -> None:
        self._probe = None
        self._turns.add(Turn(wall - probe.wall, cpu - probe.cpu, probe.stack or _NO_PYTHON_CODE))


def _epoll_descriptor(loop: asyncio.AbstractEventLoop) -> int | None:
    """Return the loop's epoll descriptor; None if it has none, so that an idle loop is only sampled regularly."""
    of_uvloop: Callable[[], int] | None = getattr(loop, "_get_backend_id", None)
    if of_uvloop is not None:
        return of_uvloop()
    selector: Any = getattr(loop, "_selector", None)
    return selector.fileno() if hasattr(selector, "fileno") else None


def _is_waiting(frame: FrameType | None) -> bool:
    return frame is None or frame.f_code in _LOOP_CODE


def describe(frame: FrameType | None) -> str:
    """Return the functions being executed, innermost first: ``folder/file.py:line function <- ...``.

    The text is empty for a frame of the loop itself.
    """
    places: list[str] = []
    while not _is_waiting(frame) and frame is not None and len(places) < _MAX_FRAMES:
        file = "/".join(Path(frame.f_code.co_filename).parts[-2:])
        places.append(f"{file}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " <- ".join(places)
