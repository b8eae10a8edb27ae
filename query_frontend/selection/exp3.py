"""The policy `exp3`: an arm, with a probability that falls exponentially with its losses.

Source: Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", SIAM Journal on
Computing 32(1), 2002, section 3 (Exp3); for losses, and among the models of an application, Crankshaw et al.,
"Clipper", NSDI 2017, section 5.1.
"""

from collections.abc import Mapping, Sequence

from clipper_common.selection_policies import Exp3
from query_frontend.selection.bases import OneArm, Remembered, draw
from query_frontend.selection.exponential_weights import ExponentialWeights
from query_frontend.selection.interface import Choice, RandomNumbers
from query_frontend.selection.state import State


class Exp3Policy(OneArm):
    """The loss that is added is importance-weighted: divided by the probability with which the arm was chosen.

    So its expectation is that of an arm which is always observed, and the sums of several frontends are added. Without
    the limit of `ExponentialWeights`, the expected regret after T queries on K arms is at most
    ``ln(K) / eta + eta * K * T / (2 * (1 - gamma)) + gamma * T``, whatever the losses. The limit costs the choices of
    arms that it holds at their least weight, about ``gamma * T`` more.
    """

    def __init__(self, options: Exp3, arms: Sequence[str]) -> None:
        self._learner = ExponentialWeights(tuple(arms), options.eta, options.gamma)
        self._probabilities = Remembered(self._learner.of)

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        probabilities = self._probabilities(state)
        arm = draw(probabilities, random)
        return Choice((arm,), probabilities[arm])

    def observe(self, state: State, losses: Mapping[str, float], probability: float) -> State:
        return self._learner.observation(state, {arm: loss / probability for arm, loss in losses.items()})

    def prior(self, state: State) -> State:
        return self._learner.prior(state)
