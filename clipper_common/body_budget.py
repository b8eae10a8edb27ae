"""The memory that large bodies and outputs may hold at a time, shared fairly by the applications that wait for it.

Only bodies wait for memory, and hold what has arrived of them, whatever length is announced. Outputs, unfinished
answers of replicas and answers that clients have not read are only counted, since their size is not known before.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from clipper_common.constants import MAX_BODY_BYTES
from clipper_common.fair_queue import FairQueue
from clipper_common.webapp import read_in_parts

_LEAST_BYTES: Final = 8 * MAX_BODY_BYTES
_MEMORY_DIVISOR: Final = 4
"""The divisor of the memory of this program that gives the budget of all workers."""
_WAIT_SECONDS: Final = 2.0
SHORT_SECONDS: Final = 10.0
"""Seconds for which memory counts as short after a request had to wait."""
_STALL_SECONDS: Final = 1.0
_PROGRESS_BYTES: Final = 1 << 13
"""A body that brings less in `_STALL_SECONDS` is given up while other requests wait for memory."""
_REVIEW_SECONDS: Final = 0.1
_TOO_SLOW: Final = (
    f"The body brought less than {_PROGRESS_BYTES} bytes in {_STALL_SECONDS:g} s while other requests waited for the "
    "memory that was held for it: send it again"
)
_CGROUP_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class OverBudgetError(Exception):
    """Raised when other requests hold the memory for bodies."""


class Held:
    """The bytes that one request of an application holds."""

    def __init__(self, budget: "BodyBudget", app_name: str) -> None:
        self._budget = budget
        self.app_name = app_name
        self.size = 0
        self.moved_at = time.monotonic()
        """When another `_PROGRESS_BYTES` had arrived, or the request was last given what it had waited for."""
        self._brought = 0
        """The bytes that have arrived since."""
        self.is_waiting = False
        self.is_over = False
        """Whether the request has ended. The task that reads its body may have a turn of the event loop after it."""

    async def reserve(self, size: int) -> None:
        """Hold `size` more bytes when there is room. Raises `OverBudgetError` if there is none in `_WAIT_SECONDS`."""
        await self._budget.reserve(self, size)

    def add(self, size: int) -> None:
        """Hold `size` more bytes, even beyond the limit."""
        self.resize(self.size + size)

    def note_progress(self, size: int) -> None:
        """Note that `size` more bytes have arrived, or that what had arrived is not waited for any more."""
        self._brought += size
        if self._brought >= _PROGRESS_BYTES or self.is_waiting:
            self._brought = 0
            self.moved_at = time.monotonic()

    def resize(self, size: int) -> None:
        """Hold `size` bytes instead of the present number, even beyond the limit."""
        released, self.size = self.size - size, size
        self._budget.give_back(released)


class _Waiting(NamedTuple):
    """A request that waits for room for `size` more bytes."""

    held: Held
    size: int
    admitted: asyncio.Future[None]


class BodyBudget:
    """Counts what has arrived of bodies. When the limit is reached, bodies wait, with applications taking turns.

    If all bodies waited, none would ever be complete. So one waiting request at a time may exceed the limit, which is
    exceeded by one body at most.

    While a body waits, those that do not move are given up: one after the other, beginning with the largest one of the
    application whose unfinished bodies hold the most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held_bytes = 0
        self._short_at = -inf
        self._waiting: FairQueue[_Waiting] = FairQueue()
        self._beyond: Held | None = None
        """The request that may go beyond the limit until there is room again, or it holds nothing any more."""
        self._unfinished: dict[Held, asyncio.Future[None]] = {}
        """The requests whose bodies are being read, with futures that are done when they are given up."""
        self._review: asyncio.TimerHandle | None = None
        """Looks for bodies that do not move while others wait."""

    @contextmanager
    def count(self, app_name: str = "") -> Iterator[Held]:
        """Hold, during the block, the bytes that are added to the result, which begins with none."""
        held = Held(self, app_name)
        try:
            yield held
        finally:
            held.is_over = True
            held.resize(0)

    async def reserve(self, held: Held, size: int) -> None:
        if held is self._beyond or (not self._waiting and self._has_room(size)):
            self._give(held, size)
            return
        waiting = _Waiting(held, size, asyncio.get_running_loop().create_future())
        number = self._waiting.put(held.app_name, waiting)
        self._admit()
        try:
            if not waiting.admitted.done():
                self._short_at = time.monotonic()
                self._review_later()
                held.is_waiting = True
                await asyncio.wait([waiting.admitted], timeout=_WAIT_SECONDS)
        finally:
            self._waiting.discard(held.app_name, number)
            held.note_progress(0)
            held.is_waiting = False
        if not waiting.admitted.done():
            held.resize(0)  # at once: others whose time is over in the same turn of the event loop get the room
            raise OverBudgetError

    async def read(self, request: web.Request, held: Held) -> list[bytes]:
        """Read a body in parts, and hold what has arrived. A client that sends faster than there is room has to wait.

        Raises `OverBudgetError` like `Held.reserve`, and a 408 if the body does not move while other requests wait for
        memory.
        """

        async def reserve(size: int) -> None:
            held.note_progress(size)
            await self.reserve(held, size)

        reading = asyncio.create_task(read_in_parts(request, reserve))
        given_up = self._unfinished[held] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([reading, given_up], return_when=asyncio.FIRST_COMPLETED)
            if given_up.done():
                raise web.HTTPRequestTimeout(text=_TOO_SLOW, headers={"Retry-After": "1"})
            return reading.result()
        finally:
            del self._unfinished[held]
            reading.cancel()
            del reading  # avoids a reference cycle: its error has a traceback with this frame, and the body

    def _review_later(self) -> None:
        if self._review is None:
            loop = asyncio.get_running_loop()
            self._review = loop.call_later(_REVIEW_SECONDS, self._give_up_stalled, loop.time())

    def _give_up_stalled(self, scheduled_at: float) -> None:
        """Give up bodies that do not move, until no request waits."""
        self._review = None
        now = time.monotonic()
        if asyncio.get_running_loop().time() - scheduled_at > _STALL_SECONDS / 2:  # nothing was read meanwhile
            for held in self._unfinished:
                held.moved_at = now
        for held in self._stalled(now):
            if not self._waiting:
                return
            self._unfinished[held].set_result(None)
            held.is_over = True
            held.resize(0)
        if self._waiting:
            self._review_later()

    def _stalled(self, now: float) -> list[Held]:
        """Return the unfinished bodies that do not move, the first to give up first."""
        of_app: Counter[str] = Counter()
        for held in self._unfinished:
            of_app[held.app_name] += held.size
        stalled = [
            held
            for held, given_up in self._unfinished.items()
            if held.size and not (held.is_waiting or given_up.done()) and now - held.moved_at >= _STALL_SECONDS
        ]
        return sorted(stalled, key=lambda held: (of_app[held.app_name], held.size), reverse=True)

    def count_more(self, change: int) -> None:
        """Count `change` more bytes of answers that clients have not read, or that replicas have not finished."""
        self.give_back(-change)

    def is_short(self) -> bool:
        """Whether the limit is reached, or a request had to wait in the last `SHORT_SECONDS`."""
        return self.held_bytes >= self.limit or self.was_short_within(SHORT_SECONDS)

    def was_short_within(self, seconds: float) -> bool:
        """Whether a request had to wait in the last `seconds`."""
        return time.monotonic() - self._short_at < seconds

    def give_back(self, size: int) -> None:
        """Release `size` bytes, and admit waiting requests that there is memory for. A negative size holds more."""
        self.held_bytes -= size
        if self.held_bytes <= self.limit or (self._beyond is not None and not self._beyond.size):
            self._beyond = None
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            waiting = self._waiting.take_first(lambda waiting: self._has_room(waiting.size))
            if waiting is None and self._beyond is None:
                waiting = self._waiting.take_first(lambda _: True)
                self._beyond = None if waiting is None or waiting.held.is_over else waiting.held
            if waiting is None:
                return
            self._give(waiting.held, waiting.size)
            waiting.admitted.set_result(None)

    def _has_room(self, size: int) -> bool:
        return self.held_bytes + size <= self.limit

    def _give(self, held: Held, size: int) -> None:
        if not held.is_over:
            held.size += size
            self.held_bytes += size


def default_limit(workers: int) -> int:
    """Return the budget of each worker in bytes: its share of the available memory, at least `_LEAST_BYTES`."""
    return max(_memory_bytes() // _MEMORY_DIVISOR // max(workers, 1), _LEAST_BYTES)


def _memory_bytes() -> int:
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # the file does not exist, or holds "max"
            found.append(int(path.read_text()))
    return min(found)
