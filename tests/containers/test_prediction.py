"""Outputs and errors of a batch, without a connection."""

import asyncio
import logging
from typing import Any

import numpy as np
import pytest

from clipper_common.datatypes import InputType
from clipper_common.wire import PredictRequest, Response
from clipper_containers.prediction import BatchReport, Predictor, describe


def answer(predict: Any, inputs: list[str]) -> Response:
    request = PredictRequest(7, InputType.STRINGS, [text.encode(errors="surrogateescape") for text in inputs])
    return Predictor(predict, InputType.STRINGS).answer(request, 0.0)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (["1"], "the model returned 1 outputs for 2 inputs"),
        (["1", "2", "3"], "the model returned 3 outputs for 2 inputs"),
        (None, "the model returned NoneType, not a list of str"),
        (("1", "2"), "the model returned tuple, not a list of str"),
        (np.zeros(2), "the model returned numpy.ndarray, not a list of str"),
        (["1", 2], "output 1 of the model is int, not str"),
        ([b"1", "2"], "output 0 of the model is bytes, not str"),
        (["1", np.float64(2)], "output 1 of the model is numpy.float64, not str"),
    ],
)
def test_a_wrong_result_fails_all_and_is_not_tried_again(result: Any, text: str) -> None:
    calls = []
    response = answer(lambda inputs: calls.append(inputs) or result, ["a", "b"])
    assert response == Response(7, [f"PredictionError: {text}".encode()] * 2, [True, True])
    assert len(calls) == 1


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), MemoryError(), RecursionError("deep"), asyncio.CancelledError()]
)
def test_nothing_that_a_model_raises_ends_the_process(error: BaseException) -> None:
    def predict(inputs: list[str]) -> list[str]:
        raise error

    response = answer(predict, ["a", "b"])
    assert response.failed == [True, True]
    assert response.outputs[0].startswith(type(error).__name__.encode())


def test_each_input_is_tried_again_once() -> None:
    calls: list[list[str]] = []

    def predict(inputs: list[str]) -> list[str]:
        calls.append(inputs)
        raise ValueError(inputs[0])

    assert answer(predict, ["a", "b"]).outputs == [b"ValueError: a", b"ValueError: b"]
    assert calls == [["a", "b"], ["a"], ["b"]]
    calls.clear()
    assert answer(predict, ["a"]).outputs == [b"ValueError: a"]
    assert calls == [["a"]]


def test_the_second_try_sees_the_inputs_unchanged() -> None:
    def predict(inputs: Any) -> list[str]:
        inputs += 1
        if len(inputs) > 1:
            raise ValueError
        return [str(item.sum()) for item in inputs]

    request = PredictRequest(7, InputType.DOUBLES, [np.float64([1]).tobytes(), np.float64([2]).tobytes()])
    assert Predictor(predict, InputType.DOUBLES).answer(request, 0.0).outputs == [b"2.0", b"3.0"]


def test_malformed_inputs_fail_alone() -> None:
    response = answer(lambda inputs: list(inputs), ["a", "\udcff"])
    assert response.failed == [False, True]
    assert response.outputs[1].startswith(b"UnicodeDecodeError: ")
    request = PredictRequest(7, InputType.INTS, [b"123", b"1234"])
    response = Predictor(lambda inputs: ["1"] * len(inputs), InputType.INTS).answer(request, 0.0)
    assert response.failed == [True, False]


def test_an_output_that_is_no_text_fails_alone() -> None:
    response = answer(lambda inputs: ["\ud800" if text == "bad" else text for text in inputs], ["a", "bad"])
    assert response.failed == [False, True]


def test_an_exception_in_the_place_of_an_output_fails_its_input_without_another_call() -> None:
    calls: list[list[str]] = []

    def predict(inputs: list[str]) -> list[Any]:
        calls.append(inputs)
        return [ValueError("no words") if not text.split() else text for text in inputs]

    assert answer(predict, ["a", " ", "b"]) == Response(7, [b"a", b"ValueError: no words", b"b"], [False, True, False])
    assert len(calls) == 1


def test_the_traceback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def predict(inputs: list[str]) -> list[str]:
        raise ValueError("why")

    with caplog.at_level(logging.ERROR):
        answer(predict, ["a", "b", "c"])
    assert "failed on 3 of 3 inputs" in caplog.text
    assert caplog.text.count("Traceback") == 1


def test_describe() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(ValueError("é")) == "ValueError: é".encode()
    assert describe(ValueError()) == b"ValueError"
    assert describe(Mute()) == b"Mute: (its text cannot be made)"
    assert describe(ValueError("\ud800")) == b"ValueError: ?"
    assert len(describe(ValueError("x" * 100_000))) == 2000


def test_reports_times_in_order() -> None:
    reports: list[BatchReport] = []

    def predict(inputs: list[str]) -> list[str]:
        raise ValueError

    request = PredictRequest(7, InputType.STRINGS, [b"a", b"b"])
    Predictor(predict, InputType.STRINGS, reports.append).answer(request, 0.0)
    (report,) = reports
    times = [report.received_at, report.parsing_at, report.predicting_at, report.done_at]
    assert times == sorted(times)
    assert (report.inputs, report.errors) == (2, 2)
