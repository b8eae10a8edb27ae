"""Work that would keep an event loop for long, done in steps between which the loop does its other work.

All such work of a loop shares a few milliseconds of each turn, step by step in rotation: however much of it there is,
and however it is divided, nobody else waits longer for it.
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
"""Steps are made for so long in a turn of the loop."""

Value = TypeVar("Value")
Steps = Generator[None, None, Value]
"""Yields after each step, which takes far less time than a turn may."""


class _LongWork:
    """The long work of one event loop."""

    def __init__(self) -> None:
        self._works: deque[Iterator[None]] = deque()
        """All that is not finished; the front one makes the next step."""
        self.since = -inf
        """The present turn of the loop began after this, by `perf_counter`: steps of an earlier one ended then."""
        self._ended = -inf

    def start(self, steps: Iterator[None]) -> None:
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


def start(steps: Iterator[None]) -> None:
    """Make all steps in the running loop, beginning in its next turn. What they raise is logged."""
    loop = asyncio.get_running_loop()
    work = _of_loops.get(loop)
    if work is None:
        work = _of_loops[loop] = _LongWork()
    work.start(steps)


def turn_began_after(loop: asyncio.AbstractEventLoop) -> float:
    """A time by `perf_counter` after which the present turn of the loop began: -inf where no long work tells."""
    work = _of_loops.get(loop)
    return -inf if work is None else work.since


def begin(steps: Iterator[None]) -> None:
    """Make the first step at once, and all others as `start` does: what is small is finished on return."""
    with contextlib.suppress(StopIteration):
        next(steps)
        start(steps)


def finish_at_once(steps: Steps[Value]) -> Value:
    """Make all steps in one go, and return what they return: for where nobody else waits."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: Value = stop.value
            return value


async def finish(steps: Steps[Value]) -> Value:
    """Make all steps and return what they return. The first is made at once, so what has only one does not wait."""
    try:
        next(steps)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    future: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
    start(_tell(steps, future))
    try:
        return await future
    finally:
        del future  # it has the error, whose traceback has this frame: nothing is left as a cycle


def _tell(steps: Steps[Value], future: asyncio.Future[Value]) -> Iterator[None]:
    """Make the steps for as long as somebody waits for their end."""
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
