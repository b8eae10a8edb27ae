"""Large bodies of prediction requests, decoded step by step, so that none of the steps keeps the event loop for long.

This knows the plain shapes of what is large: numbers, a text in Base64 or a string, alone or in a batch, as the first
key of the body. Everything else is for the general parser in `schemas`, in a process of its own: see `decoder`.
"""

import binascii
import io
import re
from array import array
from collections.abc import Generator
from math import inf
from typing import Any, Final

from clipper_common import jsontext
from clipper_common.constants import MAX_INPUTS_PER_REQUEST
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from query_frontend.schemas import simdjson_parser

PIECE_BYTES: Final = 1 << 16
"""The part of a body that is decoded in one step."""
_MAX_REST_BYTES: Final = 1 << 10
"""The most that may follow the inputs in a body: the version, if there is one."""
_START: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"(input|input_batch)"[ \t\r\n]*:[ \t\r\n]*')
_BLANK: Final = re.compile(rb"[ \t\r\n]*")
_CODES: Final = {InputType.INTS: "i", InputType.FLOATS: "d", InputType.DOUBLES: "d"}
"""The type that simdjson makes of numbers: whole ones of 64 bits, or doubles."""

Inputs = tuple[list[bytes], str | None]
"""The inputs as they go to the model, and the version that is asked for."""
Steps = Generator[None, None, Inputs | None]


class _NotPlainError(Exception):
    """The body has another shape, or something is wrong with it. Only the general parser can tell."""


def decode(body: bytes, input_type: InputType) -> Steps:
    """Yield after each step; return what the body holds, or None if that is for the general parser to say."""
    try:
        return (yield from _decode(body, input_type))
    except (_NotPlainError, JsonError, ValueError, OverflowError, TypeError, RuntimeError):  # some are of simdjson
        return None


def _decode(body: bytes, input_type: InputType) -> Generator[None, None, Inputs]:
    start = _START.match(body)
    if start is None:
        raise _NotPlainError
    if start[1] == b"input":
        value, end = yield from _value(body, start.end(), input_type)
        inputs = [value]
    else:
        inputs, end = yield from _values(body, start.end(), input_type)
    return inputs, _version(body[end : end + _MAX_REST_BYTES + 1], start[1])


def _values(body: bytes, at: int, input_type: InputType) -> Generator[None, None, tuple[list[bytes], int]]:
    """The inputs of a batch, and where it ends."""
    separator = b"["
    inputs: list[bytes] = []
    decoded_at = at
    while True:
        if body[at : at + 1] != separator or len(inputs) == MAX_INPUTS_PER_REQUEST:
            raise _NotPlainError
        value, at = yield from _value(body, _skip_blank(body, at + 1), input_type)
        inputs.append(value)
        at = _skip_blank(body, at)
        if body[at : at + 1] == b"]":
            return inputs, at + 1
        separator = b","
        if at - decoded_at > PIECE_BYTES:
            decoded_at = at
            yield


def _value(body: bytes, at: int, input_type: InputType) -> Generator[None, None, tuple[bytes, int]]:
    """One input, and where it ends."""
    opening, closing = (b"[", b"]") if input_type in _CODES else (b'"', b'"')
    end = body.find(closing, at + 1)
    if body[at : at + 1] != opening or end < 0:
        raise _NotPlainError
    if input_type in _CODES:
        value = yield from _numbers(body, at + 1, end, input_type)
    elif input_type is InputType.BYTES:
        value = yield from _base64(body, at + 1, end)
    else:
        value = yield from _string(body, at + 1, end)
    if not value:  # no model can answer that
        raise _NotPlainError
    return value, end + 1


def _numbers(body: bytes, at: int, end: int, input_type: InputType) -> Generator[None, None, bytes]:
    if body.find(b"[", at, end) >= 0:  # simdjson would flatten it
        raise _NotPlainError
    value = io.BytesIO()  # it hands out its buffer, where to join pieces would be one long step
    parser = simdjson_parser()
    if parser is None:
        raise _NotPlainError
    while True:
        cut = end if end - at <= PIECE_BYTES else body.find(b",", at + PIECE_BYTES, end)
        cut = end if cut < 0 else cut
        piece = _in_size(parser.parse(b"[%b]" % body[at:cut]).as_buffer(of_type=_CODES[input_type]), input_type)
        if not piece:  # two commas in a row, or one at the end
            raise _NotPlainError
        value.write(piece)
        if cut == end:
            return value.getvalue()
        at = cut + 1
        yield


def _in_size(numbers: Any, input_type: InputType) -> bytes:
    """The numbers in the size that goes to the model. Raises OverflowError for what is beyond it."""
    if input_type is InputType.DOUBLES:
        return bytes(numbers)
    wide = memoryview(numbers)
    if input_type is InputType.INTS:
        return array("i", wide.cast("B").cast("q")).tobytes()
    floats = array("f", wide.cast("B").cast("d"))
    if inf in floats or -inf in floats:
        raise OverflowError
    return floats.tobytes()


def _base64(body: bytes, at: int, end: int) -> Generator[None, None, bytes]:
    value = io.BytesIO()
    while end - at > PIECE_BYTES:
        piece = binascii.a2b_base64(body[at : at + PIECE_BYTES], strict_mode=True)
        if len(piece) < PIECE_BYTES // 4 * 3:  # it has padding, and more follows
            raise _NotPlainError
        value.write(piece)
        at += PIECE_BYTES
        yield
    last = body[at:end]
    value.write(binascii.a2b_base64(last + b"=" * (-len(last) % 4), strict_mode=True))
    return value.getvalue()


def _string(body: bytes, at: int, end: int) -> Generator[None, None, bytes]:
    """Text without escapes is the same outside JSON, if it is well-formed."""
    start = at
    if body.find(b"\\", at, end + 1) >= 0:
        raise _NotPlainError
    while at < end:
        cut = min(at + PIECE_BYTES, end)
        while cut < end and body[cut] & 0xC0 == 0x80:  # in the middle of a character
            cut -= 1
        jsontext.parse(b'"%b"' % body[at:cut])
        at = cut
        yield
    return body[start:end]


def _version(rest: bytes, key: bytes) -> str | None:
    """The version that is asked for behind the inputs."""
    if len(rest) > _MAX_REST_BYTES or b'"input' in rest or b"\\" in rest:  # there may be other inputs
        raise _NotPlainError
    fields: dict[str, Any] = jsontext.parse(b'{"%b":null%b' % (key, rest))
    version = fields.get("version")
    if not isinstance(version, str | None):
        raise _NotPlainError
    return version


def _skip_blank(body: bytes, at: int) -> int:
    found = _BLANK.match(body, at)
    return found.end() if found else at
