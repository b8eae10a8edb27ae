"""Learns which inputs are likely to make a model raise, from those on which it raised and those that were answered."""

import math
from collections.abc import Hashable, Sequence
from typing import Final

from clipper_common.constants import MAX_BATCH_SIZE
from clipper_common.datatypes import InputType, View

from .traits import Trait, traits_of

_SUSPECTED: Final = 3
"""After this many failures of inputs with the same value of a trait, the next ones are likely to fail."""
_MOST_VALUES: Final = 1000
_MEMORY: Final = 0.99
"""In the share of inputs that fail, each input has a weight 1 % smaller than the next."""
_NEGLIGIBLE_SHARE: Final = 0.001
_EXAMINED: Final = 4
"""At most this many inputs are examined of those that were answered together."""
_REMEMBERED_CALLS: Final = 10_000
"""After this many calls without a failure, all failures are forgotten."""


class RaisingValues:
    """The values that a trait had in inputs on which the model raised, and in none that was answered since."""

    def __init__(self, trait: Trait) -> None:
        self._trait = trait
        self._failures: dict[Hashable, int] = {}
        """How many inputs with each value failed."""
        self.num_suspects = 0
        """The number of values whose inputs are suspected."""

    def note_failure(self, item: View) -> None:
        value = self._trait(item)
        if value is None:
            return
        if len(self._failures) >= _MOST_VALUES:
            self._failures.clear()
            self.num_suspects = 0
        self._failures[value] = self._failures.get(value, 0) + 1
        self.num_suspects += self._failures[value] == _SUSPECTED

    def note_output(self, item: View) -> None:
        if self._failures and self._failures.pop(self._trait(item), 0) >= _SUSPECTED:
            self.num_suspects -= 1

    def failures_like(self, item: View) -> int:
        """Return how many inputs with the value of this one failed; 0 if they are too few for a suspicion."""
        failures = self._failures.get(self._trait(item), 0) if self.num_suspects else 0
        return failures if failures >= _SUSPECTED else 0


class Suspicion:
    """Suspects inputs that have the value of a trait in common with inputs that failed.

    Of all other inputs, the share that fails is known.
    """

    def __init__(self, kind: InputType) -> None:
        self._traits = traits_of(kind)
        self._values: list[RaisingValues] = []
        """There are none while no failure is remembered."""
        self._share = 0.0
        self._calls_since_failure = 0
        self.num_suspects = 0
        """The number of values of all traits whose inputs are suspected."""

    @property
    def has_suspects(self) -> bool:
        return self.num_suspects > 0

    def may_work(self, num_inputs: int) -> bool:
        """Whether it is likely enough that the model raises on none of so many inputs to try them together."""
        return not self.has_suspects and num_inputs <= self.group_size()

    def group_size(self) -> int:
        """Return how many inputs that are not suspected to try together: the model raises on half of such groups.

        The outcome says most then (Sobel and Groll, Bell System Technical Journal 38, 1959).
        """
        return max(1, int(math.log(0.5) / math.log1p(-self._share))) if self._share else MAX_BATCH_SIZE

    def failures_like(self, item: View) -> int:
        """Return how many inputs like this one failed since one was answered; 0 if it is not suspected."""
        return max((values.failures_like(item) for values in self._values), default=0)

    def note_failure(self, item: View) -> None:
        """Note that the model raised on an input alone."""
        if not self.failures_like(item):
            self._share += (1 - self._share) * (1 - _MEMORY)
        self._calls_since_failure = 0
        self._values = self._values or list(map(RaisingValues, self._traits))
        for values in self._values:
            values.note_failure(item)
        self._review()

    def note_outputs(self, inputs: Sequence[View]) -> None:
        """Note that inputs were answered together."""
        if not self._values or not inputs:
            return
        share = self._share * _MEMORY ** len(inputs)
        self._share = share if share > _NEGLIGIBLE_SHARE else 0.0
        self._calls_since_failure += 1
        if self._calls_since_failure > _REMEMBERED_CALLS:
            self._values = []
        for item in list(inputs)[:: -(-len(inputs) // _EXAMINED)]:
            for values in self._values:
                values.note_output(item)
        self._review()

    def _review(self) -> None:
        self.num_suspects = sum(values.num_suspects for values in self._values)
