"""Tests of how `rendering` turns each kind of value into an output."""

import datetime
import decimal
import enum
import json
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

from clipper_common.datatypes import InputType
from clipper_common.jsontext import embed
from clipper_common.modeldir import FunctionSettings
from clipper_common.wire import PredictRequest
from clipper_containers import rendering
from clipper_containers.function_container import FunctionContainer, InputList
from clipper_containers.prediction import Predictor
from clipper_containers.rendering import OutputError

Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1


class Word(str, enum.Enum):  # noqa: UP042  (a StrEnum has another str())
    YES = "yes"


class Tensor:
    """As one of PyTorch: on a device, and part of a graph."""

    def __init__(self, array: Any, where: str = "gpu") -> None:
        self._array, self._where = array, where

    def detach(self) -> "Tensor":
        return Tensor(self._array, "detached")

    def cpu(self) -> "Tensor":
        assert self._where == "detached"
        return Tensor(self._array, "cpu")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        assert self._where == "cpu"
        return self._array


class Frame:
    """As one of pandas: columns, each of a type of its own."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns
        self.columns = list(columns)
        self.dtypes = [column.dtype for column in columns.values()]

    def iter_rows(self) -> Any:
        return zip(*self._columns.values(), strict=True)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.stack(list(self._columns.values()), axis=1)


def render(output: Any) -> str:
    (text,) = rendering.renderer("json")([output])
    if isinstance(text, Exception):
        raise text
    embed(text.encode())
    return str(text)


FIELDS = np.dtype([("name", "U4"), ("score", "f4"), ("box", "i4", (2,))])


@pytest.mark.parametrize(
    ("output", "text"),
    [
        # strings, numbers and None: as in 0.4
        ("text", "text"),
        ('{"a": 1}', '{"a": 1}'),
        (np.str_("text"), "text"),
        (Word.YES, "yes"),
        (True, "True"),
        (np.bool_(False), "False"),
        (None, "None"),
        (7, "7"),
        (2**80, str(2**80)),
        (0.1, "0.1"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float32(0.1), "0.1"),
        (np.uint8(5), "5"),
        (1 + 2j, "(1+2j)"),
        (decimal.Decimal("1.10"), "1.10"),
        # a single value in an array or tensor
        (np.array(3), "3"),
        (np.array(0.1, np.float32), "0.1"),
        (np.array(True), "True"),
        (Tensor(np.array(1)), "1"),
        (np.array("text"), "text"),
        (np.ma.masked, "None"),
        # JSON
        ([1, 2], "[1, 2]"),
        ((1.5, None, True), "[1.5, null, true]"),
        (Point(1, 2), "[1, 2]"),
        ({"a": [1, {"b": None}]}, '{"a": [1, {"b": null}]}'),
        (OrderedDict(b=1, a=2), '{"b": 1, "a": 2}'),
        ({1: "a", None: "b", False: "c"}, '{"1": "a", "null": "b", "false": "c"}'),
        ({np.int64(3): np.float32(0.1)}, '{"3": 0.1}'),
        (["é", "\u2028", '"'], '["é", "\u2028", "\\""]'),
        ([np.float64(0.1), np.float32(0.1), np.int8(1), np.bool_(True)], "[0.1, 0.1, 1, true]"),
        ([float("nan"), np.float32("nan")], "[null, null]"),
        ([2**80, 2**53 + 1], f"[{2**80}, {2**53 + 1}]"),
        ([decimal.Decimal("0.1"), decimal.Decimal("1.10"), decimal.Decimal("NaN")], "[0.1, 1.1, null]"),
        ([Word.YES], '["yes"]'),
        ([], "[]"),
        ({}, "{}"),
        # arrays
        (np.array([1.5, np.nan]), "[1.5, null]"),
        (np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (np.array([0.1, 16777217.0], np.float32), "[0.1, 16777216.0]"),
        (np.array([0.1], np.float16), "[0.1]"),
        (np.array([2**64 - 1], np.uint64), f"[{2**64 - 1}]"),
        (np.array([True, False]), "[true, false]"),
        (np.array(["a", "b"]), '["a", "b"]'),
        (np.array([{"a": np.int64(1)}, None, [np.nan]], dtype=object), '[{"a": 1}, null, [null]]'),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), "[1, null, 3]"),
        (np.ma.array([1.5, 2.5], mask=[1, 0]), "[null, 2.5]"),
        (np.ma.array([0.1, 0.2], np.float32, mask=[0, 1]), "[0.1, null]"),
        (np.ma.array([0.1, 0.2], np.float32), "[0.1, 0.2]"),
        (np.array([]), "[]"),
        (Tensor(np.array([[0.5]], np.float32)), "[[0.5]]"),
        (Frame(a=np.array([2**53 + 1]), b=np.array([0.5])), f"[[{2**53 + 1}, 0.5]]"),
        (Frame(a=np.array([0.25]), b=np.array([0.5])), "[[0.25, 0.5]]"),
        ([Tensor(np.array(1)), np.array(2)], "[1, 2]"),
        (np.array([("a", 0.1, (1, 2))], FIELDS), '[{"name": "a", "score": 0.1, "box": [1, 2]}]'),
        (np.array([("a", 0.1, (1, 2))], FIELDS)[0], '{"name": "a", "score": 0.1, "box": [1, 2]}'),
    ],
)
def test_each_kind_of_output(output: Any, text: str) -> None:
    assert render(output) == text


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (b"bytes", "of type bytes"),
        ({1, 2}, "of type set"),
        (object(), "of type object"),
        (Colour.RED, "of type .*Colour"),
        (range(3), "of type range"),
        ((x for x in ()), "of type generator"),
        (datetime.date(2020, 1, 1), "of type datetime.date"),
        (np.datetime64("2020-01-01"), "of type datetime.date|datetime64"),
        (np.timedelta64(1, "D"), "of type numpy.timedelta64"),
        (np.bytes_(b"x"), "of type numpy.bytes_"),
        (np.array(["2020-01-01"], dtype="datetime64[ns]"), r"array of datetime64\[ns\]"),
        (np.array([b"x"]), r"array of \|S1"),
        ([{1, 2}], "of type set"),
        ({"a": b"x"}, "of type bytes"),
        ({(1, 2): 3}, "a key of type tuple"),
        ({1: "a", "1": "b"}, 'two keys that are "1" in JSON'),
        ([{"a": ({True: 1, "true": 2, "c": np.int8(1)},)}], 'two keys that are "true" in JSON'),
        ({float("nan"): 1}, "the key nan"),
        ([decimal.Decimal(1) / 3], "the Decimal 0.3333333333333333333333333333, which no double is"),
        ([decimal.Decimal("1e400")], "which no double is|an infinity"),
        ([1 + 2j], "of type complex"),
        (np.array([1j]), "of type complex"),
        ([float("inf")], "an infinity"),
        (np.array([np.inf]), "an infinity"),
        ([datetime.date(2020, 1, 1)], "of type datetime.date"),
        (np.array([object()], dtype=object), "of type object"),
    ],
)
def test_everything_else_fails_with_its_type(output: Any, complaint: str) -> None:
    with pytest.raises(OutputError, match=complaint):
        render(output)


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("settings", [FunctionSettings(outputs="json"), FunctionSettings(outputs="text")])
def test_an_output_that_is_no_answer_fails_alone_and_the_function_is_called_once(settings: FunctionSettings) -> None:
    calls: list[int] = []
    outputs = ["a", Unprintable(), "half a surrogate: \ud800", [1]]
    container = FunctionContainer(lambda inputs: calls.append(len(inputs)) or outputs, settings)
    predictor = Predictor(container.predict_strings, InputType.STRINGS)
    response = predictor.answer(PredictRequest(1, InputType.STRINGS, [b"x"] * 4), 0.0)
    assert response.failed == [False, True, True, False]
    assert (response.outputs[0], response.outputs[3]) == (b"a", b"[1]")
    assert response.outputs[1].startswith((b"OutputError: an output is of type ", b"ValueError: no text"))
    assert response.outputs[2].startswith(b"UnicodeEncodeError: ")
    assert calls == [4]


@pytest.mark.parametrize("sequence", [list, tuple, lambda outputs: np.array(outputs, object)])
def test_an_exception_in_the_place_of_an_output_fails_its_input(sequence: Any) -> None:
    error = ValueError("no words")
    container = FunctionContainer(lambda inputs: sequence([1, error, "c"]), FunctionSettings(outputs="json"))
    assert container.predict_strings(["a", "b", "c"]) == ["1", error, "c"]


def test_what_is_nested_deeply() -> None:
    deep: Any = {1: "x", "1": "y"}
    for _ in range(500):
        deep = [deep]
    with pytest.raises(OutputError, match="two keys"):
        render(deep)


def test_what_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(OutputError, match="nested too deeply, or holds itself"):
        render(loop)


def test_json_is_what_the_client_gets() -> None:
    for output in ({"a": [1.5, None]}, np.array([[1, 2]]), ("x", True)):
        assert json.loads(embed(render(output).encode())) == json.loads(render(output))


def test_rows_of_results() -> None:
    container = FunctionContainer(lambda inputs: inputs, FunctionSettings(outputs="json"))
    assert container.predict_doubles(np.array([[1.0, 2.0], [3.0, 4.0]])) == ["[1.0, 2.0]", "[3.0, 4.0]"]
    assert container.predict_doubles(np.ma.array([1, 2], mask=[0, 1])) == ["1", "None"]


def test_models_without_settings_and_those_that_ask_for_it_get_text() -> None:
    for settings in (FunctionSettings(), FunctionSettings(outputs="text")):
        container = FunctionContainer(lambda inputs: inputs, settings)
        assert container.predict_doubles([{"a": None}, [True], b"x"]) == ["{'a': None}", "[True]", "b'x'"]


# --- inputs as a list ---


def test_a_list_of_arrays() -> None:
    rows = np.arange(6.0).reshape(2, 3)
    seen: list[Any] = []
    container = FunctionContainer(lambda xs: seen.append(xs) or [len(x) for x in xs], FunctionSettings(inputs="list"))
    assert container.predict_doubles(rows) == ["3", "3"]
    (xs,) = seen
    assert isinstance(xs, list) and xs and isinstance(xs + [1], list) and len(xs + xs) == 4
    assert all(isinstance(x, np.ndarray) and x.shape == (3,) for x in xs)
    assert np.asarray(xs) is rows
    assert np.array_equal(np.array(xs), rows) and np.array(xs) is not rows
    assert np.asarray(xs, dtype=np.float32).dtype == np.float32
    ragged = [np.zeros(1), np.zeros(2)]
    assert container.predict_doubles(ragged) == ["1", "2"] and seen[-1] is ragged


def test_a_list_that_the_function_changed() -> None:
    xs = InputList(np.arange(4.0).reshape(2, 2))
    xs.append(np.array([9.0, 9.0]))
    assert np.array_equal(np.asarray(xs), [[0, 1], [2, 3], [9, 9]])
    xs = InputList(np.arange(4.0).reshape(2, 2))
    xs.reverse()
    assert np.array_equal(np.asarray(xs), [[2, 3], [0, 1]])
