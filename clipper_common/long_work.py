"""Work that would block an event loop for long, done in steps between which the loop does its other work.

All such work of a loop shares a few milliseconds of each iteration (turn) of the loop, one step each in rotation. So
other work never waits longer, however much long work there is.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Generator, Iterator
from math import inf
from time import perf_counter
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

logger = logging.getLogger(__name__)

TURN_SECONDS: Final = 0.004
"""Seconds of each turn of the loop in which steps are made."""

Value = TypeVar("Value")
Steps = Generator[None, None, Value]
"""A generator that yields after each step, which must take far less than `TURN_SECONDS`."""


class _LongWork:
    """The long work of one event loop."""

    def __init__(self) -> None:
        self._works: deque[Iterator[None]] = deque()
        """The unfinished works; the first one makes the next step."""
        self.since = -inf
        """The time, by `perf_counter`, at which the steps of the previous turn ended: the present turn began later."""
        self._ended = -inf
        self._until: float | None = None
        """The end, by `perf_counter`, of the time for what is done at once in this turn; None before there is any."""

    def seconds_left(self) -> float:
        now = perf_counter()
        if self._until is None:
            self._until = now + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self._forget_until)
        return self._until - now

    def _forget_until(self) -> None:
        self._until = None

    def start_soon(self, steps: Iterator[None]) -> None:
        if not self._works:
            asyncio.get_running_loop().call_soon(self._turn)
        self._works.append(steps)

    def _turn(self) -> None:
        works, until = self._works, perf_counter() + TURN_SECONDS
        self.since = self._ended
        while works:
            try:
                next(works[0])
            except StopIteration:
                works.popleft()
            except Exception:
                works.popleft()
                logger.exception("some long work failed")
            else:
                works.rotate(-1)
            if works and perf_counter() >= until:
                asyncio.get_running_loop().call_soon(self._turn)
                break
        self._ended = perf_counter()


_of_loops: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _LongWork]] = WeakKeyDictionary()


def _of_running_loop() -> _LongWork:
    loop = asyncio.get_running_loop()
    work = _of_loops.get(loop)
    if work is None:
        work = _of_loops[loop] = _LongWork()
    return work


def start_soon(steps: Iterator[None]) -> None:
    """Make all steps in the running loop, beginning in its next turn. Exceptions are logged."""
    _of_running_loop().start_soon(steps)


def seconds_left() -> float:
    """Return how long work may go on at once: `TURN_SECONDS` in each turn of the loop, for all who ask together."""
    return _of_running_loop().seconds_left()


def turn_began_after(loop: asyncio.AbstractEventLoop) -> float:
    """Return a time, by `perf_counter`, after which the present turn of the loop began; -inf if none is known."""
    work = _of_loops.get(loop)
    return -inf if work is None else work.since


def start_now(steps: Iterator[None]) -> None:
    """Make the first step at once, and the others like `start_soon`. Work of one step is finished on return."""
    with contextlib.suppress(StopIteration):
        next(steps)
        start_soon(steps)


def finish_at_once(steps: Steps[Value]) -> Value:
    """Make all steps at once, and return their result. This blocks the thread."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: Value = stop.value
            return value


async def finish(steps: Steps[Value]) -> Value:
    """Make all steps, and return their result. The first is made at once, so work of one step does not wait."""
    try:
        next(steps)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
    start_soon(_tell(steps, future))
    try:
        return await future
    finally:
        del future  # avoids a reference cycle: its error has a traceback with this frame


def _tell(steps: Steps[Value], future: asyncio.Future[Value]) -> Iterator[None]:
    """Make the steps and set the result of `future`; stop if it is cancelled."""
    try:
        while not future.cancelled():
            yield next(steps)
        steps.close()
    except StopIteration as stop:
        if not future.cancelled():
            future.set_result(stop.value)
    except Exception as error:
        if not future.cancelled():
            future.set_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
