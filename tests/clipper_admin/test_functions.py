"""Tests of the errors that test_predict_function finds."""

import functools
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from clipper_admin import ClipperConnection, ClipperException, functions, rehearsal
from tests.clipper_admin.fakes import FakeContainerManager
from tests.waiting import wait_for

PATIENCE_SECONDS = 20.0
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
    assert conn.test_predict_function(BATCH, lambda xs: [sum(x) for x in xs], "doubles") == [3.0, 7.0]
    ragged = {"input_batch": [[1], [2, 3]]}
    assert conn.test_predict_function(ragged, lambda xs: [len(x) for x in xs], "ints") == [1, 2]


@pytest.mark.parametrize("returned", [("a", "b"), ["a", "b"], np.array(["a", "b"])])
def test_sequences_are_taken(returned: Any, conn: ClipperConnection) -> None:
    result = conn.test_predict_function(BATCH, lambda xs: returned, "doubles")
    assert type(result) is type(returned) and list(result) == ["a", "b"]


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("ab", "returned str"),
        (None, "returned NoneType"),
        ({"a": 1}, "returned dict"),
        (["a"], "returned 1 outputs for 2 inputs"),
        (np.zeros((3, 2)), "returned 3 outputs for 2 inputs"),
        (np.float64(1.0), "returned numpy.float64"),
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


@pytest.mark.parametrize(
    ("output", "complaint"),
    [({1, 2}, "of type set"), (b"x", "of type bytes"), ([float("inf")], "an infinity"), ({(1,): 2}, "a key of type")],
)
def test_output_that_cannot_be_answered(output: Any, complaint: str, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match=f"lambda>': an output .*{complaint}"):
        conn.test_predict_function({"input": [1.0]}, lambda xs: [output], "doubles")


async def coroutine(xs: Any) -> Any:
    return [1 for _ in xs]


async def stream(xs: Any) -> Any:
    yield 1


def generate(xs: Any) -> Any:
    yield from xs


class Awaited:
    async def __call__(self, xs: Any) -> Any:
        return [1 for _ in xs]

    async def predict(self, xs: Any) -> Any:
        return [1 for _ in xs]


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (coroutine, r"test_functions.py, line \d+\) is an 'async def'"),
        (functools.partial(coroutine), "is an 'async def'"),
        (Awaited(), r"test_functions.py, line \d+\) is an 'async def'"),
        (Awaited().predict, "is an 'async def'"),
        (stream, "is an asynchronous generator"),
        (generate, "is a generator"),
        (Awaited, "is a class"),
        (map, "is a class"),
    ],
)
def test_what_never_returns_outputs_is_refused_at_once(function: Any, complaint: str, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match=complaint):
        conn.test_predict_function(BATCH, function, "doubles")
    with pytest.raises(ClipperException, match=complaint):
        functions.check_function(function, ["inputs"])


def test_classes_that_are_lists_of_outputs(conn: ClipperConnection) -> None:
    assert len(conn.test_predict_function(BATCH, list, "doubles")) == 2


# --- queries ---


@pytest.mark.parametrize(
    "query",
    [
        BATCH,
        '{"input_batch": [[1.0, 2.0], [3.0, 4.0]]}',
        [{"input": [1.0, 2.0]}, {"input": [3.0, 4.0]}],
        '[{"input": [1.0, 2.0]}, {"input": [3.0, 4.0]}]',
        [{"input_batch": [[1.0, 2.0]]}, {"input": [3, 4]}],
        {"input_batch": np.array([[1.0, 2.0], [3.0, 4.0]])},
    ],
)
def test_queries(query: Any, conn: ClipperConnection) -> None:
    assert conn.test_predict_function(query, lambda xs: [float(sum(x)) for x in xs], "doubles") == [3.0, 7.0]


def test_missing_values(conn: ClipperConnection) -> None:
    query = {"input": [None, 1, float("nan")]}
    count = conn.test_predict_function(query, lambda xs: np.isnan(xs).sum(axis=1), "floats")
    assert count.tolist() == [2]


# --- a process of its own ---


def test_it_is_the_process_of_a_container(conn: ClipperConnection, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemError")  # beside the notebook, not beside the container
    monkeypatch.chdir(tmp_path)
    where = {"input": "x"}
    (asked,) = conn.test_predict_function(where, lambda xs: [f"{os.getpid()} {os.getcwd()}"], "strings")
    pid, folder = asked.split(" ", 1)
    assert int(pid) != os.getpid() and folder != str(tmp_path)
    assert not Path(folder).exists(), "nothing is left behind"


def test_what_it_prints_is_shown(conn: ClipperConnection, capsys: pytest.CaptureFixture[str]) -> None:
    def chatty(xs: Any) -> list[int]:
        print("seen", len(xs))
        return [1 for _ in xs]

    assert conn.test_predict_function(BATCH, chatty, "doubles") == [1, 1]
    assert capsys.readouterr().out == "seen 2\n"


def test_a_process_that_dies(conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match="was ended by signal SIGKILL in a process of its own"):
        conn.test_predict_function(BATCH, lambda xs: os.kill(os.getpid(), 9), "doubles")


def leaving(xs: Any) -> list[int]:
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    return [subprocess.Popen(program).pid for _ in xs]


def test_processes_that_the_function_leaves_are_ended(conn: ClipperConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    (pid,) = conn.test_predict_function({"input": [1.0]}, leaving, "doubles")
    assert time.monotonic() - began < PATIENCE_SECONDS
    wait_until_gone(pid)


def test_a_function_that_takes_too_long_is_ended(
    conn: ClipperConnection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def endless(xs: Any) -> Any:
        import time

        where.write_text(str(leaving(xs)[0]))
        time.sleep(600)

    where = tmp_path / "pid"
    monkeypatch.setattr(rehearsal, "REHEARSAL_SECONDS", 3.0)
    with pytest.raises(ClipperException, match="'.*endless' did not return within 3 seconds"):
        conn.test_predict_function({"input": [1.0]}, endless, "doubles")
    wait_until_gone(int(where.read_text()))


def wait_until_gone(pid: int) -> None:
    """Return when a process has ended; it may be a zombie still, whose parent does not look."""
    wait_for(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        "the process has ended",
    )


def test_state_of_this_interpreter_does_not_help(conn: ClipperConnection, monkeypatch: Any) -> None:
    monkeypatch.setattr(np, "set_by_the_notebook", 1, raising=False)
    with pytest.raises(ClipperException, match="has no attribute 'set_by_the_notebook'"):
        conn.test_predict_function(BATCH, lambda xs: [np.set_by_the_notebook for _ in xs], "doubles")  # type: ignore[attr-defined]


def test_it_says_what_a_client_gets_otherwise(conn: ClipperConnection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for same in ([1.5, "x"], [[1], {"a": None}], np.array([1, 2]), ((1, 2), (3, 4))):
        conn.test_predict_function(BATCH, lambda xs, same=same: same, "doubles")
        assert "A client gets" not in caplog.text
    assert conn.test_predict_function({"input": [1.0]}, lambda xs: [None], "doubles") == [None]
    assert 'A client gets "None" where the function returned None' in caplog.text


# --- functions that expect a list ---


def truth(xs: Any) -> Any:
    return [1 for _ in xs] if xs else []


def arithmetic(xs: Any) -> Any:
    return [len(x) for x in xs + [np.zeros(3)]][:2]


def appending(xs: Any) -> Any:
    xs.append(1)


def checking(xs: Any) -> Any:
    assert isinstance(xs, list)


@pytest.mark.parametrize("function", [truth, arithmetic, appending, checking])
def test_a_function_that_expects_a_list(function: Any, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match=r"test_functions.py, line \d+.*deploy it with inputs='list'"):
        conn.test_predict_function(BATCH, function, "doubles")


def branching(xs: Any) -> Any:
    return ["list" if isinstance(xs, list) else "array" for _ in xs]


def test_a_function_that_asks_for_a_list_and_runs(conn: ClipperConnection, caplog: pytest.LogCaptureFixture) -> None:
    assert conn.test_predict_function(BATCH, branching, "doubles", inputs="list") == ["list", "list"]
    assert conn.test_predict_function({"input": "x"}, branching, "strings") == ["list"]
    assert "inputs=" not in caplog.text
    assert conn.test_predict_function(BATCH, branching, "doubles") == ["array", "array"]
    line = branching.__code__.co_firstlineno + 1
    assert f"'branching' asks in line {line} whether its inputs are a list." in caplog.text


def test_outputs_as_text(conn: ClipperConnection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert conn.test_predict_function({"input": [1.0]}, lambda xs: [{"a": None}], "doubles", outputs="text")
    assert "A client gets \"{'a': None}\" where the function returned {'a': None}" in caplog.text
    with pytest.raises(ClipperException, match="outputs='yaml'.*'json' or 'text'"):
        conn.test_predict_function(BATCH, describe, "doubles", outputs="yaml")


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
