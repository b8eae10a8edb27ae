"""Finds the inputs on which a model raises, so that the others of their batch are answered.

A batch on which the model raised is tried again in halves, until each input has an output or has failed alone. An input
of a length of which many have failed, and none was answered since, is kept apart from the others of its batch. Such
inputs fail together, since the replica's time would not be enough to try each alone, if one of them fails alone.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

from clipper_common.datatypes import View

Outcome = bytes | BaseException
"""An output or an error."""
Attempt = Callable[[Sequence[View]], Sequence[Outcome]]
"""Returns the outcomes of inputs, or raises what the model raises."""

_SUSPECTED: Final = 8
"""After this many failures of inputs of the same length, the next ones are likely to fail."""
_MOST_LENGTHS: Final = 1000
_ALL_OTHERS: Final = -1


class RaisingLengths:
    """The lengths of inputs on which a model raised, alone, and none of which was answered since.

    If the last input that was answered had the same length, the length says nothing of an input, and is not suspected.
    """

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}
        """The number of inputs of each length that failed."""
        self._answered: int | None = None
        """The length of an input that was answered last."""
        self.has_suspects = False
        """Whether so many inputs of one length have failed that the next ones of it are likely to."""

    def note_failure(self, length: int) -> None:
        """Note that the model raised on an input alone."""
        if len(self._failures) >= _MOST_LENGTHS:
            self._failures.clear()
        self._failures[length] = self._failures.get(length, 0) + 1
        self._review()

    def note_outputs(self, inputs: Sequence[View]) -> None:
        """Note that inputs were answered."""
        self._answered = len(inputs[-1])
        if self._failures:
            for length in set(map(len, inputs)):
                self._failures.pop(length, None)
            self._review()

    def _review(self) -> None:
        self.has_suspects = any(map(self.is_suspected, self._failures))

    def is_suspected(self, length: int) -> bool:
        return self._failures.get(length, 0) >= _SUSPECTED and self._answered != length

    def separate(self, inputs: Sequence[View]) -> list[list[int]]:
        """Return the numbers of the inputs in groups: first those that are not suspected, then those of each length."""
        groups: dict[int, list[int]] = {_ALL_OTHERS: []}
        for number, item in enumerate(inputs):
            group = len(item) if self.is_suspected(len(item)) else _ALL_OTHERS
            groups.setdefault(group, []).append(number)
        return [group for group in groups.values() if group]


class Isolation:
    """The outcomes of a batch of inputs, some of which may make the model raise."""

    def __init__(self, attempt: Attempt, inputs: Sequence[View], raising: RaisingLengths) -> None:
        self._attempt = attempt
        self._inputs = inputs
        self._raising = raising
        self._outcomes: list[Outcome] = [b""] * len(inputs)

    def run(self, may_work: bool) -> list[Outcome]:
        """Return the outcome of each input. Unless all together `may_work`, the model raised on them."""
        groups = self._raising.separate(self._inputs)
        for group in groups:
            self._try(group, may_work or len(groups) > 1)
        return self._outcomes

    def _try(self, numbers: list[int], may_work: bool) -> bool:
        """Try inputs together, if that may work, and if the model raises, in halves. Return whether it raised."""
        if may_work or len(numbers) == 1:
            error = self._attempt_once(numbers)
            if error is None:
                return False
            if self._settle(numbers, error):
                return True
        half = len(numbers) // 2
        has_raised = self._try(numbers[:half], True)
        self._try(numbers[half:], has_raised)
        return True

    def _attempt_once(self, numbers: list[int]) -> BaseException | None:
        inputs = [self._inputs[number] for number in numbers]
        try:
            outcomes = self._attempt(inputs)
        except BaseException as error:  # see `Predictor`
            return error
        for number, outcome in zip(numbers, outcomes, strict=True):
            self._outcomes[number] = outcome
        self._raising.note_outputs(inputs)
        return None

    def _settle(self, numbers: list[int], error: BaseException) -> bool:
        """Let inputs fail on which the model raised: one, or several of suspected lengths of which one fails alone."""
        lengths = [len(self._inputs[number]) for number in numbers]
        if len(numbers) == 1:
            self._raising.note_failure(lengths[0])
        elif not all(map(self._raising.is_suspected, lengths)) or not self._attempt_once([random.choice(numbers)]):
            return False
        for number in numbers:
            self._outcomes[number] = error
        return True
