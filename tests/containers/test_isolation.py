"""The inputs on which a model raises are found in few calls, and the others of their batches are answered in time."""

import json
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from clipper_common.datatypes import InputType
from clipper_common.wire import PredictRequest, Response
from clipper_containers.prediction import Predictor
from query_frontend.serving.batching import LearnedBatchSize


class Model:
    """Raises on a batch that has an input for which `is_bad`, and counts its calls."""

    def __init__(self, is_bad: Callable[[str], bool] = lambda text: "bad" in text) -> None:
        self._is_bad = is_bad
        self.calls: list[list[str]] = []
        self._predictor = Predictor(self._predict, InputType.STRINGS)

    def _predict(self, inputs: list[str]) -> list[str]:
        self.calls.append(inputs)
        if any(map(self._is_bad, inputs)):
            raise ValueError("a bad input")
        return [text.upper() for text in inputs]

    def answer(self, *inputs: str) -> Response:
        return self._predictor.answer(PredictRequest(0, InputType.STRINGS, [text.encode() for text in inputs]), 0.0)


def good(number: int = 1) -> list[str]:
    return [f"{index:02}" for index in range(number)]


def learned(failures: int = 3) -> Model:
    """The model has raised on inputs like "bad", and answered others."""
    model = Model()
    for _ in range(failures):
        model.answer("bad")
    model.answer("aa")
    model.calls.clear()
    return model


def test_one_bad_input_is_found_in_halves() -> None:
    model = Model()
    inputs = good(64)
    inputs[37] = "bad"
    response = model.answer(*inputs)
    assert [index for index, failed in enumerate(response.failed) if failed] == [37]
    assert response.outputs[37] == b"ValueError: a bad input"
    assert len(model.calls) <= 1 + 2 * 6
    assert model.calls[-1] != ["bad"] or model.calls.count(["bad"]) == 1


def test_a_half_is_not_tried_as_a_whole_if_the_other_half_worked() -> None:
    model = Model()
    assert model.answer("a", "b", "c", "bad").failed == [False, False, False, True]
    assert model.calls == [["a", "b", "c", "bad"], ["a", "b"], ["c"], ["bad"]]


def test_an_input_like_others_that_failed_is_kept_apart() -> None:
    model = learned()
    assert model.answer("aa", "bad", "bb").failed == [False, True, False]
    assert model.calls == [["aa", "bb"], ["bad"]]


def test_a_suspected_input_that_works_is_answered_and_frees_those_like_it_from_suspicion() -> None:
    model = learned(200)
    assert not any(model.answer("ccc", "aa").failed)
    model.calls.clear()
    assert not any(model.answer("ddd", "aa").failed)
    assert model.calls == [["ddd", "aa"]]


def test_an_input_fails_by_itself_even_if_all_in_its_batch_are_suspected() -> None:
    model = learned(20)
    response = model.answer(*["bad"] * 8, "ccc")
    assert response.failed == [True] * 8 + [False]
    assert set(response.outputs[:8]) == {b"ValueError: a bad input"}


def test_some_of_many_suspected_inputs_are_not_tried_if_none_like_them_has_worked_for_long() -> None:
    model = learned(100)
    response = model.answer(*["bad"] * 12, "aa")
    assert response.failed == [True] * 12 + [False]
    untried = b"UntriedInput: it raised on the last 102 inputs like this one, and was not called with this one"
    assert sorted(response.outputs[:12]) == [untried] * 10 + [b"ValueError: a bad input"] * 2
    assert model.calls == [["aa"], ["bad"], ["bad"]]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
def test_no_good_input_fails_where_nothing_tells_it_from_bad_ones(share: float) -> None:
    rng, bad = random.Random(1), set[str]()
    model = Model(bad.__contains__)
    for _ in range(300):
        inputs = [f"{rng.randrange(10**8):08}" for _ in range(16)]
        bad.update(text for text in inputs if rng.random() < share)
        assert model.answer(*inputs).failed == [text in bad for text in inputs]


def test_where_one_in_ten_fails_few_calls_are_made_for_each_input() -> None:
    """No method needs fewer than 0.47, the entropy of one in ten in bits; one call with each failing input is extra."""
    rng, bad = random.Random(1), set[str]()
    model = Model(bad.__contains__)
    for _ in range(300):
        inputs = [f"{rng.randrange(10**8):08}" for _ in range(20)]
        bad.update(text for text in inputs if rng.random() < 0.1)
        model.answer(*inputs)
    assert len(model.calls) < 0.56 * 300 * 20


def test_batches_are_tried_as_a_whole_again_when_no_input_fails_any_more() -> None:
    rng, bad = random.Random(1), set[str]()
    model = Model(bad.__contains__)
    for share in (0.1, 0.0):
        for _ in range(50):
            inputs = [f"{rng.randrange(10**8):08}" for _ in range(20)]
            bad.update(text for text in inputs if rng.random() < share)
            model.answer(*inputs)
    model.calls.clear()
    model.answer(*good(20))
    assert model.calls == [good(20)]


def test_a_model_that_always_raises_is_not_called_with_each_input() -> None:
    model, rng = Model(lambda text: True), random.Random(1)
    for _ in range(60):
        assert all(model.answer(*(rng.randbytes(rng.randrange(1, 20)).hex() for _ in range(16))).failed)
    model.calls.clear()
    assert all(model.answer(*good(16)).failed)
    assert len(model.calls) == 2


def test_an_error_that_does_not_come_again_fails_no_input() -> None:
    errors = [ValueError("once")]

    def predict(inputs: list[str]) -> list[str]:
        if errors:
            raise errors.pop()
        return inputs

    request = PredictRequest(0, InputType.STRINGS, [b"a", b"b", b"c"])
    assert Predictor(predict, InputType.STRINGS).answer(request, 0.0).outputs == [b"a", b"b", b"c"]


def test_a_wrong_result_of_a_half_is_not_tried_again() -> None:
    def predict(inputs: list[str]) -> Any:
        calls.append(inputs)
        if "bad" in inputs:
            raise ValueError
        return ["1"]

    calls: list[list[str]] = []
    request = PredictRequest(0, InputType.STRINGS, [b"a", b"b", b"c", b"bad"])
    response = Predictor(predict, InputType.STRINGS).answer(request, 0.0)
    assert response.failed == [True, True, False, True]
    assert response.outputs[0] == b"PredictionError: the model returned 1 outputs for 2 inputs"
    assert len(calls) == 4


Make = Callable[[random.Random, bool], str]
"""Makes an input, good or bad."""


def short_or_bad(rng: random.Random, is_bad: bool) -> str:
    return "bad" if is_bad else "ok"


def record(rng: random.Random, is_bad: bool) -> str:
    """Return JSON of any length; a bad one has no age."""
    return json.dumps({"age": None if is_bad else rng.randrange(99), "name": "x" * rng.randrange(1, 60)})


def number(rng: random.Random, is_bad: bool) -> str:
    return f"{rng.randrange(10**8):08}"


@pytest.mark.parametrize("make", [short_or_bad, record])
@pytest.mark.parametrize("rate", [500, 2000])
@pytest.mark.parametrize("share", [0.03, 0.1])
def test_raising_inputs_that_have_something_in_common_cost_the_others_little(
    make: Make, rate: int, share: float
) -> None:
    """A call takes 5 ms, also if the model raises; queries must be answered in 50 ms."""
    assert good_in_time(make, rate, share) > 0.99


@pytest.mark.parametrize(("rate", "least"), [(200, 0.97), (500, 0.55), (1000, 0.27), (2000, 0.13)])
def test_where_nothing_tells_bad_inputs_from_good_ones_overload_does_not_lessen_the_answers(
    rate: int, least: float
) -> None:
    """One in ten of 393 inputs a second can be found with 200 calls: at most 354 good ones are answered."""
    assert good_in_time(number, rate, 0.1) > least


def good_in_time(make: Make, rate: int, share: float, slo: float = 0.05, call_seconds: float = 0.005) -> float:
    """Return the share of good inputs that are answered in time, when a `share` of all inputs makes the model raise.

    Inputs of two seconds, from which it is learned which inputs these are, do not count.
    """
    random.seed(1)
    rng, bad, sizer = random.Random(1), set[str](), LearnedBatchSize()
    model = Model(bad.__contains__)
    num_right, now, arrival = 0, 0.0, 0.0
    coming: deque[tuple[float, str]] = deque()
    for _ in range(8 * rate):
        arrival += rng.expovariate(rate)
        is_bad = rng.random() < share
        coming.append((arrival, make(rng, is_bad)))
        if is_bad:
            bad.add(coming[-1][1])
    num_good = sum(asked > 2.0 and text not in bad for asked, text in coming)
    queue: deque[tuple[float, str]] = deque()
    while coming or queue:
        now = max(now, coming[0][0]) if not queue else now
        while coming and coming[0][0] <= now:
            queue.append(coming.popleft())
        drawn = draw(queue, sizer, now, slo)
        if not drawn:
            continue
        model.calls.clear()
        response = model.answer(*(text for _, text in drawn))
        seconds = call_seconds * len(model.calls)
        sizer.observe(len(drawn), seconds)
        now += seconds
        for (asked, text), failed in zip(drawn, response.failed, strict=True):
            num_right += asked > 2.0 and now <= asked + slo and not failed and text not in bad
    return num_right / num_good


def draw(queue: deque[tuple[float, str]], sizer: LearnedBatchSize, now: float, slo: float) -> list[tuple[float, str]]:
    """Draw a batch as the query frontend does: of those that can be in time, else those with the most time left."""
    most = sizer.choose(0.46 * slo)
    seconds = sizer.expect(min(most, len(queue)))
    alive = [query for query in queue if query[0] + slo > now]
    drawn = [query for query in alive if query[0] + slo > now + seconds][:most] or alive[-most:]
    left = set(map(id, drawn))
    remaining = [query for query in alive if id(query) not in left]
    queue.clear()
    queue.extend(remaining)
    return drawn
