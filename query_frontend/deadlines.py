"""Deadlines of everything that is under way, behind one timer of the event loop.

A timer of its own for each query would cost more than its queue and its batch do, and nearly all of them would be
cancelled. Here those whose deadlines fall into the same millisecond share a slot, and the loop is only asked to wake
us for the earliest slot.
"""

import logging
import time
from asyncio import AbstractEventLoop, TimerHandle
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

logger = logging.getLogger(__name__)

_SLOTS_PER_SECOND: Final = 1000
_FEW: Final = 64


class Expiring(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """The deadline is over."""


Slot = dict[Expiring, None]


class DeadlineWheel:
    """Calls `expire` of what is not taken out by its deadline: never early, and about a millisecond late."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, Slot] = {}
        self._order: list[int] = []
        """Heap of their numbers."""
        self._many = _FEW
        """With so many slots it is time to look for empty ones."""
        self._last_number = -1
        self._last_slot: Slot = {}
        self._timer: TimerHandle | None = None
        self._timer_number = 0

    def add(self, item: Expiring, deadline: float) -> Slot:
        """`deadline` is by the monotonic clock. To take `item` out again, delete it from the slot."""
        number = int(deadline * _SLOTS_PER_SECOND) + 1
        if number != self._last_number:
            self._last_number = number
            self._last_slot = self._find(number)
        slot = self._last_slot
        slot[item] = None
        return slot

    def _find(self, number: int) -> Slot:
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heappush(self._order, number)
            if len(self._order) >= self._many:
                self._forget_empty(number)
            if self._timer is None or number < self._timer_number:
                self._arm()
        return slot

    def _forget_empty(self, newest: int) -> None:
        self._slots = {number: slot for number, slot in self._slots.items() if slot or number == newest}
        self._order = list(self._slots)
        heapify(self._order)
        self._many = max(_FEW, 2 * len(self._order))

    def _arm(self) -> None:
        """Wake up for the earliest slot. It may be empty by then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_number = self._order[0]
        delay = self._timer_number / _SLOTS_PER_SECOND - time.monotonic()
        self._timer = self._loop.call_later(max(delay, 0.0), self._turn)

    def _turn(self) -> None:
        self._timer = None
        self._last_number = -1
        now = time.monotonic() * _SLOTS_PER_SECOND
        while self._order and self._order[0] <= now:
            slot = self._slots.pop(heappop(self._order))
            self._last_number = -1  # it may be this one: what is added meanwhile needs another
            for item in list(slot):
                if item in slot:  # what expired before it may have taken it out
                    del slot[item]
                    try:
                        item.expire()
                    except Exception:  # the others are not to wait for ever because of it
                        logger.exception("a deadline could not be handled")
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heappop(self._order)]
        self._last_number = -1  # it may be one of these
        if self._order and self._timer is None:
            self._arm()
