"""Tests of one answer of several outputs, and of the loss of an output."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.errors import JsonError
from clipper_common.selection_policies import Combination, Loss
from query_frontend.selection.combining import combine, mean, vote
from query_frontend.selection.losses import check_label, loss_of

ARMS = ("a", "b", "c")
EQUAL = dict.fromkeys(ARMS, 1 / 3)
OUTPUTS = st.dictionaries(
    st.sampled_from(ARMS), st.sampled_from([b"1", b"1.0", b"-2e3", b"cat", b'"cat"', b"null", b"true", b"", b"1e400"])
)


@given(OUTPUTS, st.sampled_from(list(Combination)), st.integers(0, 5))
def test_confidence_is_a_share_and_the_order_of_outputs_does_not_matter(
    outputs: dict[str, bytes], combination: Combination, seed: int
) -> None:
    found = combine(combination, 1.0, EQUAL, outputs)
    assert 0 <= found.confidence <= 1
    assert (found.output is None) <= (found.confidence == 0)
    turned = list(outputs.items())
    Random(seed).shuffle(turned)
    assert combine(combination, 1.0, EQUAL, dict(turned)) == found


@given(OUTPUTS, st.sampled_from(ARMS))
def test_a_vote_with_an_output_more_has_no_less_confidence(outputs: dict[str, bytes], arm: str) -> None:
    fewer = {name: output for name, output in outputs.items() if name != arm}
    assert vote(EQUAL, outputs).confidence >= vote(EQUAL, fewer).confidence - 1e-12


@pytest.mark.parametrize(
    ("outputs", "output", "confidence"),
    [
        ({"a": b"1", "b": b"2", "c": b"2"}, b"2", 2 / 3),
        ({"a": b"1", "b": b"1.0", "c": b"2"}, b"1", 2 / 3),
        ({"a": b"1", "b": b"2", "c": b"3"}, b"1", 1 / 3),
        ({"c": b"cat"}, b"cat", 1 / 3),
        ({"a": b"true", "b": b"1", "c": b"x"}, b"true", 1 / 3),
        ({"d": b"1"}, None, 0),
        ({}, None, 0),
    ],
    ids=["majority", "equal numbers", "a tie", "others late", "a boolean is no number", "not an arm", "none"],
)
def test_votes(outputs: dict[str, bytes], output: bytes | None, confidence: float) -> None:
    assert vote(EQUAL, outputs) == (output, pytest.approx(confidence), EQUAL)


@pytest.mark.parametrize(
    ("outputs", "output", "confidence"),
    [
        ({"a": b"1", "b": b"2", "c": b"3"}, b"2.0", 1 / 3),
        ({"a": b"1", "b": b"1.0", "c": b"1e0"}, b"1.0", 1),
        ({"a": b"1", "b": b"2"}, b"1.5", 1 / 3),
        ({"a": b"1", "b": b"cat", "c": b"null"}, b"1.0", 1 / 3),
        ({"a": b"cat"}, None, 0),
    ],
    ids=["three", "all agree", "one late", "those that are no numbers", "no number"],
)
def test_means(outputs: dict[str, bytes], output: bytes | None, confidence: float) -> None:
    found = mean(1.0, EQUAL, outputs)
    assert (None if found.output is None else float(found.output)) == pytest.approx(output and float(output))
    assert found.confidence == pytest.approx(confidence)


def test_arms_without_weight_have_no_part() -> None:
    weights = {"a": 0.0, "b": 1.0, "c": 0.0}
    assert vote(weights, {"a": b"1", "c": b"1"}).output is None
    assert mean(1.0, weights, {"a": b"1", "b": b"5"}).output == b"5.0"


@pytest.mark.parametrize(
    ("loss", "label", "output", "expected"),
    [
        (Loss.ZERO_ONE, 3, b"3", 0),
        (Loss.ZERO_ONE, 3, b"3.0", 0),
        (Loss.ZERO_ONE, 3, b"4", 1),
        (Loss.ZERO_ONE, "cat", b"cat", 0),
        (Loss.ZERO_ONE, "cat", b'"cat"', 0),
        (Loss.ZERO_ONE, "cat", b"dog", 1),
        (Loss.ZERO_ONE, "3", b"3", 0),
        (Loss.ZERO_ONE, True, b"1", 1),
        (Loss.ZERO_ONE, True, b"true", 0),
        (Loss.ZERO_ONE, None, b"null", 0),
        (Loss.ZERO_ONE, [1, 2], b"[1, 2]", 0),
        (Loss.ABSOLUTE, 3, b"5", 0.2),
        (Loss.ABSOLUTE, 3, b"50", 1),
        (Loss.ABSOLUTE, 3, b"cat", 1),
        (Loss.ABSOLUTE, 3, b"true", 1),
        (Loss.SQUARED, 3, b"5", 0.04),
        (Loss.SQUARED, -3, b"1e308", 1),
        (Loss.GIVEN, 0.25, b"cat", 0.25),
    ],
    ids=str,
)
def test_losses(loss: Loss, label: object, output: bytes, expected: float) -> None:
    check_label(loss, label)
    assert loss_of(loss, 10.0, label, output) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "label", "text"),
    [
        (Loss.ABSOLUTE, "3", "'absolute' needs a finite number"),
        (Loss.SQUARED, None, "'squared' needs a finite number"),
        (Loss.SQUARED, True, "'squared' needs a finite number"),
        (Loss.GIVEN, [0.5], "'given' needs a finite number"),
        (Loss.GIVEN, 1.5, "from 0 to 1"),
        (Loss.GIVEN, -0.1, "from 0 to 1"),
        (Loss.GIVEN, float("nan"), "needs a finite number"),
        (Loss.SQUARED, float("inf"), "needs a finite number"),
        (Loss.ABSOLUTE, 10**400, "needs a finite number"),
    ],
    ids=lambda each: f"{each}"[:20],
)
def test_labels_of_a_wrong_type_are_errors(loss: Loss, label: object, text: str) -> None:
    with pytest.raises(JsonError, match=text):
        check_label(loss, label)
