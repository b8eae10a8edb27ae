"""The policy `ensemble`: all arms answer, and their outputs are combined by fixed weights.

Source: Crankshaw et al., "Clipper", NSDI 2017, section 5.2 and figure 7.
"""

from collections.abc import Mapping, Sequence

from clipper_common.selection_policies import Ensemble
from query_frontend.selection.bases import Fixed
from query_frontend.selection.combining import combine
from query_frontend.selection.interface import Choice, Combined, RandomNumbers
from query_frontend.selection.state import State


class EnsemblePolicy(Fixed):
    """Arms whose weight is 0 are not asked."""

    def __init__(self, options: Ensemble, arms: Sequence[str]) -> None:
        weights = options.weights_of(arms)
        total = sum(weights.values())
        self._weights = {arm: weight / total for arm, weight in weights.items() if weight}
        self._combination, self._scale = options.combination, options.scale

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        return Choice(tuple(self._weights))

    def combine(self, state: State, outputs: Mapping[str, bytes]) -> Combined:
        return combine(self._combination, self._scale, self._weights, outputs)
