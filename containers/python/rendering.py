"""Renders the outputs of a function as the texts that clients get.

A string is the answer as it is. A number, a boolean and None become their ``str()``, as in Clipper 0.4. Dictionaries,
lists, tuples and arrays become strict JSON, in which NaN is null. An exception fails its input, and so does an output
of any other type, with the name of that type. With the setting ``outputs="text"``, and for models that were saved
without a setting, each output becomes its ``str()``.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from clipper_common.modeldir import JSON_OUTPUTS, TEXT_OUTPUTS

from .prediction import PredictionError, type_name

# An array inside a result is written in full, with numbers in Python's notation, by every version of numpy.
_EXACT: Final[dict[str, Any]] = {"threshold": sys.maxsize, "linewidth": sys.maxsize, "floatmode": "unique"}
if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
    _EXACT["legacy"] = "1.25"

_SCALARS: Final = frozenset({str, bool, int, float, np.int32, np.int64, np.float32, np.float64})
"""Types whose text is the same in all settings, and does not depend on numpy's print options."""
_NUMBERS: Final = (int, float, complex, Decimal, np.number, np.bool_)
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_JSON_KINDS: Final = "biufcUO"
"""The kinds of numpy types whose elements JSON can represent; for objects it depends on the element."""
_STRING: Final = frozenset({str})
_LEAVES: Final = frozenset({str, int, float, bool, type(None)})
_KEYS: Final = (str, int, float, bool, type(None))

Render = Callable[[Sequence[Any]], list[Any]]
"""Returns a text for each output, or the exception for which there is none."""


class OutputError(TypeError):
    """An output is of a type, or contains a value, that an answer cannot represent."""


def elements(result: Any) -> Sequence[Any]:
    """Return the outputs in the result of a function. Raises `PredictionError` if it is no list, tuple or array."""
    if isinstance(result, list | tuple):
        return result
    array = _as_array(result)
    if array is not None and array.ndim:
        return array  # type: ignore[no-any-return]
    what = "an array without dimensions" if isinstance(result, np.ndarray) else type_name(result)
    raise PredictionError(f"the function returned {what}, not a list, tuple or array with one output per input")


def renderer(outputs: str) -> Render:
    """Return the function that renders outputs with a setting."""
    return {JSON_OUTPUTS: _as_json, TEXT_OUTPUTS: _as_text}[outputs]


def _as_text(outputs: Sequence[Any]) -> list[Any]:
    if _SCALARS.issuperset(map(type, outputs)):
        return list(map(str, outputs))
    with np.printoptions(**_EXACT):
        return _each(str, outputs)


def _as_json(outputs: Sequence[Any]) -> list[Any]:
    if _SCALARS.issuperset(map(type, outputs)):
        return list(map(str, outputs))
    return _each(_render, outputs)


def _each(render: Callable[[Any], str], outputs: Sequence[Any]) -> list[Any]:
    try:
        return list(map(render, outputs))
    except Exception:  # at least one of them cannot be rendered
        return [_attempt(render, output) for output in outputs]


def _attempt(render: Callable[[Any], str], output: Any) -> str | Exception:
    try:
        return render(output)
    except Exception as error:
        return error


def _render(output: Any) -> str:
    if output is None or (isinstance(output, _NUMBERS) and not isinstance(output, np.timedelta64)):
        return str(output)
    if isinstance(output, str):
        return str.__str__(output)
    if isinstance(output, Exception):
        raise output
    if isinstance(output, dict | list | tuple):
        return _dumps(output)
    array = _as_array(output)
    if array is None:
        raise OutputError(_refusal(output))
    if array.ndim == 0 and not _has_fields(array):
        return _render(_scalar(array))
    return _dumps(_listed(array))


def _dumps(value: Any) -> str:
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError):  # it contains values that Python's encoder does not support
        value = _plain(value, 0)
        text = _encode(value)
    _check_keys(value)
    return text


def _check_keys(value: Any) -> None:
    """Raise `OutputError` if two keys of a dictionary, such as 1 and "1", would be the same in JSON."""
    unseen = [value]
    while unseen:
        items = unseen.pop()
        if isinstance(items, dict):
            if not _STRING.issuperset(map(type, items)):
                _check_distinct([key if isinstance(key, str) else _encode(key) for key in items])
            items = items.values()
        if not _LEAVES.issuperset(map(type, items)):
            unseen += [item for item in items if isinstance(item, dict | list | tuple)]


def _check_distinct(names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OutputError(f'an output holds a dictionary with two keys that are "{twice}" in JSON')


_MAX_DEPTH: Final = 200


def _plain(value: Any, depth: int) -> Any:
    """Return `value` with types that JSON can represent. Raises `OutputError` if there are none."""
    if depth > _MAX_DEPTH:
        raise OutputError("an output is nested too deeply, or holds itself")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | Decimal | np.floating):
        return _finite(value)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    array = _as_array(value)
    if array is None:
        raise OutputError(_refusal(value))
    if array.ndim == 0 and not _has_fields(array):
        return _plain(_scalar(array), depth + 1)
    return _plain(_listed(array), depth + 1)


def _finite(value: Any) -> float | None:
    """Return the number with the digits of its text, None for NaN. Raises `OutputError` if JSON cannot represent it."""
    number = float(str(value)) if isinstance(value, np.floating) else float(value)
    if isinstance(value, Decimal) and value.is_finite() and Decimal(repr(number)) != value:
        raise OutputError(f"an output holds the Decimal {value}, which no double is: return str() of it")
    if math.isinf(number):
        raise OutputError("an output holds an infinity, which JSON has not: replace it, or return str() of the output")
    return None if math.isnan(number) else number


def _key(key: Any) -> Any:
    plain = key.item() if isinstance(key, np.generic) else key
    if not isinstance(plain, _KEYS):
        raise OutputError(f"an output holds a dictionary with a key of type {type_name(key)}, where JSON has strings")
    if isinstance(plain, float) and not math.isfinite(plain):
        raise OutputError(f"an output holds a dictionary with the key {plain}, which JSON has not")
    return plain


def _as_array(value: Any) -> Any:
    """Return an array, a tensor or a data frame as a numpy array; None for any other value."""
    if isinstance(value, np.ma.MaskedArray):
        return value
    if not hasattr(value, "__array__"):
        return None
    if hasattr(value, "detach"):  # a PyTorch tensor, which may be on a GPU, or part of a graph
        value = value.detach().cpu()
    return np.asarray(value) if _is_of_one_type(value) else _rows(value)


def _is_of_one_type(value: Any) -> bool:
    return not hasattr(value, "columns") or len({str(kind) for kind in getattr(value, "dtypes", ())}) < 2


def _rows(frame: Any) -> Any:
    """Return the rows of a pandas or polars frame whose columns have different types, as an array of objects."""
    rows = list(frame.itertuples(index=False, name=None) if hasattr(frame, "itertuples") else frame.iter_rows())
    array = np.empty((len(rows), len(frame.columns)), object)
    for index, row in enumerate(rows):
        array[index, :] = row
    return array


def _has_fields(array: Any) -> bool:
    return array.dtype.names is not None


def _scalar(array: Any) -> Any:
    """Return the value of an array without dimensions; None if it is masked."""
    if np.ma.is_masked(array):
        return None
    if array.dtype.kind not in _JSON_KINDS:
        raise OutputError(_refusal(array[()]))
    return array[()] if array.dtype.kind == "f" else array.item()


def _listed(array: Any) -> Any:
    """Return the elements of an array as nested lists, and structured elements as dictionaries."""
    if _has_fields(array):
        return [_listed(row) for row in array] if array.ndim else {name: array[name] for name in array.dtype.names}
    if array.dtype.kind not in _JSON_KINDS:
        raise OutputError(f"an output is an array of {array.dtype}, which JSON has not: return their str()")
    if array.dtype.kind == "f" and array.dtype != np.float64:  # keep the digits that identify a number in its own type
        exact = np.ma.getdata(array).astype(str).astype(np.float64)
        array = np.ma.array(exact, mask=array.mask) if np.ma.isMaskedArray(array) else exact
    return array.tolist()


def _refusal(value: Any) -> str:
    return (
        f"an output is of type {type_name(value)}: it should be a string, a number, None, or a dictionary, list, tuple "
        "or array of these. Return str() of it, or deploy with outputs='text'"
    )
