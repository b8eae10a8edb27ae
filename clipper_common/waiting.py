"""Time limits, and attempts that are repeated until one succeeds or a time limit is over."""

import asyncio
import time
from collections.abc import Callable
from typing import Self, TypeVar

Value = TypeVar("Value")


class TimeLimit:
    """A time limit that begins when it is made."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """The seconds since it began."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        return self.elapsed_seconds > self.seconds

    def attempts(self, pause_seconds: float) -> "Attempts":
        """Return an iterator for a `for` or `async for` loop, which makes an attempt now and after each pause.

        The loop ends when an attempt fails after the time limit; its `else` is where to say so.
        """
        return Attempts(self, pause_seconds)

    def retry(
        self, call: Callable[[], Value], pause_seconds: float, is_temporary: Callable[[Exception], bool]
    ) -> Value:
        """Return what `call` returns. It is called again after each temporary error until the time limit is over."""
        while True:
            try:
                return call()
            except Exception as error:
                if self.is_over or not is_temporary(error):
                    raise
            time.sleep(pause_seconds)


class Attempts:
    """See `TimeLimit.attempts`."""

    def __init__(self, limit: TimeLimit, pause_seconds: float) -> None:
        self._limit = limit
        self._pause = pause_seconds
        self._is_first = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> None:
        if pause := self._next_pause():
            time.sleep(pause)
        elif pause is None:
            raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        if pause := self._next_pause():
            await asyncio.sleep(pause)
        elif pause is None:
            raise StopAsyncIteration

    def _next_pause(self) -> float | None:
        """Return the seconds before the next attempt; None if there is to be none."""
        if self._is_first:
            self._is_first = False
            return 0.0
        return None if self._limit.is_over else self._pause
