"""Tests of bandits against those of the library river, as an oracle."""

import os
from collections.abc import Callable
from random import Random
from statistics import fmean
from typing import Any

import pytest

from clipper_common.selection_policies import EpsilonGreedy, Exp3, Thompson
from query_frontend.selection.interface import SelectionPolicy
from query_frontend.selection.policies import selection_policy
from query_frontend.selection.state import State, add
from tests.query_frontend.selection.arms import learn, names, regret

if "river" not in os.environ.get("CLIPPER_REQUIRE", "").split(","):
    pytest.importorskip("river")
from river import bandit, proba

LOSSES = (0.3, 0.5, 0.1, 0.4, 0.2)
ARMS = names(len(LOSSES))
STEPS = 2000


def test_exp3_has_the_probabilities_of_river() -> None:
    """River adds rewards, with a learning rate of gamma / arms: a loss is a negative reward."""
    gamma = 0.01
    theirs = bandit.Exp3(gamma=gamma, seed=1)
    ours = selection_policy(Exp3(gamma=gamma, eta=gamma / len(ARMS)), ARMS)
    state: State = {}
    random = Random(1)
    for _ in range(STEPS):
        arm = theirs.pull(ARMS)
        mine = {choice.arms[0]: choice.probability for choice in (ours.select(state, b"", random) for _ in range(4))}
        assert mine == pytest.approx({each: theirs._probabilities[each] for each in mine})
        loss = random.random() * LOSSES[ARMS.index(arm)]
        probability = theirs._probabilities[arm]
        theirs.update(arm, -loss)
        state = add(state, ours.observe(state, {arm: loss}, probability))


def test_epsilon_greedy_has_the_means_of_river() -> None:
    theirs = bandit.EpsilonGreedy(epsilon=0.1, seed=1)
    ours = selection_policy(EpsilonGreedy(epsilon=0.0), ARMS)
    state: State = {}
    random = Random(1)
    for step in range(STEPS):
        arm = theirs.pull(ARMS) if step >= len(ARMS) else ARMS[step]
        loss = random.random() * LOSSES[ARMS.index(arm)]
        theirs.update(arm, -loss)
        state = add(state, ours.observe(state, {arm: loss}, 1.0))
        if step >= len(ARMS):
            assert ours.select(state, b"", random).arms == (max(ARMS, key=lambda each: theirs._rewards[each].get()),)


def test_thompson_has_the_distributions_of_river() -> None:
    theirs = bandit.ThompsonSampling(reward_obj=proba.Beta(1, 1), seed=1)
    ours = selection_policy(Thompson(), ARMS)
    state: State = {}
    random = Random(1)
    for _ in range(200):
        arm = theirs.pull(ARMS)
        fails = random.random() < LOSSES[ARMS.index(arm)]
        theirs.update(arm, not fails)
        state = add(state, ours.observe(state, {arm: float(fails)}, 1.0))

    class Parameters(Random):
        def betavariate(self, alpha: float, beta: float) -> float:
            found.append((alpha, beta))
            return 0.5

    found: list[tuple[float, float]] = []
    ours.select(state, b"", Parameters())
    assert found == [(theirs._rewards[arm].alpha, theirs._rewards[arm].beta) for arm in ARMS]


def their_regret(theirs: Any, seed: int) -> float:
    random, chosen = Random(seed), []
    for _ in range(STEPS):
        arm = theirs.pull(ARMS)
        theirs.update(arm, float(random.random() >= LOSSES[ARMS.index(arm)]))
        chosen.append(arm)
    return regret(chosen, lambda step: LOSSES)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (selection_policy(Exp3(eta=0.02, gamma=0.1), ARMS), lambda seed: bandit.Exp3(gamma=0.1, seed=seed)),
        (selection_policy(EpsilonGreedy(epsilon=0.1), ARMS), lambda seed: bandit.EpsilonGreedy(epsilon=0.1, seed=seed)),
        (
            selection_policy(Thompson(), ARMS),
            lambda seed: bandit.ThompsonSampling(reward_obj=proba.Beta(1, 1), seed=seed),
        ),
    ],
    ids=["exp3", "epsilon_greedy", "thompson"],
)
def test_regret_is_no_more_than_that_of_river(ours: SelectionPolicy, theirs: Callable[[int], Any]) -> None:
    seeds = range(6)
    mine = fmean(
        regret(learn(ours, lambda step: LOSSES, STEPS, Random(seed))[1], lambda step: LOSSES) for seed in seeds
    )
    assert mine < 1.25 * fmean(their_regret(theirs(seed), seed) for seed in seeds)
