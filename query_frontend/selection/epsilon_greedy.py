"""The policy `epsilon_greedy`: the arm with the least mean loss, or any with probability epsilon.

Source: Sutton and Barto, "Reinforcement learning: an introduction", second edition, 2018, section 2.2; Watkins,
"Learning from delayed rewards", thesis, Cambridge, 1989.
"""

from collections.abc import Mapping, Sequence

from clipper_common.selection_policies import EpsilonGreedy
from query_frontend.selection.bases import LearnsMeans, OneArm, Remembered, draw
from query_frontend.selection.interface import Choice, RandomNumbers
from query_frontend.selection.state import NOTHING, State


class EpsilonGreedyPolicy(LearnsMeans, OneArm):
    """An arm that was never observed counts as faultless, so each is tried. Arms with equal means are chosen alike.

    Each observation counts for ever, so the policy is slow to notice that an arm has changed. Its
    expected regret grows linearly, by at most ``epsilon`` times the mean gap of the arms for each query, once it knows
    the best.
    """

    def __init__(self, options: EpsilonGreedy, arms: Sequence[str]) -> None:
        self._arms = tuple(arms)
        self._epsilon = options.epsilon
        self._probabilities = Remembered(self._compute_probabilities)

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        probabilities = self._probabilities(state)
        arm = draw(probabilities, random)
        return Choice((arm,), probabilities[arm])

    def _compute_probabilities(self, state: State) -> Mapping[str, float]:
        means = [_mean(state, arm) for arm in self._arms]
        best = min(means)
        greedy = (1 - self._epsilon) / means.count(best)
        evenly = self._epsilon / len(means)
        return {arm: evenly + (greedy if mean == best else 0.0) for arm, mean in zip(self._arms, means, strict=True)}


def _mean(state: State, arm: str) -> float:
    sums = state.get(arm, NOTHING)
    return sums.loss / sums.observations if sums.observations else 0.0
