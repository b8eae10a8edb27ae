"""Keeps each garbage collection short, however many objects a worker has.

Queries make no reference cycles, and nearly all long-lived objects (the program, the configuration, connections) are
freed by reference counting. By default, the collector would examine all of them again and again, each time in one turn
of the event loop: 250 ms for the million objects of 10,000 applications and models. So objects that have survived a
collection of all generations are frozen once there are many of them.
"""

import asyncio
import gc
import sys
from types import TracebackType
from typing import Any, Final

_THRESHOLDS: Final = (5000, 2, 1_000_000_000)
"""The oldest generation is collected by `GarbageCollection` alone."""
_OLD: Final = 1
"""Objects that survive a collection of this generation are old."""
_MANY: Final = 10_000
"""The number of old objects at which all generations are collected, which takes some milliseconds."""
_FEW: Final = 5000
"""The number of surviving objects from which on they are frozen."""
_MOST_FROZEN: Final = 8_000_000
"""The number of frozen objects, or of blocks of memory, at which they are unfrozen, since some may have become garbage.
An object takes two blocks or so."""


class GarbageCollection:
    """Makes garbage collections short while it is entered, in the thread of an event loop."""

    def __init__(self) -> None:
        self._is_entered = self._is_due = False
        self._blocks_at_start = 0
        self._frozen = 0
        """An upper bound of the number of objects that were frozen since the start."""
        self._most_frozen = _MOST_FROZEN

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thresholds = gc.get_threshold()
        gc.collect()
        gc.freeze()
        self._blocks_at_start = sys.getallocatedblocks()
        self._is_entered = True
        gc.set_threshold(*_THRESHOLDS)
        gc.callbacks.append(self._on_collection)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_entered = False
        gc.callbacks.remove(self._on_collection)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def _on_collection(self, phase: str, info: dict[str, Any]) -> None:
        """React to a collection. The collector calls this in the thread that allocated memory."""
        if phase == "stop" and info["generation"] == _OLD and not self._is_due and _num_old() > _MANY:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._is_due = False
        if not self._is_entered:
            return
        if self._frozen > self._most_frozen:
            # Many may have been freed since then. The collector would go through all that are left to count them.
            self._frozen = sys.getallocatedblocks() - self._blocks_at_start
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
