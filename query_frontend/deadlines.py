"""Deadlines of everything that is under way, behind one timer of the event loop.

A timer of its own for each query would cost more than its queue and its batch do, and nearly all of them would be
cancelled. Here those whose deadlines fall into the same millisecond share a slot, and the loop is only asked to wake
us for the earliest slot.
"""

import time
from asyncio import AbstractEventLoop, TimerHandle
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

_SLOTS_PER_SECOND: Final = 1000


class Expiring(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """The deadline is over."""


class DeadlineWheel:
    """Calls `expire` of what is not taken out by its deadline: never early, and about a millisecond late."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Expiring, None]] = {}
        """None of them empty."""
        self._order: list[int] = []
        """Heap of the numbers of all slots, and of some that are gone."""
        self._timer: TimerHandle | None = None
        self._timer_slot = 0

    def add(self, item: Expiring, deadline: float) -> int:
        """`deadline` is by the monotonic clock. Answers the slot, with which `item` can be removed."""
        number = int(deadline * _SLOTS_PER_SECOND) + 1
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = {item: None}
            self._open(number)
        else:
            slot[item] = None
        return number

    def remove(self, item: Expiring, number: int) -> None:
        """Forget `item`. Nothing happens if it has expired."""
        slot = self._slots.get(number)
        if slot is not None:
            slot.pop(item, None)
            if not slot:
                del self._slots[number]

    def _open(self, number: int) -> None:
        heappush(self._order, number)
        if len(self._order) > 64 and len(self._order) > 2 * len(self._slots):
            self._order = list(self._slots)
            heapify(self._order)
        if self._timer is None or number < self._timer_slot:
            self._arm()

    def _arm(self) -> None:
        """Wake up for the earliest slot. When it is gone by then, the next is looked for."""
        while self._order and self._order[0] not in self._slots:
            heappop(self._order)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._timer_slot = self._order[0]
            delay = self._timer_slot / _SLOTS_PER_SECOND - time.monotonic()
            self._timer = self._loop.call_later(max(delay, 0.0), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = time.monotonic() * _SLOTS_PER_SECOND
        while self._order and self._order[0] <= now:
            for item in self._slots.pop(heappop(self._order), ()):
                item.expire()
        self._arm()
