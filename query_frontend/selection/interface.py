"""The interface of selection policies: pure functions of a state that is a value."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from query_frontend.selection.state import State


class RandomNumbers(Protocol):
    """The part of `random.Random` that policies use, so that tests and simulations can repeat a choice."""

    def random(self) -> float: ...

    def betavariate(self, alpha: float, beta: float) -> float: ...


class Choice(NamedTuple):
    """The arms that are asked."""

    arms: tuple[str, ...]
    """The arms whose outputs make the answer."""
    probability: float = 1.0
    """The probability with which these arms were chosen; 1 if the policy has no use for it."""
    shadows: tuple[str, ...] = ()
    """The arms that are asked too, and whose outputs are only compared."""


class Combined(NamedTuple):
    """The answer that several outputs make."""

    output: bytes | None
    """As JSON; None if there is none."""
    confidence: float
    """The weighted share of all arms that agree with the output, from 0 to 1."""
    weights: Mapping[str, float]
    """The weight of each arm that was asked, whether its output is there or not. All add up to 1."""


class SelectionPolicy(Protocol):
    """A policy with its options and arms. It has no state of its own, draws no random numbers and reads no clock."""

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        """Choose the arms of a query. `key` is the client's sticky key, or empty."""

    def combine(self, state: State, outputs: Mapping[str, bytes]) -> Combined:
        """Make one answer of the outputs that are there, of some or all arms that were chosen."""

    def observe(self, state: State, losses: Mapping[str, float], probability: float) -> State:
        """Return what must be added to the state, given the losses (0 to 1) of some or all arms that were chosen.

        `probability` is that of the choice.
        """

    def prior(self, state: State) -> State:
        """Return the state from which one learns that begins with what `state` knows, but can depart from it soon.

        The state of a user is the application's prior plus the user's own observations; a new generation of a policy
        begins with the prior of the one before.
        """
