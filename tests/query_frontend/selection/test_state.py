"""Tests of states as sums: of several frontends, of users, and in Redis."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.selection_policies import EpsilonGreedy, Exp3, Exp4, Policy, Thompson
from query_frontend.selection.policies import selection_policy
from query_frontend.selection.state import State, Sums, add, from_fields, limit_observations, to_fields
from tests.query_frontend.selection.arms import names

ARMS = ("m", "m:1", "m:2")
WHOLE = st.integers(0, 2**40).map(float)
"""Sums of these are exact."""
STATES = st.dictionaries(st.sampled_from(ARMS), st.builds(Sums, WHOLE, WHOLE))
SOME_LOSSES = st.dictionaries(st.sampled_from(ARMS), st.integers(0, 8).map(lambda eighths: eighths / 8), min_size=1)
LEARNING = [EpsilonGreedy(), Thompson(), Exp3(eta=1e-6), Exp4(eta=1e-6)]
"""With so small an eta the limit of differences is far away."""

every_learning_policy = pytest.mark.parametrize("options", LEARNING, ids=lambda options: options.name)


@given(STATES, STATES, STATES)
def test_states_are_added_in_any_order(one: State, two: State, three: State) -> None:
    assert add(add(one, two), three) == add(add(three, one), two)


@given(STATES)
def test_a_state_is_the_same_after_redis(state: State) -> None:
    fields = to_fields(state)
    assert from_fields(fields) == state
    assert from_fields(json.loads(json.dumps(fields))) == state
    assert from_fields({field: repr(number) for field, number in fields.items()}) == state


@given(STATES, STATES)
def test_fields_are_added_as_states_are(one: State, two: State) -> None:
    added = to_fields(one)
    for field, number in to_fields(two).items():  # as HINCRBYFLOAT does
        added[field] = added.get(field, 0.0) + number
    assert from_fields(added) == add(one, two)


def test_fields_that_are_no_sums_are_left_out() -> None:
    wrong = {"loss:a": "nan", "loss:b": "-1", "loss:c": "x", "loss:": "1", "loss": "1", "other:d": "1", "loss:e": "inf"}
    assert from_fields({**wrong, "loss:m:1": "2.5"}) == {"m:1": Sums(0.0, 2.5)}


@every_learning_policy
@given(observations=st.lists(SOME_LOSSES, max_size=20), seed=st.integers(0, 9))
def test_changes_of_several_frontends_are_those_of_one(
    options: Policy, observations: list[dict[str, float]], seed: int
) -> None:
    """Where no limit is reached, a change of `exp3` does not depend on the state at all, nor does one of a policy that
    learns means. That of `exp4` does only where an output is missing."""
    policy = selection_policy(options, ARMS)
    if options.asks_all:
        observations = [{arm: losses.get(arm, 1.0) for arm in ARMS} for losses in observations]
    at_once: State = {}
    for losses in observations:
        at_once = add(at_once, policy.observe(at_once, losses, 0.25))
    changes = [policy.observe({}, losses, 0.25) for losses in observations]
    Random(seed).shuffle(changes)
    merged: State = {}
    for change in changes:
        merged = add(merged, change)
    assert merged == at_once


@given(st.lists(st.tuples(st.sampled_from(ARMS), st.floats(0, 1), st.floats(0.01, 1)), max_size=60), st.integers(1, 4))
def test_several_frontends_exceed_the_limit_of_exp3_by_little(
    observations: list[tuple[str, float, float]], frontends: int
) -> None:
    """Each frontend knows the sums as they were when all of them last added theirs."""
    policy = selection_policy(Exp3(eta=1.0, gamma=0.1), ARMS)
    state: State = {}
    for start in range(0, len(observations), frontends):
        seen = state
        for arm, loss, probability in observations[start : start + frontends]:
            state = add(state, policy.observe(seen, {arm: loss}, probability))
    losses = [state.get(arm, Sums()).loss for arm in ARMS]
    reach = 3.5  # ln(3 / 0.1), and a little
    assert max(losses) - min(losses) <= frontends * reach


@every_learning_policy
def test_a_user_begins_with_what_the_application_knows_and_can_depart_from_it(options: Policy) -> None:
    """One user's best arm is the others' worst."""
    policy = selection_policy(type(options)(), names(2))
    application: State = {"m:0": Sums(100_000, 90_000), "m:1": Sums(100_000, 10_000)}

    def share(own: State) -> float:
        state, random = add(policy.prior(application), own), Random(1)
        if options.asks_all:
            return policy.combine(state, {}).weights["m:0"]
        return sum(policy.select(state, b"", random).arms == ("m:0",) for _ in range(300)) / 300

    own: State = {}
    assert share(own) < 0.2
    random = Random(1)
    for _ in range(1000):
        state = add(policy.prior(application), own)
        choice = policy.select(state, b"", random)
        own = add(own, policy.observe(state, {arm: float(arm == "m:1") for arm in choice.arms}, choice.probability))
    assert share(own) > 0.8


@given(STATES, st.floats(1, 100))
def test_a_prior_keeps_the_mean_and_few_observations(state: State, most: float) -> None:
    for arm, sums in limit_observations(state, most).items():
        assert sums.observations <= most * (1 + 1e-9)
        if state[arm].observations:
            mean = state[arm].loss / state[arm].observations
            assert sums.loss == pytest.approx(mean * sums.observations)


def test_a_new_generation_begins_without_the_history_of_losses() -> None:
    """An arm that is linked later begins beside the best."""
    policy = selection_policy(Exp3(eta=0.1, gamma=0.1), names(3))
    prior = policy.prior({"m:0": Sums(1e6, 1e5), "m:1": Sums(1e6, 1e5 + 7), "m:2": Sums(1e6, 2e6)})
    assert prior["m:0"] == Sums()
    assert prior["m:1"] == Sums(0.0, pytest.approx(7))
    assert prior["m:2"].loss == pytest.approx(34.01, abs=0.01)  # ln(3 / 0.1) / 0.1
