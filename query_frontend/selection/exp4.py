"""The policy `exp4`: all arms answer, and their outputs are combined by weights that fall exponentially with losses.

Source: Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", SIAM Journal on
Computing 32(1), 2002, section 7 (Exp4); Crankshaw et al., "Clipper", NSDI 2017, section 5.2, where each model is an
expert whose own loss is observed. Arms without an output: Freund, Schapire, Singer and Warmuth, "Using and combining
predictors that specialize", STOC 1997.
"""

from collections.abc import Mapping, Sequence

from clipper_common.selection_policies import Exp4
from query_frontend.selection.bases import Remembered
from query_frontend.selection.combining import combine
from query_frontend.selection.exponential_weights import ExponentialWeights
from query_frontend.selection.interface import Choice, Combined, RandomNumbers
from query_frontend.selection.state import State


class Exp4Policy:
    """The losses of all arms are added as they are.

    An arm without an output is charged the weighted mean of the others' losses, so that its part of all weights stays
    about as it was: to be late is neither better nor worse than to answer. After T queries on K arms the weighted mean
    of losses exceeds that of the best arm by at most
    ``ln(K) / eta + eta * T / 8 + gamma * (1 + exp(eta)) * T``, whatever the losses: the first two terms are those of
    exponential weights, the last that of even shares and of the least weight.
    """

    def __init__(self, options: Exp4, arms: Sequence[str]) -> None:
        self._arms = tuple(arms)
        self._learner = ExponentialWeights(self._arms, options.eta, options.gamma)
        self._weights = Remembered(self._learner.of)
        self._combination, self._scale = options.combination, options.scale

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        return Choice(self._arms)

    def combine(self, state: State, outputs: Mapping[str, bytes]) -> Combined:
        return combine(self._combination, self._scale, self._weights(state), outputs)

    def observe(self, state: State, losses: Mapping[str, float], probability: float) -> State:
        weights = self._weights(state)
        known = {arm: loss for arm, loss in losses.items() if arm in weights}
        if not known:
            return {}
        mean = sum(weights[arm] * loss for arm, loss in known.items()) / sum(weights[arm] for arm in known)
        change = self._learner.observation(state, {arm: known.get(arm, mean) for arm in self._arms})
        return {arm: sums._replace(observations=float(arm in known)) for arm, sums in change.items()}

    def prior(self, state: State) -> State:
        return self._learner.prior(state)
