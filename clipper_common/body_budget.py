"""The memory that large bodies and outputs may hold at a time, shared fairly by the applications that wait for it.

Only bodies wait for memory. Outputs, unfinished answers of replicas and answers that clients have not read are only
counted, since their size is not known before.
"""

import asyncio
import os
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Final

from aiohttp import web

from clipper_common.constants import MAX_BODY_BYTES
from clipper_common.webapp import read_in_parts

_LEAST_BYTES: Final = 8 * MAX_BODY_BYTES
_SHARE: Final = 4
"""The divisor of the memory of this program that gives the budget of all workers."""
_WAIT_SECONDS: Final = 2.0
SHORT_SECONDS: Final = 10.0
"""Seconds for which memory counts as short after a request had to wait."""
_PROGRESS_BYTES: Final = 1 << 16
_TOO_SLOW: Final = (
    f"The body brought less than {_PROGRESS_BYTES} bytes in {SHORT_SECONDS:g} seconds while other requests waited "
    "for the memory that was held for it"
)
_CGROUP_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class OverBudgetError(Exception):
    """Earlier requests still hold the memory for bodies."""


class Held:
    """The bytes that one request holds."""

    def __init__(self, budget: "BodyBudget", size: int) -> None:
        self._budget = budget
        self.size = size

    def add(self, size: int) -> None:
        """Hold `size` more bytes, even beyond the limit."""
        self.resize(self.size + size)

    def resize(self, size: int) -> None:
        """Hold `size` bytes instead of the present number, even beyond the limit."""
        self._budget.give_back(self.size - size)
        self.size = size


class BodyBudget:
    """Admits requests while there is memory for their bodies. Others wait, with applications taking turns."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held_bytes = 0
        self._short_at = -inf
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()
        """The bytes that each waiting request needs, by application, the next application first."""

    @asynccontextmanager
    async def hold(self, app_name: str, size: int) -> AsyncIterator[Held]:
        """Hold `size` bytes during the block. Raises `OverBudgetError` if they are not free within `_WAIT_SECONDS`.

        While nothing is held, a body of any size is admitted.
        """
        if self._waiting or not self._has_room(size):
            await self._wait(app_name, size)
        else:
            self.held_bytes += size
        held = Held(self, size)
        try:
            yield held
        finally:
            held.resize(0)

    async def read(self, request: web.Request) -> list[bytes]:
        """Read a body for which memory is held, in parts.

        Raises a 408 if it brings less than `_PROGRESS_BYTES` in `SHORT_SECONDS` while other requests wait for memory.
        """
        reading = asyncio.create_task(read_in_parts(request))
        try:
            seen = 0
            while not (await asyncio.wait([reading], timeout=SHORT_SECONDS))[0]:
                seen, before = request.content.total_bytes, seen
                if seen - before < _PROGRESS_BYTES and self.was_short_within(SHORT_SECONDS):
                    raise web.HTTPRequestTimeout(text=_TOO_SLOW)
            return reading.result()
        finally:
            reading.cancel()
            del reading  # avoids a reference cycle: its error has a traceback with this frame, and the body

    @contextmanager
    def count(self) -> Iterator[Held]:
        """Hold, during the block, the bytes that are added to the result, which begins with none."""
        held = Held(self, 0)
        try:
            yield held
        finally:
            held.resize(0)

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
        while self._waiting:
            app_name, requests = next(iter(self._waiting.items()))
            size, admitted = requests[0]
            if not admitted.done() and not self._has_room(size):
                return
            requests.popleft()
            self._waiting.move_to_end(app_name)
            if not requests:
                del self._waiting[app_name]
            if not admitted.done():
                self.held_bytes += size
                admitted.set_result(None)

    def _has_room(self, size: int) -> bool:
        return self.held_bytes + size <= self.limit or not self.held_bytes

    async def _wait(self, app_name: str, size: int) -> None:
        self._short_at = time.monotonic()
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(app_name, deque()).append((size, admitted))
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await admitted
        except (TimeoutError, asyncio.CancelledError) as error:
            if admitted.done() and not admitted.cancelled():  # it was admitted at the same moment
                self.give_back(size)
            else:
                admitted.cancel()
                self.give_back(0)  # the others may have waited for this one
            if isinstance(error, TimeoutError):
                raise OverBudgetError from None
            raise


def default_limit(workers: int) -> int:
    """Return the budget of each worker in bytes: its share of the available memory, at least `_LEAST_BYTES`."""
    return max(_memory_bytes() // _SHARE // max(workers, 1), _LEAST_BYTES)


def _memory_bytes() -> int:
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # the file does not exist, or holds "max"
            found.append(int(path.read_text()))
    return min(found)
