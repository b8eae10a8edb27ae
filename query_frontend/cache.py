"""The prediction cache: bounded in bytes, least recently used goes first, an input is compared itself.

Inputs are kept with their outputs, so two inputs can never be taken for one another (0.4 compared a 64-bit hash).
"""

from collections import OrderedDict
from typing import Final

_ENTRY_OVERHEAD_BYTES: Final = 250
"""About what Python needs for an entry besides the bytes of input and output (measured on 64-bit CPython 3.11)."""


class PredictionCache:
    """Outputs by owner (an id that a model version is given once) and input. Of size 0 it holds nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.enabled = max_bytes > 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, owner: int, payload: bytes) -> bytes | None:
        key = (owner, payload)
        output = self._entries.get(key)
        if output is not None:
            self._entries.move_to_end(key)
        return output

    def put(self, owner: int, payload: bytes, output: bytes) -> None:
        size = len(payload) + len(output) + _ENTRY_OVERHEAD_BYTES
        if size > self._max_bytes:
            return
        key = (owner, payload)
        if key in self._entries:
            self._remove(key)
        self._entries[key] = output
        self._bytes += size
        while self._bytes > self._max_bytes:
            (_, payload), output = self._entries.popitem(last=False)
            self._bytes -= len(payload) + len(output) + _ENTRY_OVERHEAD_BYTES

    def forget(self, owner: int) -> None:
        """Drop everything of a model version that is no more."""
        for key in [key for key in self._entries if key[0] == owner]:
            self._remove(key)

    def _remove(self, key: tuple[int, bytes]) -> None:
        output = self._entries.pop(key, None)
        if output is not None:
            self._bytes -= len(key[1]) + len(output) + _ENTRY_OVERHEAD_BYTES
