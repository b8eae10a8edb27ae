"""Deadlines of everything that is under way, behind one timer of the event loop.

A timer of its own for each query would cost more than its queue and its batch do, and nearly all of them would be
cancelled. Here those whose deadlines fall into the same millisecond share a slot, and the loop is only asked to wake
us for the earliest slot.
"""

import logging
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final, Protocol

from clipper_common.long_work import TURN_SECONDS

logger = logging.getLogger(__name__)

_SLOTS_PER_SECOND: Final = 1000
_STALL_SECONDS: Final = 0.005
"""A timer that is so late was held up together with all else that the loop does."""
_READING_SECONDS: Final = 0.001
"""Seconds after which the loop has read its sockets before a timer."""
_FEW: Final = 64
_AT_ONCE: Final = 32
"""The number of deadlines that are handled between two looks at the clock."""


class Expiring(Protocol):
    """An object that has a deadline."""

    def expire(self) -> None:
        """The deadline is over."""


Slot = dict[Expiring, None]


class DeadlineWheel:
    """Calls `expire` of each item that is not removed by its deadline: never early, and about a millisecond late."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, Slot] = {}
        self._order: list[int] = []
        """Heap of their numbers."""
        self._many = _FEW
        """The number of slots at which empty ones are looked for."""
        self._last_number = -1
        self._last_slot: Slot = {}
        self._timer: TimerHandle | None = None
        self._timer_number = 0
        self._has_read = False
        """Whether the loop has read its sockets since it was held up."""
        self._due: deque[Slot] = deque()
        """The slots whose time has come, as long as not everything in them has expired."""

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
        self._arm_at(self._order[0])

    def _arm_at(self, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_number = number
        delay = self._timer_number / _SLOTS_PER_SECOND - time.monotonic()
        self._timer = self._loop.call_later(max(delay, 0.0), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = time.monotonic()
        if self._is_held_up(now):
            self._has_read = True
            self._timer = self._loop.call_later(_READING_SECONDS, self._turn)
            return
        self._has_read = False
        while self._order and self._order[0] <= now * _SLOTS_PER_SECOND:
            self._due.append(self._slots.pop(heappop(self._order)))
        self._last_number = -1  # it may be one of these: what is added meanwhile needs another
        while self._due:
            self._expire_some(self._due[0])
            if not self._due[0]:
                self._due.popleft()
            if time.monotonic() - now > TURN_SECONDS:  # others have their turn
                break
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heappop(self._order)]
        self._last_number = -1  # it may be one of these
        if self._due:
            self._arm_at(0)
        elif self._order and self._timer is None:
            self._arm()

    def _is_held_up(self, now: float) -> bool:
        """Whether answers may have arrived that the loop had no time to read: nothing is to expire before these."""
        late = now - self._timer_number / _SLOTS_PER_SECOND
        return late > _STALL_SECONDS and not self._due and not self._has_read

    @staticmethod
    def _expire_some(slot: Slot) -> None:
        for item in list(islice(slot, _AT_ONCE)):
            if item in slot:  # what expired before it may have taken it out
                del slot[item]
                try:
                    item.expire()
                except Exception:  # the others are not to wait for ever because of it
                    logger.exception("a deadline could not be handled")
