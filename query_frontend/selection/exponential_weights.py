"""Weights that fall exponentially with the losses of arms, for `exp3` and `exp4`.

An arm's weight is ``exp(-eta * loss)`` of its sum of losses, as a part of all weights, and a share `gamma` of weight is
spread evenly (Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", SIAM Journal on
Computing 32(1), 2002, sections 3 and 7; losses in place of gains as in Clipper, NSDI 2017, section 5.1). Only
differences of losses from the least one are used, so nothing overflows, however long a policy learns.

The weight of an arm is never less than ``gamma / arms`` of the best one's: the sum of losses of an arm grows no
further once it is ``ln(arms / gamma) / eta`` above the least. So a policy follows a change of the best arm after some
hundred observations, however long the arm was good or bad before. Exp3.S (section 8 of the same paper) has the same
bound of weights, but by a step that mixes all weights, whose result is no sum.
"""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import NamedTuple

from query_frontend.selection.state import NOTHING, State, Sums


class ExponentialWeights(NamedTuple):
    """The weights of these arms, as a function of a state."""

    arms: Sequence[str]
    eta: float
    gamma: float

    def of(self, state: State) -> dict[str, float]:
        """Return the weights. They add up to 1."""
        losses = [state.get(arm, NOTHING).loss for arm in self.arms]
        least = min(losses)
        raw = [exp(self.eta * (least - loss)) for loss in losses]
        part, evenly = (1 - self.gamma) / sum(raw), self.gamma / len(raw)
        return {arm: part * weight + evenly for arm, weight in zip(self.arms, raw, strict=True)}

    def observation(self, state: State, losses: Mapping[str, float]) -> State:
        """Return what is added to the state for these losses, so that no arm falls too far behind.

        Several frontends keep the limit each by what it knows: together they may exceed it, until the least sum grows.
        """
        before = {arm: state.get(arm, NOTHING).loss for arm in self.arms}
        after = {arm: loss + losses.get(arm, 0.0) for arm, loss in before.items()}
        most = min(after.values()) + self._reach()
        return {arm: Sums(1.0, max(0.0, min(after[arm], most) - before[arm])) for arm in before if arm in losses}

    def prior(self, state: State) -> State:
        """Return the differences of losses alone."""
        sums = [state.get(arm, NOTHING) for arm in self.arms]
        least = min(each.loss for each in sums)
        return {
            arm: Sums(0.0, min(each.loss - least, self._reach())) for arm, each in zip(self.arms, sums, strict=True)
        }

    def _reach(self) -> float:
        """The most by which the losses of an arm exceed the least."""
        return log(len(self.arms) / self.gamma) / self.eta
