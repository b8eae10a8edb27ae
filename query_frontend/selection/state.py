"""The learned state of a policy: sums for each arm, so that the observations of several frontends are added."""

from collections.abc import Mapping
from math import isfinite
from typing import Final, NamedTuple

_OBSERVATIONS: Final = "observations"
_LOSS: Final = "loss"


class Sums(NamedTuple):
    """The sums of one arm."""

    observations: float = 0.0
    """The number of outputs whose loss is known."""
    loss: float = 0.0
    """Their losses. The policy says how they are weighted."""


NOTHING: Final = Sums()

State = Mapping[str, Sums]
"""The sums of each arm. An arm that is absent has `NOTHING`. A state is a value, and
never changed in place; a change of a state is a state too, and is added to it."""


def add(state: State, change: State) -> State:
    """Return the sum of two states. The order in which changes are added does not matter."""
    whole = dict(state)
    for arm, sums in change.items():
        before = whole.get(arm, NOTHING)
        whole[arm] = Sums(before.observations + sums.observations, before.loss + sums.loss)
    return whole


def limit_observations(state: State, most: float) -> State:
    """Return a state with the same mean losses that rests on at most so many observations of each arm."""
    limited = {}
    for arm, sums in state.items():
        part = min(1.0, most / sums.observations) if sums.observations else 0.0
        limited[arm] = Sums(sums.observations * part, sums.loss * part)
    return limited


def to_fields(state: State) -> dict[str, float]:
    """Return the fields of a hash in Redis, each of which is a sum; the arm is what follows the first colon."""
    fields = {}
    for arm, sums in state.items():
        fields[f"{_OBSERVATIONS}:{arm}"] = sums.observations
        fields[f"{_LOSS}:{arm}"] = sums.loss
    return fields


def from_fields(fields: Mapping[str, str | float]) -> State:
    """Return the state that `to_fields` wrote. What is no sum of an arm is left out."""
    state: dict[str, Sums] = {}
    for field, text in fields.items():
        kind, _, arm = field.partition(":")
        number = _sum(text)
        if arm and number is not None and kind in (_OBSERVATIONS, _LOSS):
            before = state.get(arm, NOTHING)
            state[arm] = before._replace(**{kind: number})
    return state


def _sum(text: str | float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None
