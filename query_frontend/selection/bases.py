"""Base classes of policies: the parts that several of them share."""

from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from query_frontend.selection.interface import Combined, RandomNumbers
from query_frontend.selection.state import State, Sums, limit_observations

Value = TypeVar("Value")

_PRIOR_OBSERVATIONS: Final = 20.0
"""The most observations of an arm on which a prior rests: as many of one's own outweigh it."""


class OneArm:
    """Base of policies that answer with the output of the arm that they chose."""

    def combine(self, state: State, outputs: Mapping[str, bytes]) -> Combined:
        for arm, output in outputs.items():
            return Combined(output, 1.0, {arm: 1.0})
        return Combined(None, 0.0, {})


class Fixed:
    """Base of policies that do not learn."""

    def observe(self, state: State, losses: Mapping[str, float], probability: float) -> State:
        return {}

    def prior(self, state: State) -> State:
        return {}


class LearnsMeans:
    """Base of policies that learn the mean loss of each arm. Losses are added as they are."""

    def observe(self, state: State, losses: Mapping[str, float], probability: float) -> State:
        return {arm: Sums(1.0, loss) for arm, loss in losses.items()}

    def prior(self, state: State) -> State:
        return limit_observations(state, _PRIOR_OBSERVATIONS)


class Remembered(Generic[Value]):
    """A function of a state whose last value is kept: a state serves many queries before it changes.

    A state that differs is another object, since states are values.
    """

    def __init__(self, compute: Callable[[State], Value]) -> None:
        self._compute = compute
        self._state: State | None = None

    def __call__(self, state: State) -> Value:
        if state is not self._state:
            self._value = self._compute(state)
            self._state = state
        return self._value


def draw(weights: Mapping[str, float], random: RandomNumbers) -> str:
    """Return any arm, with a probability proportional to its weight. The sum of weights is above 0."""
    rest = random.random() * sum(weights.values())
    last = ""
    for arm, weight in weights.items():
        if weight > 0:
            last = arm
            rest -= weight
            if rest < 0:
                break
    return last  # where rounding left a rest, the last of those with a weight
