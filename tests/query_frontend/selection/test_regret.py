"""Tests of what is lost while a policy learns, against the bounds that are proved for it."""

from collections.abc import Sequence
from math import exp, log, sqrt
from random import Random
from statistics import fmean

import pytest

from clipper_common.selection_policies import EpsilonGreedy, Exp3, Exp4, Thompson
from query_frontend.selection.interface import SelectionPolicy
from query_frontend.selection.policies import selection_policy
from query_frontend.selection.state import NOTHING, State, add
from tests.query_frontend.selection.arms import LossesAt, learn, names, regret

STEPS = 4000
TRIALS = 8
GAPS = (0.0, 0.1, 0.2, 0.3, 0.4)
LOSSES = tuple(0.1 + gap for gap in GAPS)
ARMS = names(len(LOSSES))


def unchanged(step: int) -> Sequence[float]:
    return LOSSES


def alternating(step: int) -> Sequence[float]:
    """The first arm is the best over all, but the worst in each fourth block of steps."""
    return (1.0, 0.2, 0.3, 0.4, 0.5) if step // 100 % 4 == 3 else (0.0, 0.4, 0.5, 0.6, 0.7)


def mean_regret(policy: SelectionPolicy, losses_at: LossesAt) -> float:
    return fmean(regret(learn(policy, losses_at, STEPS, Random(seed))[1], losses_at) for seed in range(TRIALS))


def uniform_regret(losses_at: LossesAt) -> float:
    return regret([arm for _ in range(STEPS // len(ARMS)) for arm in ARMS], losses_at)


@pytest.mark.parametrize("losses_at", [unchanged, alternating], ids=["unchanged", "alternating"])
def test_exp3_keeps_its_bound_for_any_losses(losses_at: LossesAt) -> None:
    """Auer et al., 2002, theorem 3.1, for losses: Bubeck and Cesa-Bianchi, "Regret analysis of stochastic and
    nonstochastic multi-armed bandit problems", 2012, section 3; and a second gamma for the least weight."""
    eta, gamma = sqrt(2 * log(len(ARMS)) / (len(ARMS) * STEPS)), 0.005
    policy = selection_policy(Exp3(eta=eta, gamma=gamma), ARMS)
    bound = log(len(ARMS)) / eta + eta * len(ARMS) * STEPS / (2 * (1 - gamma)) + 2 * gamma * STEPS
    assert bound < uniform_regret(losses_at)
    assert mean_regret(policy, losses_at) < bound


def kullback_leibler(one: float, other: float) -> float:
    return one * log(one / other) + (1 - one) * log((1 - one) / (1 - other))


def test_thompson_is_near_the_least_regret_that_is_possible() -> None:
    """Lai and Robbins, 1985; for Thompson sampling, Kaufmann, Korda and Munos, ALT 2012, whose bound is 1 + epsilon
    times as large, and a constant."""
    least = sum(gap * log(STEPS) / kullback_leibler(0.1 + gap, 0.1) for gap in GAPS if gap)
    assert mean_regret(selection_policy(Thompson(), ARMS), unchanged) < 2 * least + len(ARMS)


def test_epsilon_greedy_loses_little_but_what_it_explores() -> None:
    """Auer, Cesa-Bianchi and Fischer, "Finite-time analysis of the multiarmed bandit problem", 2002, section 2."""
    epsilon = 0.1
    explored = epsilon * STEPS * fmean(GAPS)
    assert mean_regret(selection_policy(EpsilonGreedy(epsilon=epsilon), ARMS), unchanged) < 1.5 * explored


@pytest.mark.parametrize("losses_at", [unchanged, alternating], ids=["unchanged", "alternating"])
def test_exp4_keeps_its_bound_for_any_losses(losses_at: LossesAt) -> None:
    eta, gamma = sqrt(8 * log(len(ARMS)) / STEPS), 0.005
    policy = selection_policy(Exp4(eta=eta, gamma=gamma), ARMS)
    state: State = {}
    lost = 0.0
    for step in range(STEPS):
        losses = dict(zip(ARMS, losses_at(step), strict=True))
        weights = policy.combine(state, {}).weights
        lost += sum(weights[arm] * losses[arm] for arm in ARMS)
        state = add(state, policy.observe(state, losses, 1.0))
    best = min(sum(losses_at(step)[number] for step in range(STEPS)) for number in range(len(ARMS)))
    bound = log(len(ARMS)) / eta + eta * STEPS / 8 + gamma * (1 + exp(eta)) * STEPS
    assert lost - best < bound < uniform_regret(losses_at)


def degrading(step: int) -> Sequence[float]:
    """The best arm of the paper's figure 8 is useless for the second quarter of the steps."""
    return (0.9 if 5000 <= step < 10_000 else 0.092, 0.168, 0.242, 0.346, 0.46)


def share_of_first(chosen: Sequence[str], steps: range) -> float:
    return fmean(chosen[step] == ARMS[0] for step in steps)


@pytest.mark.parametrize("seed", range(3))
def test_exp3_leaves_the_best_arm_when_it_degrades_and_comes_back(seed: int) -> None:
    _, chosen = learn(selection_policy(Exp3(), ARMS), degrading, 20_000, Random(seed))
    assert share_of_first(chosen, range(4000, 5000)) > 0.5
    assert share_of_first(chosen, range(6000, 10_000)) < 0.1
    assert share_of_first(chosen, range(15_000, 20_000)) > 0.5


def test_a_million_observations_neither_overflow_nor_keep_exp3_from_changing() -> None:
    policy = selection_policy(Exp3(), ARMS)
    state: State = {}
    for _ in range(20_000):
        state = add(state, policy.observe(state, {ARMS[1]: 1.0, ARMS[2]: 0.9}, 0.01))
    scaled = {arm: sums._replace(loss=sums.loss + 1e8) for arm in ARMS for sums in [state.get(arm, NOTHING)]}
    choices = [policy.select(scaled, b"", Random(seed)) for seed in range(100)]
    assert all(0.01 <= choice.probability <= 1 for choice in choices)
    random, chosen = Random(1), 0
    for _ in range(2000):
        choice = policy.select(scaled, b"", random)
        chosen += choice.arms == (ARMS[1],)
        scaled = dict(
            add(scaled, policy.observe(scaled, {choice.arms[0]: float(choice.arms != (ARMS[1],))}, choice.probability))
        )
    assert chosen > 1000
