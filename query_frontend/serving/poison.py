"""Inputs of one model version that end its replicas: known by replicas that ended while they had nothing else."""

from collections import OrderedDict
from typing import Final

from query_frontend.serving.cache import Key

ENDS_TO_BLAME: Final = 2
"""Replicas that ended with an input alone before it is blamed for it. One may have ended for another reason."""
BLAME_SECONDS: Final = 60
"""The default of an option of the command line."""
_MOST_INPUTS: Final = 1024
_MOST_BYTES: Final = 16 << 20


class Blame:
    """Counts by input; bounded, and forgotten after a while."""

    def __init__(self, seconds: float = BLAME_SECONDS) -> None:
        self._seconds = seconds
        self._ends: OrderedDict[Key, tuple[int, float]] = OrderedDict()
        """The number of replicas that ended with an input alone, and the time of the last; oldest first."""
        self._bytes = 0
        self.is_empty = True
        """Whether no input is recorded, which is usual. Then a query needs no further check."""

    def num_blamed(self, now: float) -> int:
        """Return the number of inputs that are not sent to replicas."""
        self._forget_old(now)
        return sum(ends >= ENDS_TO_BLAME for ends, _ in self._ends.values())

    def note(self, key: Key, now: float) -> bool:
        """Note that a replica ended with this input alone. Return whether the input is blamed from now on."""
        self._forget_old(now)
        ends, _ = self._ends.pop(key, (0, 0.0))
        self._bytes += 0 if ends else len(key)
        self._ends[key] = ends + 1, now
        self.is_empty = False
        while len(self._ends) > _MOST_INPUTS or self._bytes > _MOST_BYTES:
            self._forget_first()
        return ends + 1 >= ENDS_TO_BLAME

    def is_blamed(self, key: Key, now: float) -> bool:
        """Whether no replica is to be given this input."""
        ends, since = self._ends.get(key, (0, 0.0))
        return ends >= ENDS_TO_BLAME and now - since < self._seconds

    def _forget_old(self, now: float) -> None:
        while self._ends and now - next(iter(self._ends.values()))[1] >= self._seconds:
            self._forget_first()

    def _forget_first(self) -> None:
        key, _ = self._ends.popitem(last=False)
        self._bytes -= len(key)
        self.is_empty = not self._ends
