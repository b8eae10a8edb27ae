"""The prediction cache: bounded in bytes, what was not used for long goes first, an input is compared itself.

Inputs are kept with their outputs, so two inputs can never be taken for one another (0.4 compared a 64-bit hash). Who
goes first is decided by the clock algorithm, as in 0.4: the oldest, unless it was used since its turn was last.
"""

from collections import deque
from typing import Final, Generic, TypeVar

Coming = TypeVar("Coming")

_ENTRY_OVERHEAD_BYTES: Final = 170
"""About what Python needs for an entry besides the bytes of input and output (measured on 64-bit CPython 3.11)."""


class Shelf(Generic[Coming]):
    """The outputs of one model version by their inputs. In the place of one that is on its way stands what gets it."""

    __slots__ = ("entries", "used")

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes | Coming] = {}
        self.used: set[bytes] = set()
        """Inputs whose output was asked for since they were last looked at."""

    def give_up(self, payload: bytes, coming: Coming) -> None:
        """No output is on its way, as far as `coming` is concerned."""
        if self.entries.get(payload) is coming:
            del self.entries[payload]


class PredictionCache(Generic[Coming]):
    """Bounds what is on all shelves. Of size 0 it keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.enabled = max_bytes > 0
        self._max_bytes = max_bytes
        self._bytes = 0
        # Of each output, oldest first. Two queues need no tuple for each.
        self._shelves: deque[Shelf[Coming]] = deque()
        self._payloads: deque[bytes] = deque()

    @property
    def size_bytes(self) -> int:
        """Of the outputs and their inputs. What is on its way is bounded by the queues of the models."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._payloads)

    def put(self, shelf: Shelf[Coming], payload: bytes, output: bytes) -> None:
        """Keep `output`, unless there is one."""
        if isinstance(shelf.entries.get(payload), bytes):
            return
        size = len(payload) + len(output) + _ENTRY_OVERHEAD_BYTES
        if size > self._max_bytes:
            shelf.entries.pop(payload, None)
            return
        shelf.entries[payload] = output
        self._shelves.append(shelf)
        self._payloads.append(payload)
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        """A little more than is needed, so that it is not needed each time."""
        shelves, payloads = self._shelves, self._payloads
        surplus = self._bytes - self._max_bytes + (self._max_bytes >> 10)
        while surplus > 0:
            shelf, payload = shelves.popleft(), payloads.popleft()
            if payload in shelf.used:
                shelf.used.remove(payload)
                shelves.append(shelf)
                payloads.append(payload)
            else:
                output = shelf.entries.pop(payload)
                assert isinstance(output, bytes)
                size = len(payload) + len(output) + _ENTRY_OVERHEAD_BYTES
                surplus -= size
                self._bytes -= size

    def forget(self, shelf: Shelf[Coming]) -> None:
        """Drop everything of a model version that is no more."""
        others = [pair for pair in zip(self._shelves, self._payloads, strict=True) if pair[0] is not shelf]
        self._shelves = deque(other for other, _ in others)
        self._payloads = deque(payload for _, payload in others)
        for payload, output in shelf.entries.items():
            if isinstance(output, bytes):
                self._bytes -= len(payload) + len(output) + _ENTRY_OVERHEAD_BYTES
        shelf.entries.clear()
        shelf.used.clear()
