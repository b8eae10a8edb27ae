"""The prediction cache: bounded in bytes, what was not used for long goes first, an input is compared itself.

Inputs are kept with their outputs, so two inputs can never be taken for one another (0.4 compared a 64-bit hash). Who
goes first is decided by the clock algorithm, as in 0.4: the oldest, unless it was used since its turn was last. What
was answered together came together and goes together, so most of the work is done once for each batch.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Any, Final, Generic, NamedTuple, TypeVar

Coming = TypeVar("Coming")

_ENTRY_OVERHEAD_BYTES: Final = 190
"""About what Python needs for an entry besides the bytes of input and output (measured on 64-bit CPython 3.11)."""
_BATCH_OVERHEAD_BYTES: Final = 170
"""The same for a batch."""
_PARTS: Final = 64
"""No batch is a larger part of the cache, unless it is a single entry."""


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


class _Batch(NamedTuple, Generic[Coming]):
    """Inputs whose outputs came together."""

    shelf: Shelf[Coming]
    payloads: Sequence[bytes]
    size: int
    """With the outputs, in bytes."""


class PredictionCache(Generic[Coming]):
    """Bounds what is on all shelves. Of size 0 it keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.enabled = max_bytes > 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._batches: deque[_Batch[Coming]] = deque()
        """Oldest first."""

    @property
    def size_bytes(self) -> int:
        """Of the outputs and their inputs. What is on its way is bounded by the queues of the models."""
        return self._bytes

    def put(self, shelf: Shelf[Coming], payloads: Sequence[bytes], outputs: Sequence[bytes]) -> None:
        """Keep `outputs`, each as that of the input in the same place, instead of what is there."""
        size = _size(payloads, outputs)
        if len(payloads) > 1 and size * _PARTS > self._max_bytes:
            half = len(payloads) // 2
            self.put(shelf, payloads[:half], outputs[:half])
            self.put(shelf, payloads[half:], outputs[half:])
        elif size > self._max_bytes:
            _forget(shelf, payloads)
        elif payloads:
            shelf.entries.update(zip(payloads, outputs, strict=True))
            self._append(_Batch(shelf, payloads, size))
            while self._bytes > self._max_bytes:
                self._judge_oldest()

    def _append(self, batch: _Batch[Coming]) -> None:
        self._batches.append(batch)
        self._bytes += batch.size

    def _judge_oldest(self) -> None:
        """Forget the oldest batch, except what of it was used."""
        shelf, payloads, size = self._batches.popleft()
        self._bytes -= size
        if shelf.used and (used := shelf.used.intersection(payloads)):
            shelf.used -= used
            payloads = [payload for payload in payloads if payload not in used]
            kept = {payload: output for payload in used if isinstance(output := shelf.entries.get(payload), bytes)}
            self._append(_Batch(shelf, list(kept), _size(kept, kept.values())))
        _forget(shelf, payloads)

    def forget(self, shelf: Shelf[Coming]) -> None:
        """Drop everything of a model version that is no more."""
        self._batches = deque(batch for batch in self._batches if batch.shelf is not shelf)
        self._bytes = sum(batch.size for batch in self._batches)
        shelf.entries.clear()
        shelf.used.clear()


def _size(payloads: Collection[bytes], outputs: Collection[bytes]) -> int:
    entries = sum(map(len, payloads)) + sum(map(len, outputs)) + len(payloads) * _ENTRY_OVERHEAD_BYTES
    return entries + _BATCH_OVERHEAD_BYTES


def _forget(shelf: Shelf[Any], payloads: Iterable[bytes]) -> None:
    deque(map(shelf.entries.pop, payloads, repeat(None)), maxlen=0)
