"""The policy `thompson`: an arm, with the probability that it is the best of all, given the observations.

Source: Thompson, "On the likelihood that one unknown probability exceeds another in view of the evidence of two
samples", Biometrika 25, 1933; Agrawal and Goyal, "Analysis of Thompson sampling for the multi-armed bandit problem",
COLT 2012, algorithm 1, for Beta distributions.
"""

from collections.abc import Sequence

from query_frontend.selection.bases import LearnsMeans, OneArm
from query_frontend.selection.interface import Choice, RandomNumbers
from query_frontend.selection.state import NOTHING, State, Sums


class ThompsonPolicy(LearnsMeans, OneArm):
    """The reward of each arm has a Beta distribution, which is uniform before the first observation.

    A loss between 0 and 1 counts as that part of a failure, and the rest as a success. (Agrawal and Goyal draw one or
    the other at random instead, which has the same mean but could not be repeated.) Each observation
    counts for ever, so the policy is slow to notice that an arm has changed.
    """

    def __init__(self, arms: Sequence[str]) -> None:
        self._arms = tuple(arms)

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        draws = [random.betavariate(*_successes_and_failures(state.get(arm, NOTHING))) for arm in self._arms]
        return Choice((self._arms[draws.index(max(draws))],))


def _successes_and_failures(sums: Sums) -> tuple[float, float]:
    """Return the parameters of the Beta distribution of the reward."""
    return 1.0 + max(0.0, sums.observations - sums.loss), 1.0 + sums.loss
