"""Finds the inputs on which a model raises, so that the others of their batch are answered.

An input fails with what the model raised on this input alone. Which inputs are tried together, and which apart from the
others, is learned from earlier failures (`suspicion`).
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

from clipper_common.datatypes import View

from .suspicion import Suspicion

Outcome = bytes | BaseException
"""An output or an error."""
Attempt = Callable[[Sequence[View]], Sequence[Outcome]]
"""Returns the outcomes of inputs, or raises what the model raises."""

_ALWAYS_TRIED: Final = 2
"""At least this many suspected inputs of a batch are tried; all of them, if few like them have failed."""
_CERTAINTY: Final = 50
"""After this many failures, the next inputs like them may be left untried."""
_UNTRIED_SHARE: Final = 0.1
"""The most untried inputs of a batch, for each failure: after `n` in a row, the next works in one of `n + 2` cases.

(By Laplace's rule of succession.)
"""


class UntriedInput(Exception):
    """The model was not called with a suspected input, since many like it were tried and failed."""

    def __init__(self, failures: int, last: BaseException | None) -> None:
        super().__init__(f"it raised on the last {failures} inputs like this one, and was not called with this one")
        self.__cause__ = last  # for the log


class Isolation:
    """The outcomes of a batch of inputs, some of which may make the model raise."""

    def __init__(self, attempt: Attempt, inputs: Sequence[View], suspicion: Suspicion) -> None:
        self._attempt = attempt
        self._inputs = list(inputs)
        self._suspicion = suspicion
        self._outcomes: dict[int, Outcome] = {}

    def run(self, error: BaseException | None) -> list[Outcome]:
        """Return the outcome of each input. `error` is what the model raised on all together, if it was called."""
        numbers = list(range(len(self._inputs)))
        if error is not None:
            numbers = self._find_raising(numbers, error)
        while numbers:
            numbers = self._try_alone(self._try_in_groups(numbers))
        return [self._outcomes[number] for number in range(len(self._inputs))]

    def _try_in_groups(self, numbers: list[int]) -> list[int]:
        """Get the outcomes of inputs that are not suspected. Return the others."""
        num_suspects = self._suspicion.num_suspects
        suspects, numbers = self._separate(numbers)
        while numbers:
            size = self._suspicion.group_size()
            group, numbers = numbers[:size], numbers[size:]
            error = self._error_of(group)
            if error is None:
                continue
            numbers = self._find_raising(group, error) + numbers
            if self._suspicion.num_suspects > num_suspects:  # otherwise none of them has become a suspect
                num_suspects = self._suspicion.num_suspects
                others, numbers = self._separate(numbers)
                suspects += others
        return suspects

    def _find_raising(self, numbers: list[int], error: BaseException | None) -> list[int]:
        """Find an input on which the model raises among those on which it raised `error`, by halves.

        Return the inputs of which nothing is known then.
        """
        unknown: list[int] = []
        while len(numbers) > 1:
            half = len(numbers) // 2
            error = self._error_of(numbers[:half])
            if error is not None:
                unknown = numbers[half:] + unknown
                numbers = numbers[:half]
            else:
                numbers = numbers[half:]
        if error is None:  # the other half worked; this one was not tried by itself
            error = self._error_of(numbers)
        if error is not None:
            self._fail(numbers[0], error)
        return unknown

    def _try_alone(self, suspects: list[int]) -> list[int]:
        """Get the outcomes of suspected inputs. Return those that are not suspected any more."""
        random.shuffle(suspects)
        cleared: list[int] = []
        last: BaseException | None = None
        for position, number in enumerate(suspects):
            num_left = len(suspects) - position
            failures = self._suspicion.failures_like(self._inputs[number])
            if not failures:
                cleared.append(number)
            elif position >= _ALWAYS_TRIED and failures >= _CERTAINTY and num_left <= failures * _UNTRIED_SHARE:
                self._outcomes[number] = UntriedInput(failures, last)
            elif (error := self._error_of([number])) is not None:
                self._fail(number, error)
                last = error
        return cleared

    def _separate(self, numbers: list[int]) -> tuple[list[int], list[int]]:
        """Return the inputs that are suspected, and the others."""
        if not self._suspicion.has_suspects:
            return [], numbers
        suspects = [number for number in numbers if self._suspicion.failures_like(self._inputs[number])]
        suspected = set(suspects)
        return suspects, [number for number in numbers if number not in suspected]

    def _error_of(self, numbers: list[int]) -> BaseException | None:
        """Try inputs together. Return what the model raised, or None if they have their outcomes."""
        inputs = [self._inputs[number] for number in numbers]
        try:
            outcomes = self._attempt(inputs)
        except BaseException as error:  # see `Predictor`
            return error
        self._outcomes.update(zip(numbers, outcomes, strict=True))
        self._suspicion.note_outputs(inputs)
        return None

    def _fail(self, number: int, error: BaseException) -> None:
        self._outcomes[number] = error
        self._suspicion.note_failure(self._inputs[number])
