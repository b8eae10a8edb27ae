"""Traits of inputs, by which those on which a model raises may differ from the others.

A trait is a function of an input that returns a hashable value, or None if it says nothing of this input. It takes some
microseconds, however large the input is.
"""

import json
import math
from collections.abc import Callable, Hashable
from typing import Final

from clipper_common.datatypes import InputType, View

Trait = Callable[[View], Hashable]

_HEAD_BYTES: Final = 4
"""Most formats of files are known by their first four bytes."""
_MOST_BYTES: Final = 4096
"""No more bytes of an input are examined."""


def traits_of(kind: InputType) -> list[Trait]:
    """Return the traits of inputs of a type. The value of the first one is the same for all inputs."""
    return [_existence, _content, len, *_of_type(kind)]


def _of_type(kind: InputType) -> list[Trait]:
    if kind is InputType.STRINGS:
        return [_head, _characters, _json_shape]
    if kind is InputType.BYTES:
        return [_head]
    return [_Extreme(kind, "min"), _Extreme(kind, "max")]


def _existence(item: View) -> Hashable:
    return True


def _content(item: View) -> Hashable:
    return hash(bytes(item)) if len(item) <= _MOST_BYTES else None


def _head(item: View) -> Hashable:
    return bytes(item[:_HEAD_BYTES])


_CLASSES: Final = bytes(
    ord("a") if chr(code).isalpha() else ord("0") if chr(code).isdigit() else code for code in range(128)
) + bytes(128 * [128])
"""Maps bytes to one byte for all letters, one for all digits, and one for all that are not ASCII."""


def _characters(item: View) -> Hashable:
    """Return the classes of the characters of a text."""
    return frozenset(bytes(item[:_MOST_BYTES]).translate(_CLASSES))


def _json_shape(item: View) -> Hashable:
    """Return the names and types of the fields of a JSON object, or the type of another JSON value."""
    if len(item) > _MOST_BYTES:
        return None
    try:
        value = json.loads(bytes(item))
    except (ValueError, RecursionError):
        return "no JSON"
    if isinstance(value, dict):
        return frozenset((name, type(field).__name__) for name, field in value.items())
    return type(value).__name__


class _Extreme:
    """The sign and the magnitude of the least or the greatest number of an input; whether it is NaN or infinite."""

    def __init__(self, kind: InputType, which: str) -> None:
        self._dtype = kind.typecode
        self._most = _MOST_BYTES // kind.element_bytes
        self._which = which

    def __call__(self, item: View) -> Hashable:
        import numpy as np  # a container of strings need not load it

        count = min(len(item) // np.dtype(self._dtype).itemsize, self._most)
        if not count:
            return None
        number = float(getattr(np.frombuffer(item, self._dtype, count), self._which)())
        if not math.isfinite(number):
            return str(number)
        return number > 0, math.frexp(number)[1]
