"""The interface of selection policies, and their state."""

from typing import Protocol


class RandomNumbers(Protocol):
    """The part of `random.Random` that policies use, so that tests and simulations can repeat a choice."""

    def random(self) -> float: ...

    def betavariate(self, alpha: float, beta: float) -> float: ...
