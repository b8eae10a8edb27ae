"""Keeps each garbage collection short, however many objects a worker has.

A query leaves no cycles behind, and nearly all that lives for long (the program itself, the configuration, connections)
is freed without the collector. Left alone, it would examine all of it again and again, each time in one turn of the
event loop: 250 ms for the million objects of 10,000 applications and models. So what has survived a collection of all
generations is not examined again once there is much of it.
"""

import asyncio
import gc
from types import TracebackType
from typing import Any, Final

_THRESHOLDS: Final = (5000, 2, 1_000_000_000)
"""The oldest generation is collected by `GarbageCollection` alone."""
_OLD: Final = 1
"""Objects that survive a collection of this generation are old."""
_MANY: Final = 10_000
"""With so many old objects all generations are collected, which takes some milliseconds."""
_FEW: Final = 5000
"""If so many are left, they will stay."""
_MOST_FROZEN: Final = 4_000_000
"""With so many objects that are not examined any more, there may be garbage among them after all."""


class GarbageCollection:
    """While it is entered, in the thread of an event loop, the garbage collector works as this module says."""

    def __init__(self) -> None:
        self._is_entered = self._is_due = False
        self._frozen_at_start = 0
        self._frozen = 0
        """At most so many objects more than at the start are not examined."""
        self._most_frozen = _MOST_FROZEN

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thresholds = gc.get_threshold()
        gc.collect()
        gc.freeze()
        self._frozen_at_start = gc.get_freeze_count()
        self._is_entered = True
        gc.set_threshold(*_THRESHOLDS)
        gc.callbacks.append(self._on_collection)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_entered = False
        gc.callbacks.remove(self._on_collection)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def _on_collection(self, phase: str, info: dict[str, Any]) -> None:
        """Called by the collector, in the thread that happened to need memory."""
        if phase == "stop" and info["generation"] == _OLD and not self._is_due and _num_old() > _MANY:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._is_due = False
        if not self._is_entered:
            return
        if self._frozen > self._most_frozen:
            self._frozen = (
                gc.get_freeze_count() - self._frozen_at_start
            )  # many may have been freed since; to count the others takes long
            if self._frozen > self._most_frozen:
                gc.unfreeze()
                self._most_frozen = 2 * self._frozen
        gc.collect()
        left = _num_old()
        if left > _FEW:
            self._frozen += left
            gc.freeze()


def _num_old() -> int:
    return len(gc.get_objects(generation=2))
