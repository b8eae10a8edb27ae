"""Measures how long the turns of the event loop take, from a thread beside it, and tells what the long ones did.

uvloop has no hook for its turns. So the thread asks the loop to run a callback, and sees how long that takes: what
whoever comes in that moment waits. While the callback is overdue, the thread notes what the loop's thread is doing.
The CPU time of the loop's thread tells a turn that computes from one that waits, for the disk or for a processor.

An idle loop is not woken up for that: the thread sleeps until the loop's own epoll descriptor has events.
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
from query_frontend.monitoring.metrics import Counter, Leaves, SystemMetrics

logger = logging.getLogger(__name__)

_IDLE_MILLIS: Final = 100
"""An idle loop is looked at so often: what a timer starts is no event of a descriptor."""
_SWITCH_SECONDS: Final = 0.001
"""After so long without a pause the loop's thread hands Python's lock to this one. With Python's 5 ms it never would in
turns of 4 ms: each begins with a pause that is too short to take the lock. They would all count as one turn."""
_BUSY: Final = 0.1
"""A loop that computed for this part of the time is asked to run a callback."""
_QUIET: Final = 0.01
_QUIET_LOOKS: Final = 2
"""So often in a row must it have computed for less than this part of the time to count as idle: to be woken up by each
of many events costs more than to look regularly."""
_WAITING_LIMITS: Final = 5
"""A turn that hardly computes is written to the log when it takes so many times the limit: the machine may be busy."""
_LOG_SECONDS: Final = 10.0
_WINDOW_SECONDS: Final = 60.0
_MAX_FRAMES: Final = 12
_NO_PYTHON_CODE: Final = "the event loop itself, or compiled code"
_LOOP_CODE: Final[frozenset[CodeType]] = frozenset(
    [asyncio.Runner.run.__code__, selectors.DefaultSelector.select.__code__]
)
"""What the loop's thread executes between two turns: of uvloop, which is no Python code, there is the caller."""


def can_measure() -> bool:
    """Whether the system tells a thread the CPU time of another. macOS does not."""
    return hasattr(time, "pthread_getcpuclockid")


class Turn(NamedTuple):
    """A turn of the event loop, from when it was first looked at."""

    wall_seconds: float
    cpu_seconds: float
    stack: str


class Peak:
    """The greatest value of the last one to two minutes, however many ask for it and how often."""

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
    """What becomes of turns that were measured: metrics, and a line in the log for long ones, not more than one in ten
    seconds."""

    def __init__(
        self, limit_seconds: float, metrics: SystemMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_seconds
        self._clock = clock
        self._slow: Counter = metrics.slow_turns
        self._computing: Counter = metrics.slow_computing_turns
        self._peaks = {"wall_micros_max": Peak(clock), "cpu_micros_max": Peak(clock)}
        self._worst: Turn | None = None
        """The longest turn that the log does not have yet."""
        self._untold = 0
        self._quiet_until = -math.inf

    def longest(self) -> Leaves:
        """Return the wall and CPU time of the longest turns of late."""
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
    """A callback that the loop was asked to run, and when it did."""

    def __init__(self, wall: float, cpu: float) -> None:
        self.wall = wall
        self.cpu = cpu
        self.ran: tuple[float, float] | None = None
        self.stack = ""
        self.next_stack = 0.0
        """How long it must be overdue for the next stack: the last one taken is of the second half of the turn."""

    def __call__(self) -> None:
        self.ran = time.monotonic(), time.thread_time()


class LoopMeter:
    """Measures the turns of the event loop in whose thread it is entered, until it is left."""

    def __init__(self, limit_seconds: float, turns: Turns) -> None:
        self._period = limit_seconds
        """While the loop is busy, it is looked at so often. So a turn of twice the limit is always found."""
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
        """Before the loop is closed."""
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
            # Nobody knows when the event came: the loop may have kept Python's lock since then.
            is_active = self._look(math.inf if has_events else time.monotonic() - due) or has_events
            quiet = 0 if is_active else _QUIET_LOOKS
            while quiet < _QUIET_LOOKS and not stops:
                due = time.monotonic() + self._period
                stops = self._stopping.acquire(timeout=self._period)
                quiet = 0 if self._look(time.monotonic() - due) else quiet + 1

    def _look(self, late_seconds: float) -> bool:
        """See what the loop does; whether it does anything. So late does this come.

        A turn that keeps Python's lock, such as one that parses a large text, keeps this thread waiting. What was
        computed meanwhile is a part of that turn.
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
            self._note_stack(self._probe, now)  # at once: the next call may let the loop go on
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
    """None where the loop does not say: then an idle loop is looked at every now and then."""
    of_uvloop: Callable[[], int] | None = getattr(loop, "_get_backend_id", None)
    if of_uvloop is not None:
        return of_uvloop()
    selector: Any = getattr(loop, "_selector", None)
    return selector.fileno() if hasattr(selector, "fileno") else None


def _is_waiting(frame: FrameType | None) -> bool:
    return frame is None or frame.f_code in _LOOP_CODE


def describe(frame: FrameType | None) -> str:
    """Return the functions being executed, innermost first: ``folder/file.py:line function <- ...``.

    Empty within the loop itself.
    """
    places: list[str] = []
    while not _is_waiting(frame) and frame is not None and len(places) < _MAX_FRAMES:
        file = "/".join(Path(frame.f_code.co_filename).parts[-2:])
        places.append(f"{file}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " <- ".join(places)
