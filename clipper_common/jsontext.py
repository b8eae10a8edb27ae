"""Parses and writes JSON, with the error texts of Clipper 0.4."""

import json
from math import isinf
from typing import Any, Final

import orjson

from clipper_common.datatypes import escape
from clipper_common.errors import JsonError

_loads: Final = orjson.loads  # called for every query
_SHOWN_CHARACTERS: Final = 16
_MAX_INT_CHARACTERS: Final = 400
"""The longest integer literal that is parsed: no double has more digits."""
_TYPE_NAMES: Final = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}


def parse(body: bytes) -> Any:
    """Return the JSON value in `body`. Raises `JsonError`, which says where it is malformed."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        rest = error.doc[error.pos : error.pos + _SHOWN_CHARACTERS]
        raise JsonError(f"JSON parse error: {error.msg} (offset {error.pos})\n", rest) from None


def parse_with_missing(body: bytes) -> Any:
    """Parse like `parse`, but accept the numbers ``NaN``, ``Infinity`` and ``-Infinity``, which strict JSON lacks."""
    try:
        text = body.decode()
        value = json.loads(text, parse_float=_finite_float, parse_int=_short_int)
        if "\\ud" in text.lower():  # an unpaired surrogate is not text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise JsonError(f"JSON parse error: {error}\n") from None
    return value


def _finite_float(literal: str) -> float:
    """Return the number. Raises ValueError for a literal that is too large for a double."""
    number = float(literal)
    if isinf(number):
        raise ValueError(f"number out of range: {literal[:40]}")
    return number


def _short_int(literal: str) -> int:
    if len(literal) > _MAX_INT_CHARACTERS:
        raise ValueError(f"number out of range: {literal[:40]}...")
    return int(literal)


def parse_object(body: bytes, otherwise: str = "JSON schema invalid") -> dict[str, Any]:
    """Return the JSON object in `body`. Raises `JsonError`, with the text `otherwise` if it is not an object."""
    value = parse(body)
    if not isinstance(value, dict):
        raise JsonError(otherwise)
    return value


def type_name(value: object) -> str:
    """Return the name of the JSON type of `value` in Clipper 0.4's error texts."""
    if isinstance(value, bool):
        return "True" if value else "False"
    return _TYPE_NAMES[type(value)]


def type_mismatch(key: str, expected: str, value: object) -> JsonError:
    # The missing blank is in Clipper 0.4, too, whose texts are kept.
    return JsonError(f"Type mismatch! JSON key {key} expected type {expected}but found type {type_name(value)}")


def embed(output: bytes) -> bytes:
    """Return `output` as a JSON value: unchanged if it is strict JSON, otherwise as a JSON string."""
    try:
        _loads(output)
    except orjson.JSONDecodeError:
        return orjson.dumps(output.decode(errors="replace"))
    return output


def dumps(value: object) -> bytes:
    return orjson.dumps(value)


def dumps_escaped(value: object) -> bytes:
    """Write like `dumps`, with control and bidirectional characters, which old names may have, as JSON escapes."""
    text = orjson.dumps(value)
    return text if text.isascii() and b"\x7f" not in text else escape(text.decode()).encode()
