"""Checks of prediction functions, and encoding of the inputs with which they are tried."""

import inspect
import json
import logging
import math
import types
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from clipper_admin import bytecode, culprits, pickling, undefined
from clipper_common import base64text, modeldir
from clipper_common.datatypes import InputType
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction


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
    if reason := _never_returns_outputs(func):
        raise ClipperException(f"Invalid value: func. {name_of(func)}{_line_of(func)} {reason}.")
    try:
        signature = inspect.signature(func)
    except ValueError:  # a built-in function without a signature
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ClipperException(
            f"Invalid value: func. {name_of(func)} takes {signature}, and it will be called as {call}: {error}."
        ) from None


def check_settings(inputs: object, outputs: object) -> modeldir.FunctionSettings:
    """Return how a function is called. Raises ClipperException that names an invalid argument."""
    choices = {
        "inputs": (inputs, (modeldir.ARRAY_INPUTS, modeldir.LIST_INPUTS)),
        "outputs": (outputs, (modeldir.JSON_OUTPUTS, modeldir.TEXT_OUTPUTS)),
    }
    for what, (value, allowed) in choices.items():
        if value not in allowed:
            raise ClipperException(f"Invalid value: {what}={value!r}. It should be {' or '.join(map(repr, allowed))}.")
    return modeldir.FunctionSettings(str(inputs), str(outputs))


def check_names(func: PredictFunction, check_modules: bool, logger: logging.LoggerAdapter[Any]) -> None:
    """Raise ClipperException for an undefined name that every call of `func` uses; log those that only some calls use.

    With `check_modules`, modules that it imports and that are not installed are treated the same.
    """
    for missing in undefined.find(func):
        if missing.is_module and not check_modules:
            continue
        what = f"imports the module '{missing.name}'" if missing.is_module else f"uses the name '{missing.name}'"
        nobody = "which is not installed" if missing.is_module else "which is defined nowhere"
        text = f"{name_of(func)} {what} ({missing.file}, line {missing.line}), {nobody}"
        if missing.is_certain:
            raise ClipperException(f"Invalid value: func. {text}: every query would fail.")
        logger.warning("%s: queries that reach this line will fail", text)


def _never_returns_outputs(func: Callable[..., Any]) -> str:
    """Return why a call of `func` does not return a list, tuple or array, if this can be seen without calling it."""
    if inspect.isclass(func):
        is_sequence = issubclass(func, list | tuple) or hasattr(func, "__array__")
        return "" if is_sequence else "is a class, which returns an object of itself: pass an object, or its method"
    called = [func, getattr(type(func), "__call__", None)]  # noqa: B004  (the method, not whether there is one)
    if any(map(inspect.iscoroutinefunction, called)):
        return "is an 'async def', which is not awaited: define it with 'def', and call asyncio.run() in it"
    if any(map(inspect.isasyncgenfunction, called)):
        return "is an asynchronous generator, and not a function that returns the outputs"
    if any(map(inspect.isgeneratorfunction, called)):
        return "is a generator ('yield'): return a list of the outputs"
    return ""


def _line_of(func: Callable[..., Any]) -> str:
    code = getattr(func, "__code__", None) or getattr(getattr(type(func), "__call__", None), "__code__", None)  # noqa: B004
    return f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""


def _not_picklable(func: PredictFunction, error: Exception) -> ClipperException:
    if isinstance(error, ClipperException):
        return error
    return ClipperException(
        f"{name_of(func)} cannot be pickled{culprits.because(func)}: {type(error).__name__}: {error}. "
        "Create what cannot be pickled inside the function, or load it from a file there."
    )


def asks_for_list(func: PredictFunction) -> int:
    """Return the line in which `func` tests whether its inputs are a list; 0 if it does not."""
    code = getattr(func, "__code__", None)
    if not isinstance(code, types.CodeType) or not code.co_argcount:
        return 0
    return bytecode.line_of_type_test(code, code.co_varnames[code.co_argcount - 1], "list")


# --- inputs ---


def encode_query(query: Any, kind: InputType) -> list[bytes]:
    """The inputs in a query (a dictionary, JSON text of it, or a list of these) as they travel to a container."""
    if isinstance(query, str | bytes):
        try:
            query = json.loads(query)
        except ValueError as error:
            raise ClipperException(f"Invalid value: query={query!r}. It is no JSON: {error}") from None
    queries = query if isinstance(query, list | tuple) and query else [query]
    return [_encode(value, kind) for each in queries for value in _inputs_of(each)]


def _inputs_of(query: Any) -> list[Any]:
    if isinstance(query, Mapping) and "input" in query:
        return [query["input"]]
    inputs: Any = query.get("input_batch") if isinstance(query, Mapping) else None
    if isinstance(inputs, str | bytes | Mapping) or not hasattr(inputs, "__len__") or not len(inputs):
        raise ClipperException(
            f'Invalid value: query={query!r}. It should be {{"input": <one input>}} or {{"input_batch": [<inputs>]}}, '
            "JSON text of it, or a list of these."
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


def name_of(func: PredictFunction) -> str:
    """Return the name of a function in errors."""
    return f"The function '{getattr(func, '__qualname__', type(func).__name__)}'"
