"""Tests of the choice of each policy, at ordinary and at extreme states."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.selection_policies import (
    POLICIES,
    Combination,
    Ensemble,
    EpsilonGreedy,
    Exp3,
    Exp4,
    Policy,
    Shadow,
    Single,
    Split,
    Thompson,
    read_policy,
)
from query_frontend.selection.policies import selection_policy
from query_frontend.selection.state import State, Sums, add

ARMS = ("m:1", "m:2", "other")
SUMS = st.floats(0, 1e300)
STATES = st.dictionaries(st.sampled_from(ARMS), st.builds(Sums, SUMS, SUMS))


@pytest.mark.parametrize("name", POLICIES)
@given(state=STATES, key=st.binary(max_size=8), seed=st.integers(0, 3))
def test_every_policy_bears_every_state(name: str, state: State, key: bytes, seed: int) -> None:
    arms = ARMS[: POLICIES[name].most_arms]
    options = read_policy(name, {"primary": "other"} if name == "shadow" else {}, arms)
    policy = selection_policy(options, arms)
    choice = policy.select(state, key, Random(seed))
    assert choice.arms and {*choice.arms, *choice.shadows} <= set(arms)
    assert len(set(choice.arms)) == len(choice.arms)
    assert 0 < choice.probability <= 1
    assert policy.select(state, key, Random(seed)) == choice
    combined = policy.combine(state, dict.fromkeys(choice.arms, b"1"))
    assert combined.output in (b"1", b"1.0") and combined.confidence == pytest.approx(1)
    assert policy.combine(state, {}).output is None
    change = policy.observe(state, dict.fromkeys(choice.arms, 1.0), choice.probability)
    assert bool(change) is options.learns
    assert all(0 <= number < float("inf") for sums in add(policy.prior(state), change).values() for number in sums)


def test_single_chooses_the_one_arm() -> None:
    assert selection_policy(Single(), ["m"]).select({}, b"key", Random(1)).arms == ("m",)


def test_split_keeps_to_the_arm_of_a_key_and_says_its_share() -> None:
    policy = selection_policy(Split(weights=(("m:1", 3.0), ("m:2", 1.0))), ARMS)
    for key in (b"ann", b"bob", b"eve", b"joe"):
        assert len({policy.select({}, key, Random(seed)) for seed in range(20)}) == 1
    choices = {policy.select({}, b"", Random(seed)) for seed in range(50)}
    assert {choice.arms[0]: choice.probability for choice in choices} == {"m:1": 0.75, "m:2": 0.25}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shadow_asks_the_others_for_a_share_of_queries(share: float) -> None:
    policy, random = selection_policy(Shadow(primary="m:2", share=share), ARMS), Random(1)
    choices = [policy.select({}, b"", random) for _ in range(4000)]
    assert {choice.arms for choice in choices} == {("m:2",)}
    assert {choice.shadows for choice in choices} <= {(), ("m:1", "other")}
    assert sum(bool(choice.shadows) for choice in choices) / len(choices) == pytest.approx(share, abs=0.02)


def test_epsilon_greedy_chooses_the_best_or_any_and_says_how_probable_that_was() -> None:
    policy = selection_policy(EpsilonGreedy(epsilon=0.3), ARMS)
    state = {"m:1": Sums(10, 5), "m:2": Sums(10, 1), "other": Sums(10, 2)}
    random = Random(1)
    choices = [policy.select(state, b"", random) for _ in range(4000)]
    assert {choice.arms[0]: choice.probability for choice in choices} == {
        "m:1": pytest.approx(0.1),
        "m:2": pytest.approx(0.8),
        "other": pytest.approx(0.1),
    }
    assert sum(choice.arms == ("m:2",) for choice in choices) / len(choices) == pytest.approx(0.8, abs=0.02)


def test_epsilon_greedy_tries_what_it_does_not_know() -> None:
    policy = selection_policy(EpsilonGreedy(epsilon=0.0), ARMS)
    state = {"m:1": Sums(10, 1)}
    assert {policy.select(state, b"", Random(seed)).arms[0] for seed in range(30)} == {"m:2", "other"}


def test_thompson_chooses_by_what_it_knows() -> None:
    policy = selection_policy(Thompson(), ARMS)
    state = {"m:1": Sums(1000, 500), "m:2": Sums(1000, 400), "other": Sums(4, 2.5)}
    random = Random(1)
    chosen = [policy.select(state, b"", random).arms[0] for _ in range(2000)]
    assert chosen.count("m:1") < 10
    assert 200 < chosen.count("other") < 1000  # it may be the best, and too little is known


def test_exp3_divides_a_loss_by_the_probability() -> None:
    policy = selection_policy(Exp3(), ARMS)
    assert policy.observe({}, {"m:1": 0.5}, 0.25) == {"m:1": Sums(1.0, 2.0)}


def test_exp3_limits_what_an_arm_can_fall_behind() -> None:
    policy = selection_policy(Exp3(eta=1.0, gamma=0.1), ARMS)
    state = {"m:1": Sums(9, 4.0), "m:2": Sums(9, 5.0), "other": Sums(9, 6.0)}
    change = policy.observe(state, {"m:1": 1.0}, 0.01)
    assert change["m:1"].loss == pytest.approx(4.4, abs=0.01)  # ln(3 / 0.1) above 5, which is the least then
    assert policy.observe(add(state, change), {"m:1": 1.0}, 0.01) == {"m:1": Sums(1.0, 0.0)}


@pytest.mark.parametrize("options", [Exp3(), EpsilonGreedy()], ids=lambda options: options.name)
def test_a_choice_rests_on_the_state_that_is_given(options: Policy) -> None:
    """Whatever state was given before."""
    policy = selection_policy(options, ARMS)
    for best in (*ARMS, *ARMS):
        state = {arm: Sums(500, 0 if arm == best else 400) for arm in ARMS}
        chosen = [policy.select(state, b"", Random(seed)).arms[0] for seed in range(20)]
        assert chosen.count(best) > 10


@given(state=STATES, gamma=st.floats(1e-6, 1), eta=st.floats(1e-6, 10))
def test_weights_add_up_to_one_and_none_is_less_than_its_even_part(state: State, gamma: float, eta: float) -> None:
    weights = selection_policy(Exp4(gamma=gamma, eta=eta), ARMS).combine(state, {}).weights
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= gamma / len(ARMS) * (1 - 1e-9)


def test_exp4_weighs_arms_by_their_losses() -> None:
    policy = selection_policy(Exp4(eta=1.0, gamma=1e-6), ARMS)
    change = policy.observe({}, {"m:1": 0.0, "m:2": 1.0, "other": 1.0}, 1.0)
    weights = policy.combine(change, {}).weights
    assert weights["m:1"] / weights["m:2"] == pytest.approx(2.71828, abs=0.001)
    assert weights["m:2"] == weights["other"]


def test_exp4_neither_rewards_nor_punishes_an_arm_that_has_no_output() -> None:
    policy = selection_policy(Exp4(eta=1.0, gamma=1e-9), ARMS)
    before: State = {"m:1": Sums(5, 1.0), "m:2": Sums(5, 2.0), "other": Sums(5, 3.0)}
    after = before
    for _ in range(20):
        after = add(after, policy.observe(after, {"m:1": 0.1, "m:2": 0.1}, 1.0))
    assert after["other"].observations == 5
    old, new = (policy.combine(state, {}).weights["other"] for state in (before, after))
    assert new == pytest.approx(old)
    assert policy.observe(before, {}, 1.0) == {}


def test_ensemble_asks_all_with_a_weight() -> None:
    policy = selection_policy(Ensemble(weights=(("m:1", 2.0), ("other", 6.0))), ARMS)
    assert policy.select({}, b"", Random(1)).arms == ("m:1", "other")
    combined = policy.combine({}, {"m:1": b"1", "other": b"2"})
    assert combined == (b"2", 0.75, {"m:1": 0.25, "other": 0.75})


def test_ensemble_of_numbers_is_their_mean() -> None:
    options = Ensemble(combination=Combination.MEAN, scale=10.0)
    combined = selection_policy(options, ARMS).combine({}, {"m:1": b"1", "m:2": b"2", "other": b"6"})
    assert combined.output == b"3.0"
    assert combined.confidence == pytest.approx(0.8)  # off by 0.2, 0.1 and 0.3
