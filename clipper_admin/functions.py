"""Prediction functions: whether they survive pickling, and what a container would make of their results."""

import inspect
import math
import traceback
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from clipper_admin import culprits, pickling
from clipper_common import base64text
from clipper_common.datatypes import InputType, to_model_inputs
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction


def try_function(query: Any, func: PredictFunction, kind: InputType) -> list[str]:
    """What a container would answer if it served `func` and were asked `query`.

    Raises ClipperException that says what is wrong with the function or the query.
    """
    inputs = [_encode(value, kind) for value in _inputs_of(query)]
    copy = _reload(func)
    try:
        outputs = copy(to_model_inputs(kind, inputs))
    except (Exception, SystemExit) as error:
        raise ClipperException(f"{_name(func)} raised {_describe(error, func)}") from error
    return _check_outputs(outputs, len(inputs), func)


def save(func: PredictFunction, file: IO[bytes]) -> set[str]:
    """Pickle `func`. Returns the packages that it needs. Raises ClipperException that says what cannot be pickled."""
    try:
        return pickling.dump(func, file)
    except Exception as error:
        raise _not_picklable(func, error) from error


def check_function(func: object, arguments: Sequence[str]) -> None:
    """Raise ClipperException unless `func` can be called with these arguments."""
    call = f"func({', '.join(arguments)})"
    if not callable(func):
        raise ClipperException(f"Invalid value: func={func!r}. It should be a function that is called as {call}.")
    try:
        signature = inspect.signature(func)
    except ValueError:  # a built-in function that does not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ClipperException(
            f"Invalid value: func. {_name(func)} takes {signature}, and it will be called as {call}: {error}."
        ) from None


def _not_picklable(func: PredictFunction, error: Exception) -> ClipperException:
    if isinstance(error, ClipperException):
        return error
    culprit = next((f" because of {what}" for what in culprits.unpicklable_parts(func)), "")
    return ClipperException(
        f"{_name(func)} cannot be pickled{culprit}: {type(error).__name__}: {error}. "
        "Create what cannot be pickled inside the function, or load it from a file there."
    )


def _reload(func: PredictFunction) -> PredictFunction:
    check_function(func, ["inputs"])
    try:
        copy: PredictFunction = pickling.reload(func)
    except Exception as error:
        raise _not_picklable(func, error) from error
    return copy


# --- inputs ---


def _inputs_of(query: Any) -> list[Any]:
    if isinstance(query, Mapping) and "input" in query:
        return [query["input"]]
    inputs = query.get("input_batch") if isinstance(query, Mapping) else None
    if not isinstance(inputs, Sequence) or isinstance(inputs, str) or not inputs:
        raise ClipperException(
            f'Invalid value: query={query!r}. It should be {{"input": <one input>}} or {{"input_batch": [<inputs>]}}.'
        )
    return list(inputs)


def _encode(value: Any, kind: InputType) -> bytes:
    """`value` as it travels to a container."""
    try:
        return _ENCODERS.get(kind, _encode_numbers)(value, kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise ClipperException(
            f"The input {value!r} is not of type {kind.canonical_name}, which takes {_EXPECTED[kind]}: {error}"
        ) from error


def _encode_numbers(value: Any, kind: InputType) -> bytes:
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"a {type(value).__name__} is no list")
    if kind is not InputType.INTS:  # a missing value is NaN
        value = [math.nan if item is None else item for item in value]
    return array(kind.typecode, value).tobytes()


def _encode_string(value: Any, kind: InputType) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} is no text")
    return value.encode()


def _encode_bytes(value: Any, kind: InputType) -> bytes:
    if isinstance(value, str):
        return base64text.decode(value)
    return bytes(value) if isinstance(value, list) else memoryview(value).tobytes()


_ENCODERS: Mapping[InputType, Callable[[Any, InputType], bytes]] = {
    InputType.STRINGS: _encode_string,
    InputType.BYTES: _encode_bytes,
}
_EXPECTED = {
    InputType.BYTES: "bytes, a text in Base64, or a list of numbers from 0 to 255",
    InputType.INTS: "a list of whole numbers of 32 bits",
    InputType.FLOATS: "a list of numbers",
    InputType.DOUBLES: "a list of numbers",
    InputType.STRINGS: "a text",
}


# --- outputs ---


def _check_outputs(outputs: Any, num_inputs: int, func: PredictFunction) -> list[str]:
    if not isinstance(outputs, (list, tuple)) and not getattr(outputs, "ndim", 0):  # an array with elements
        raise ClipperException(
            f"{_name(func)} returned a {type(outputs).__name__}. "
            "It should return a list, tuple or array with one output per input."
        )
    if len(outputs) != num_inputs:
        raise ClipperException(
            f"{_name(func)} returned {len(outputs)} outputs for {num_inputs} inputs. It should return one per input."
        )
    try:
        return [str(output) for output in outputs]
    except Exception as error:
        raise ClipperException(f"{_name(func)} returned what str() cannot take: {_describe(error, func)}") from error


def _describe(error: BaseException, func: PredictFunction) -> str:
    """Type, message, and the innermost line of the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own_file = getattr(getattr(func, "__code__", None), "co_filename", None)
    frame = next((frame for frame in reversed(frames) if frame.filename == own_file), frames[-1])
    place = f"{frame.filename}, line {frame.lineno}" + (f": {frame.line}" if frame.line else "")
    return f"{type(error).__name__}: {error} ({place})"


def _name(func: PredictFunction) -> str:
    return f"The function '{getattr(func, '__qualname__', type(func).__name__)}'"
