"""A queue in which applications take turns, however many requests of one of them wait."""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Line(Generic[Item]):
    """The items of one application that wait."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        """The items by their numbers in the queue."""
        self._order: list[tuple[float, int]] = []
        """A heap of the ranks and numbers, also of items that have left."""

    def put(self, number: int, item: Item, rank: float) -> None:
        self.items[number] = item
        heapq.heappush(self._order, (rank, number))

    def first(self) -> int:
        """Return the number of the first item. There must be one."""
        while self._order[0][1] not in self.items:
            heapq.heappop(self._order)
        return self._order[0][1]


class FairQueue(Generic[Item]):
    """Items that wait, by application. Those of one application are taken by rank, the lowest first."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, _Line[Item]] = OrderedDict()
        """The lines of the applications, the next application first. None is empty."""
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def put(self, app_name: str, item: Item, rank: float = 0.0) -> int:
        """Add an item. Return its number, by which `discard` knows it."""
        number = next(self._numbers)
        self._lines.setdefault(app_name, _Line()).put(number, item, rank)
        return number

    def take_first(self, may_go: Callable[[Item], bool]) -> Item | None:
        """Remove and return the first item of the first application whose first item may go; None if there is none."""
        for app_name, line in self._lines.items():
            number = line.first()
            item = line.items[number]
            if may_go(item):
                self._lines.move_to_end(app_name)
                self.discard(app_name, number)
                return item
        return None

    def discard(self, app_name: str, number: int) -> None:
        """Remove an item if it still waits."""
        line = self._lines.get(app_name)
        if line is not None:
            line.items.pop(number, None)
            if not line.items:
                del self._lines[app_name]
