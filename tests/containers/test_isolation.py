"""The inputs on which a model raises are found in few calls, and the others of their batches are answered in time."""

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


def learned() -> Model:
    """The model has raised on many inputs of three characters."""
    model = Model()
    for _ in range(8):
        model.answer("bad")
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


def test_an_input_of_a_length_that_raised_often_is_kept_apart_from_the_others() -> None:
    model = learned()
    assert model.answer("aa", "bad", "bb").failed == [False, True, False]
    assert model.calls == [["aa", "bb"], ["bad"]]


def test_several_inputs_of_such_a_length_are_tried_once_together() -> None:
    model = learned()
    response = model.answer("bad", "aa", "bad", "bad")
    assert response.failed == [True, False, True, True]
    assert set(response.outputs) == {b"AA", b"ValueError: a bad input"}
    assert model.calls == [["aa"], ["bad", "bad", "bad"], ["bad"]]


def test_a_good_input_does_not_fail_with_bad_ones_of_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model = learned()
    model.answer("aa")
    monkeypatch.setattr(random, "choice", lambda numbers: numbers[1])
    assert model.answer("bad", "ccc", "aa", "bad").failed == [True, False, False, True]


def test_inputs_of_one_length_are_soon_told_apart_by_what_they_are() -> None:
    """The length says nothing if the model's good inputs have it too, although many bad ones came first."""
    model, rng, num_wrong = learned(), random.Random(1), 0
    for _ in range(200):
        inputs = rng.choices(["bad", "ccc"], k=16)
        failed = model.answer(*inputs).failed
        num_wrong += sum(has_failed != (text == "bad") for text, has_failed in zip(inputs, failed, strict=True))
    assert num_wrong <= 16


def test_an_output_frees_a_length_from_suspicion() -> None:
    model = learned()
    assert model.answer("aaa", "bb").failed == [False, False]
    model.calls.clear()
    assert model.answer("aaa", "bb").failed == [False, False]
    assert model.calls == [["aaa", "bb"]]


def test_a_length_is_not_suspected_while_inputs_of_it_are_answered() -> None:
    model = Model()
    for _ in range(20):
        model.answer("bad")
        model.answer("aaa")
    model.calls.clear()
    assert model.answer("aaa", "bad").failed == [False, True]
    assert model.calls[0] == ["aaa", "bad"]


def test_a_model_that_always_raises_is_not_asked_for_each_input() -> None:
    model = Model(lambda text: True)
    assert all(model.answer(*good(64)).failed)
    assert len(model.calls) < 40
    model.calls.clear()
    assert all(model.answer(*good(64)).failed)
    assert len(model.calls) == 2


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


@pytest.mark.parametrize("rate", [500, 2000])
@pytest.mark.parametrize(("share", "least"), [(0.03, 0.97), (0.1, 0.89)])
def test_raising_inputs_cost_the_others_little(rate: int, share: float, least: float) -> None:
    """A call takes 5 ms, also if the model raises; queries must be answered in 50 ms."""
    assert right_in_time(rate, share) > least


def right_in_time(rate: float, share: float, slo: float = 0.05, call_seconds: float = 0.005) -> float:
    """Return the share of queries that have the right answer in time, when a `share` of them makes the model raise."""
    rng, model, sizer = random.Random(1), Model(), LearnedBatchSize()
    num_queries, num_right, now, arrival = 20 * rate, 0, 0.0, 0.0
    coming: deque[tuple[float, str]] = deque()
    for _ in range(int(num_queries)):
        arrival += rng.expovariate(rate)
        coming.append((arrival, "bad" if rng.random() < share else "ok"))
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
            num_right += now <= asked + slo and failed == (text == "bad")
    return num_right / num_queries


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
