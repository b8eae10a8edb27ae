"""The prediction cache: bounded in bytes, evicts what was not used for long, and compares whole inputs.

Inputs are kept with their outputs, so two inputs can never be taken for one another (0.4 compared a 64-bit hash). The
clock algorithm decides which entry is evicted, as in 0.4: the oldest, unless it was used since its turn was last.
Entries of one batch are added and evicted together, so most of the work is done once for each batch.
"""

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

from clipper_common import long_work
from clipper_common.long_work import finish_at_once

_ENTRY_OVERHEAD_BYTES: Final = 190
"""The approximate bytes that Python needs for an entry besides those of input and output (measured on 64-bit CPython
3.11)."""
_BATCH_OVERHEAD_BYTES: Final = 170
"""The approximate bytes that Python needs for a batch."""
_PARTS: Final = 64
"""The largest part of the cache that a batch may be is one in this many, unless it is a single entry."""
_SPARED_ENTRIES: Final = 1024
"""The entries of which those that were used are spared when room is made; more would take long."""
_DROPPED_ENTRIES: Final = 1024
"""The entries of a removed model version that are dropped in one step."""
_HASH_STEP_BYTES: Final = 1 << 18
"""The hash of a larger input is made in steps of this size."""


class LargeKey:
    """A large input as a key of a dictionary. Python would compute the hash of `bytes` at once, in 15 ms for 30 MiB."""

    __slots__ = ("_hash", "payload")

    def __init__(self, payload: bytes, hashes: Iterable[int]) -> None:
        self.payload = payload
        self._hash = hash(tuple(hashes))

    def __len__(self) -> int:
        return len(self.payload)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return type(other) is LargeKey and self._hash == other._hash and self.payload == other.payload


Key = bytes | LargeKey
"""The key of an input in the cache."""


def keys_of(payloads: Iterable[bytes]) -> Generator[None, None, list[Key]]:
    """Yield after each step; return the keys of inputs, of which the hashes are known then."""
    keys: list[Key] = []
    hashed = 0
    for payload in payloads:
        if len(payload) > _HASH_STEP_BYTES:
            keys.append((yield from _large_key(payload)))
            continue
        hash(payload)  # which the object keeps
        keys.append(payload)
        hashed += len(payload)
        if hashed > _HASH_STEP_BYTES:
            hashed = 0
            yield
    return keys


def key_of(payload: bytes) -> Key:
    """Return the key of an input at once."""
    return payload if len(payload) <= _HASH_STEP_BYTES else finish_at_once(keys_of([payload]))[0]


def _large_key(payload: bytes) -> Generator[None, None, LargeKey]:
    hashes: list[int] = []
    for at in range(0, len(payload), _HASH_STEP_BYTES):
        hashes.append(hash(payload[at : at + _HASH_STEP_BYTES]))  # of a memoryview it would be made of the whole, too
        yield
    return LargeKey(payload, hashes)


class CachePartition:
    """The outputs of one model version by their inputs. The entry of an output in flight is the task that will get
    it."""

    __slots__ = ("entries", "used")

    def __init__(self) -> None:
        self.entries: dict[Key, bytes | Any] = {}
        self.used: set[Key] = set()
        """The inputs whose output was asked for since the clock algorithm last looked at them."""

    def remove_in_flight(self, key: Key, coming: object) -> None:
        """Remove the entry of an output in flight if it is that of the task `coming`, which gets none."""
        if self.entries and self.entries.get(key) is coming:
            del self.entries[key]


class _Batch(NamedTuple):
    """Inputs whose outputs came together."""

    partition: CachePartition
    keys: Sequence[Key]
    size: int
    """The bytes of the inputs and outputs, with the overhead."""


class PredictionCache:
    """Bounds the bytes of all partitions. With a size of 0 nothing is kept."""

    def __init__(self, max_bytes: int) -> None:
        self.enabled = max_bytes > 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._batches: deque[_Batch] = deque()
        """Oldest first."""

    @property
    def size_bytes(self) -> int:
        """The bytes of the outputs and their inputs. Entries in flight are bounded by the queues of the models."""
        return self._bytes

    def put(self, partition: CachePartition, keys: Sequence[Key], outputs: Sequence[bytes]) -> None:
        """Keep `outputs`, each as that of the input in the same place, instead of what is there."""
        size = _size(keys, outputs)
        if len(keys) > 1 and size * _PARTS > self._max_bytes:
            half = len(keys) // 2
            self.put(partition, keys[:half], outputs[:half])
            self.put(partition, keys[half:], outputs[half:])
        elif size > self._max_bytes:
            _forget(partition, keys)
        elif keys:
            partition.entries.update(zip(keys, outputs, strict=True))
            self._append(_Batch(partition, keys, size))
            left = _SPARED_ENTRIES
            while self._bytes > self._max_bytes:
                left -= len(self._batches[0].keys)
                self._judge_oldest(left >= 0)

    def _append(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._bytes += batch.size

    def _judge_oldest(self, spares: bool) -> None:
        """Forget the oldest batch, except what of it was used if `spares`."""
        partition, keys, size = self._batches.popleft()
        self._bytes -= size
        if spares and partition.used and (used := partition.used.intersection(keys)):
            partition.used -= used
            keys = [key for key in keys if key not in used]
            kept = {key: output for key in used if isinstance(output := partition.entries.get(key), bytes)}
            self._append(_Batch(partition, list(kept), _size(kept, kept.values())))
        _forget(partition, keys)

    def forget(self, partition: CachePartition) -> None:
        """Forget all outputs of a model version, and free them in steps.

        Its batches, which have the inputs, are counted until they are the oldest: to find them would take long.
        """
        long_work.start_now(_drop(partition.entries, partition.used))
        partition.entries, partition.used = {}, set()


def _size(keys: Collection[Key], outputs: Collection[bytes]) -> int:
    entries = sum(map(len, keys)) + sum(map(len, outputs)) + len(keys) * _ENTRY_OVERHEAD_BYTES
    return entries + _BATCH_OVERHEAD_BYTES


def _drop(entries: dict[Key, Any], used: set[Key]) -> Iterator[None]:
    while True:
        for _ in range(min(_DROPPED_ENTRIES, len(entries))):
            used.discard(entries.popitem()[0])
        if not entries:
            return
        yield


def _forget(partition: CachePartition, keys: Iterable[Key]) -> None:
    deque(map(partition.entries.pop, keys, repeat(None)), maxlen=0)
