"""One answer of several outputs, and the confidence in it.

Source: Crankshaw et al., "Clipper: A low-latency online prediction serving system", NSDI 2017, section 5.2: the
combination of base models' predictions, and the agreement of models as confidence (5.2.1). An output that is missing
because its model was late or failed agrees with none, so it lowers the confidence (5.2.2).
"""

from collections.abc import Hashable, Mapping
from math import isfinite

from clipper_common.selection_policies import Combination
from query_frontend.selection.interface import Combined
from query_frontend.selection.losses import distance, number_in


def combine(
    combination: Combination, scale: float, weights: Mapping[str, float], outputs: Mapping[str, bytes]
) -> Combined:
    """Combine the outputs that are there. `weights` has all arms, and adds up to 1."""
    if combination is Combination.VOTE:
        return vote(weights, outputs)
    return mean(scale, weights, outputs)


def vote(weights: Mapping[str, float], outputs: Mapping[str, bytes]) -> Combined:
    """Return the output with the greatest sum of weights; the first in the order of `weights` of those with equal sums.

    The confidence is its share of all weights. Numbers are compared by value, other outputs byte for byte.
    """
    votes: dict[Hashable, float] = {}
    first: dict[Hashable, bytes] = {}
    for arm, weight in weights.items():
        if weight > 0 and arm in outputs:
            label = _label(outputs[arm])
            votes[label] = votes.get(label, 0.0) + weight
            first.setdefault(label, outputs[arm])
    if not votes:
        return Combined(None, 0.0, weights)
    winner = max(votes, key=votes.__getitem__)
    return Combined(first[winner], min(1.0, votes[winner]), weights)


def mean(scale: float, weights: Mapping[str, float], outputs: Mapping[str, bytes]) -> Combined:
    """Return the weighted mean of the outputs that are numbers.

    An arm agrees with it by 1 less the difference of its output, as a part of the scale; by 0 if that is more than 1.
    """
    numbers = {arm: number for arm, output in outputs.items() if (number := number_in(output)) is not None}
    present = {arm: weight for arm, weight in weights.items() if arm in numbers}
    total = sum(present.values())
    if not total:
        return Combined(None, 0.0, weights)
    average = sum(weight / total * numbers[arm] for arm, weight in present.items())
    if not isfinite(average):
        return Combined(None, 0.0, weights)
    agreement = sum(weight * (1 - distance(average, numbers[arm], scale)) for arm, weight in present.items())
    return Combined(repr(average).encode(), min(1.0, agreement), weights)


def _label(output: bytes) -> Hashable:
    number = number_in(output)
    return output if number is None else number
