"""Tries a function as a model container would: in a fresh process, by the container's own code."""

import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from clipper_admin import functions
from clipper_common import modeldir
from clipper_common.datatypes import InputType
from clipper_common.errors import ClipperException
from clipper_common.jsontext import embed
from clipper_common.modeldir import FunctionSettings, PredictFunction, Rehearsal

logger = logging.getLogger("clipper_admin")

REHEARSAL_SECONDS: Final = 300.0
_PROGRAM: Final = "clipper_containers.rehearsal"
_OUTPUT_FILE: Final = "output.txt"
_OUTPUT_CHARACTERS: Final = 4000
_RETURNED: Final = re.compile("the (function|model) returned")
_SIGNS_OF_A_LIST: Final = (
    "The truth value of an array",
    "could not be broadcast together",
    "'numpy.ndarray' object has no attribute 'append'",
    "'numpy.ndarray' object has no attribute 'extend'",
    "'numpy.ndarray' object has no attribute 'pop'",
    "'numpy.ndarray' object has no attribute 'index'",
)
"""Messages of numpy for code that treats an array as a list."""


def try_function(query: Any, func: PredictFunction, kind: InputType, settings: FunctionSettings) -> Any:
    """Return the result of `func`, called by `settings`, for `query` in a process of its own.

    Raises ClipperException that says what is wrong with the function or the query.
    """
    inputs = functions.encode_query(query, kind)
    functions.check_function(func, ["inputs"])
    with tempfile.TemporaryDirectory(prefix="clipper-rehearsal-") as temporary:
        folder = Path(temporary)
        with open(folder / modeldir.FUNCTION_FILE, "wb") as file:
            functions.save(func, file)
        modeldir.save_settings(settings, folder)
        report = _run(folder, kind, inputs, func)
        returned = _returned(folder, report)
    name = functions.name_of(func)
    if report.raised:
        raise ClipperException(f"{name} raised {report.raised}{_place(report, func)}{_advice(report.raised, func)}")
    if report.complaint:
        if returned_wrongly := _RETURNED.match(report.complaint):
            raise ClipperException(f"{name} returned{report.complaint[returned_wrongly.end() :]}")
        raise ClipperException(f"{name}: {report.complaint}")
    _warn_of_arrays(func, kind, settings)
    _say_what_differs(report.texts, returned)
    return returned


def _run(folder: Path, kind: InputType, inputs: Sequence[bytes], func: PredictFunction) -> Rehearsal:
    """Run the function on the inputs in a fresh process, which has none of this interpreter's state."""
    (folder / modeldir.BATCH_FILE).write_bytes(pickle.dumps((kind.canonical_name, inputs)))
    name = functions.name_of(func)
    try:
        code = _run_program([sys.executable, "-m", _PROGRAM, str(folder)], folder)
    except subprocess.TimeoutExpired:
        raise ClipperException(f"{name} did not return within {REHEARSAL_SECONDS:.0f} seconds") from None
    report = modeldir.load_rehearsal(folder)
    output = (folder / _OUTPUT_FILE).read_text(errors="replace")
    if report is None:
        raise ClipperException(f"{name} {_ending(code)}:\n{output[-_OUTPUT_CHARACTERS:].strip()}")
    if output:
        print(output, end="")
    return report


def _run_program(command: Sequence[str], folder: Path) -> int:
    """Run a program in the folder, where its output is kept. Returns its exit code; what it started ends with it."""
    with open(folder / _OUTPUT_FILE, "wb") as output:  # a pipe would stay open while child processes run
        process = subprocess.Popen(
            command,
            cwd=folder,  # as a replica: not in the user's folder, whose files it will not have
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(REHEARSAL_SECONDS)
    finally:
        with suppress(ProcessLookupError):  # nothing of the group is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _returned(folder: Path, report: Rehearsal) -> Any:
    """Return the result of the function, or its texts where the result cannot be unpickled here."""
    try:
        return pickle.loads((folder / modeldir.RETURNED_FILE).read_bytes())
    except Exception:  # types of the user may raise anything
        return list(report.texts)


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name} in a process of its own"
    return f"cannot be run in a fresh process (exit code {code})"


def _place(report: Rehearsal, func: PredictFunction) -> str:
    """The innermost line of the user's own code."""
    if not report.frames:
        return ""
    own_file = getattr(getattr(func, "__code__", None), "co_filename", None)
    file, line, text = next((frame for frame in reversed(report.frames) if frame[0] == own_file), report.frames[-1])
    return f" ({file}, line {line}" + (f": {text})" if text else ")")


def _advice(raised: str, func: PredictFunction) -> str:
    """Return advice for a function that expects a list: a batch of equally long inputs is an array."""
    if any(sign in raised for sign in _SIGNS_OF_A_LIST) or functions.asks_for_list(func):
        return ". If it expects a list of arrays, as older documents promise, deploy it with inputs='list'"
    return ""


def _warn_of_arrays(func: PredictFunction, kind: InputType, settings: FunctionSettings) -> None:
    is_array = settings.inputs == modeldir.ARRAY_INPUTS and kind not in (InputType.BYTES, InputType.STRINGS)
    if is_array and (line := functions.asks_for_list(func)):
        logger.warning(
            "%s asks in line %d whether its inputs are a list. Inputs of equal length are an array of two dimensions, "
            "unless it is deployed with inputs='list'",
            functions.name_of(func),
            line,
        )


def _say_what_differs(texts: Sequence[str], returned: Any) -> None:
    """Log the outputs that reach a client as something else than what the function returned."""
    if hasattr(returned, "columns"):  # a frame gives its columns one by one, and not its rows
        return
    for text, output in zip(texts, returned, strict=False):
        shown = json.loads(embed(text.encode(errors="replace")))
        plain = output.tolist() if hasattr(output, "tolist") else output
        try:
            is_same = shown == plain or (isinstance(plain, tuple) and shown == list(plain))
        except Exception:  # an output of the user's own type
            is_same = False
        if is_same is not True:
            logger.info("A client gets %s where the function returned %r", json.dumps(shown), output)
            return
