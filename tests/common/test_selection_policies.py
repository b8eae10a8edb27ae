"""Tests of the declaration of selection policies, and of the check of their options."""

import json
import pickle
from typing import Any

import pytest

from clipper_common.errors import PolicyError
from clipper_common.selection_policies import MAX_ARMS, POLICIES, Combination, Loss, Split, read_policy

ARMS = ("m:1", "m:2", "other")
NEEDED: dict[str, dict[str, object]] = {"shadow": {"primary": "other"}}


def arms_for(name: str) -> tuple[str, ...]:
    return ARMS[: POLICIES[name].most_arms]


def test_all_policies_have_their_name() -> None:
    names = ["single", "split", "shadow", "epsilon_greedy", "thompson", "exp3", "exp4", "ensemble"]
    assert list(POLICIES) == names


def test_the_longest_link_can_have_a_weight() -> None:
    link = f"{'m' * 255}:{'1' * 255}"
    assert read_policy("split", {"weights": {link: 5}}, [link]) == Split(weights=((link, 5.0),))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_the_same_after_json_and_pickle(name: str) -> None:
    policy = read_policy(name, NEEDED.get(name, {}), arms_for(name))
    text = json.dumps(policy.options())
    assert read_policy(name, json.loads(text), arms_for(name)) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) is not None


def test_options_are_read() -> None:
    options = {"weights": {"m:1": 95, "m:2": 5}, "sticky_key": "header:X-User"}
    policy = read_policy("split", options, ARMS)
    assert policy == Split(weights=(("m:1", 95.0), ("m:2", 5.0)), sticky_key="header:X-User")
    assert policy.options() == options


def test_names_of_functions_are_read() -> None:
    options = {"loss": "absolute", "combination": "mean", "scale": 10, "contextual": True}
    policy = read_policy("exp4", options, ARMS)
    assert policy.options() | options == policy.options()
    assert (policy.loss, policy.combination) == (Loss.ABSOLUTE, Combination.MEAN)  # type: ignore[attr-defined]


def test_an_arm_that_has_no_weight_has_none_and_without_weights_all_are_equal() -> None:
    assert Split(weights=(("m:1", 2.0),)).weights_of(ARMS) == {"m:1": 2.0, "m:2": 0.0, "other": 0.0}
    assert Split().weights_of(ARMS) == {"m:1": 1.0, "m:2": 1.0, "other": 1.0}


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("split", "weights", [1, 2]),
        ("split", "weights", {"m:1": -1}),
        ("split", "weights", {"m:1": 0, "m:2": 0}),
        ("split", "weights", {"m:1": "1"}),
        ("split", "weights", {"m:1": float("nan")}),
        ("split", "weights", {"m:1": float("inf")}),
        ("split", "weights", {"m:1": 10**400}),
        ("split", "weights", {"m:1": 1e-300}),
        ("split", "weights", {"m:1": 1e18}),
        ("split", "weights", {"m:9": 1}),
        ("split", "weights", {"": 1}),
        ("split", "sticky_key", "header:"),
        ("split", "sticky_key", "header:a b"),
        ("split", "sticky_key", "header:ä"),
        ("split", "sticky_key", "cookie"),
        ("split", "sticky_key", 1),
        ("shadow", "share", 1.5),
        ("shadow", "share", -0.1),
        ("shadow", "share", True),
        ("shadow", "primary", "m:9"),
        ("shadow", "primary", 1),
        ("epsilon_greedy", "epsilon", 2),
        ("epsilon_greedy", "epsilon", None),
        ("epsilon_greedy", "loss", "hinge"),
        ("epsilon_greedy", "loss", {}),
        ("thompson", "contextual", 1),
        ("exp3", "eta", 0),
        ("exp3", "gamma", 1.1),
        ("exp4", "confidence_threshold", float("nan")),
        ("exp4", "scale", 0),
        ("ensemble", "combination", "median"),
    ],
    ids=str,
)
def test_errors_name_the_option(name: str, option: str, value: object) -> None:
    options: dict[str, Any] = {**NEEDED.get(name, {}), option: value}
    with pytest.raises(PolicyError, match=f"'{option}'") as caught:
        read_policy(name, options, ARMS)
    assert caught.value.option == option


@pytest.mark.parametrize("name", POLICIES)
def test_an_unknown_option_is_an_error_that_names_the_others(name: str) -> None:
    options = {**NEEDED.get(name, {}), "colour": 1}
    with pytest.raises(PolicyError, match=f"'{name}' has no option 'colour'. It takes ") as caught:
        read_policy(name, options, arms_for(name))
    assert caught.value.option == "colour"


def test_an_unknown_policy_is_an_error_that_names_all() -> None:
    with pytest.raises(PolicyError, match="'best' is no selection policy. Use one of single, split") as caught:
        read_policy("best", {}, ARMS)
    assert caught.value.option == ""


def test_a_missing_option_is_an_error() -> None:
    with pytest.raises(PolicyError, match="'shadow' needs the option 'primary': the model that answers"):
        read_policy("shadow", {}, ARMS)


@pytest.mark.parametrize(
    ("name", "count", "text"),
    [
        ("single", 2, "at most 1 linked model"),
        ("split", 0, "at least 1 linked model"),
        ("shadow", 1, "at least 2 linked model"),
        ("exp3", MAX_ARMS + 1, f"at most {MAX_ARMS} linked model"),
    ],
)
def test_a_wrong_number_of_arms_is_an_error(name: str, count: int, text: str) -> None:
    arms = [f"m:{number}" for number in range(count)]
    with pytest.raises(PolicyError, match=text):
        read_policy(name, {"primary": "m:0"} if name == "shadow" else {}, arms)
