"""Tests of how the result of a function becomes outputs."""

from array import array
from typing import Any

import numpy as np
import pytest

from clipper_containers.function_container import FunctionContainer
from clipper_containers.prediction import PredictionError


def texts(result: Any, num_inputs: int) -> list[str]:
    return FunctionContainer(lambda inputs: result).predict_doubles([None] * num_inputs)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([1, "a"], ["1", "a"]),
        ((1.5, None), ["1.5", "None"]),
        (np.array([1, 2]), ["1", "2"]),
        (np.array(["a", "b"]), ["a", "b"]),
        ([True, np.bool_(False)], ["True", "False"]),
        ([[1, 2], {"a": 1}], ["[1, 2]", "{'a': 1}"]),
        ([[np.float64(0.1)], (np.float32(0.1),)], ["[0.1]", "(0.1,)"]),
    ],
)
def test_each_element_as_text(result: Any, expected: list[str]) -> None:
    assert texts(result, 2) == expected


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, 1e16, 123456789.123456789, -0.0, float("inf")])
def test_floats_round_trip(value: float) -> None:
    for result in ([value], [np.float64(value)], np.array([value])):
        assert float(texts(result, 1)[0]) == value
    single = np.float32(value)
    assert np.float32(texts([single], 1)[0]) == single


def test_rows_of_an_array_are_exact_and_complete() -> None:
    row = np.random.default_rng(1).random(2000)
    (text,) = texts(np.array([row]), 1)
    assert np.array_equal(np.array(text.strip("[]").split(), dtype=float), row)
    assert "\n" not in text


class FrameLike:
    """As a pandas object: an array underneath, iteration that says something else."""

    ndim = 2

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self._rows)

    def __iter__(self) -> Any:
        return iter(["column"])


def test_array_likes_give_their_rows() -> None:
    assert texts(FrameLike([[1], [2]]), 2) == ["[1]", "[2]"]


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (None, "NoneType"),
        ("ab", "str"),
        (b"ab", "bytes"),
        ({1: 2, 3: 4}, "dict"),
        ({1, 2}, "set"),
        (3, "int"),
        (np.float64(3), "numpy.float64"),
        (np.array(3), "an array without dimensions"),
        (map(str, [1, 2]), "map"),
        (array("i", [1, 2]), "array.array"),
    ],
)
def test_what_is_no_result(result: Any, name: str) -> None:
    with pytest.raises(PredictionError) as error:
        texts(result, 2)
    assert str(error.value) == (f"the function returned {name}, not a list, tuple or array with one output per input")


@pytest.mark.parametrize("result", [[1], (1, 2, 3), np.zeros(3)])
def test_a_wrong_length_says_both(result: Any) -> None:
    with pytest.raises(PredictionError, match=f"returned {len(result)} outputs for 2 inputs"):
        texts(result, 2)


@pytest.mark.parametrize("kind", ["ints", "floats", "doubles", "bytes", "strings"])
def test_serves_every_input_type(kind: str) -> None:
    container = FunctionContainer(lambda inputs: inputs)
    assert getattr(container, f"predict_{kind}")([1]) == ["1"]
