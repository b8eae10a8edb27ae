"""What test_predict_function finds out."""

import threading
from typing import Any

import numpy as np
import pytest

from clipper_admin import ClipperConnection, ClipperException
from tests.clipper_admin.fakes import FakeContainerManager

BATCH = {"input_batch": [[1.0, 2.0], [3.0, 4.0]]}


@pytest.fixture
def conn() -> ClipperConnection:
    return ClipperConnection(FakeContainerManager("127.0.0.1:1", "127.0.0.1:1", 1))


def describe(xs: Any) -> list[str]:
    return [f"{type(x).__name__} {getattr(x, 'dtype', '')} {x if isinstance(x, str) else x.tolist()}" for x in xs]


@pytest.mark.parametrize(
    ("value", "input_type", "seen"),
    [
        ([1, 2.5], "doubles", "ndarray float64 [1.0, 2.5]"),
        ([1, 2.5], "floats", "ndarray float32 [1.0, 2.5]"),
        (np.array([1, 2]), "integers", "ndarray int32 [1, 2]"),
        ((1, 2), "i", "ndarray int32 [1, 2]"),
        (b"\x01\xff", "bytes", "ndarray int8 [1, -1]"),
        ("Af8=", "bytes", "ndarray int8 [1, -1]"),
        ("grüezi", "strings", "str  grüezi"),
    ],
)
def test_inputs_are_those_of_a_container(value: Any, input_type: str, seen: str, conn: ClipperConnection) -> None:
    assert conn.test_predict_function({"input": value}, describe, input_type) == [seen]


def test_batch(conn: ClipperConnection) -> None:
    assert conn.test_predict_function(BATCH, lambda xs: [sum(x) for x in xs], "doubles") == ["3.0", "7.0"]
    ragged = {"input_batch": [[1], [2, 3]]}
    assert conn.test_predict_function(ragged, lambda xs: [len(x) for x in xs], "ints") == ["1", "2"]


@pytest.mark.parametrize("returned", [("a", "b"), ["a", "b"], np.array(["a", "b"])])
def test_sequences_are_taken(returned: Any, conn: ClipperConnection) -> None:
    assert conn.test_predict_function(BATCH, lambda xs: returned, "doubles") == ["a", "b"]


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("ab", "returned a str"),
        (None, "returned a NoneType"),
        ({"a": 1}, "returned a dict"),
        (["a"], "returned 1 outputs for 2 inputs"),
        (np.zeros((3, 2)), "returned 3 outputs for 2 inputs"),
        (np.float64(1.0), "returned a float64"),
    ],
)
def test_wrong_result(returned: Any, complaint: str, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match=f"test_wrong_result.*{complaint}"):
        conn.test_predict_function(BATCH, lambda xs: returned, "doubles")


def test_function_that_raises(conn: ClipperConnection) -> None:
    def divide(xs: Any) -> list[str]:
        raise ZeroDivisionError("by nothing")

    line = divide.__code__.co_firstlineno + 1
    with pytest.raises(ClipperException, match=f"divide' raised ZeroDivisionError: by nothing .*line {line}"):
        conn.test_predict_function(BATCH, divide, "doubles")


def test_line_is_the_users_own(conn: ClipperConnection) -> None:
    def reshape(xs: Any) -> Any:
        return np.array(xs).reshape(7, 7)

    line = reshape.__code__.co_firstlineno + 1
    with pytest.raises(ClipperException, match=f"test_functions.py, line {line}"):
        conn.test_predict_function(BATCH, reshape, "doubles")


def test_function_that_cannot_be_pickled(conn: ClipperConnection) -> None:
    lock = threading.Lock()

    def locked(xs: Any) -> list[str]:
        with lock:
            return [""] * len(xs)

    with pytest.raises(ClipperException, match=r"locked' cannot be pickled because of 'lock' \(a _thread.lock\)"):
        conn.test_predict_function(BATCH, locked, "doubles")


def test_object_that_cannot_be_pickled(conn: ClipperConnection) -> None:
    class Model:
        def __init__(self) -> None:
            self.stream = threading.local()

        def __call__(self, xs: Any) -> list[str]:
            return ["" for _ in xs]

    with pytest.raises(ClipperException, match="Model' cannot be pickled because of 'stream'"):
        conn.test_predict_function(BATCH, Model(), "doubles")


def test_output_without_text(conn: ClipperConnection) -> None:
    class Mute:
        def __str__(self) -> str:
            raise ValueError("nothing to say")

    with pytest.raises(ClipperException, match="nothing to say"):
        conn.test_predict_function({"input": [1.0]}, lambda xs: [Mute()], "doubles")


@pytest.mark.parametrize(
    ("query", "input_type", "complaint"),
    [
        ({"input": [1]}, "complex", "input_type='complex'"),
        ({"inputs": [1]}, "doubles", "input_batch"),
        ([1.0], "doubles", "input_batch"),
        ({"input_batch": []}, "doubles", "input_batch"),
        ({"input_batch": "text"}, "strings", "input_batch"),
        ({"input": "1"}, "doubles", "not of type doubles"),
        ({"input": ["1"]}, "floats", "not of type floats"),
        ({"input": [1.5]}, "integers", "not of type integers"),
        ({"input": [2**31]}, "integers", "not of type integers"),
        ({"input": b"1234"}, "integers", "not of type integers"),
        ({"input": 1}, "doubles", "not of type doubles"),
        ({"input": [1]}, "strings", "not of type strings"),
        ({"input": "not base64"}, "bytes", "not of type bytes.*Base64"),
        ({"input": [256]}, "bytes", "not of type bytes.*numbers from 0 to 255"),
        ({"input": "AP-_"}, "bytes", "not of type bytes.*URL-safe"),
        ({"input": [None]}, "integers", "not of type integers"),
    ],
)
def test_wrong_query(query: Any, input_type: str, complaint: str, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match=complaint):
        conn.test_predict_function(query, describe, input_type)


def test_what_is_no_function(conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match="func=3"):
        conn.test_predict_function(BATCH, 3, "doubles")  # type: ignore[arg-type]
