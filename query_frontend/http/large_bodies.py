"""Large bodies of prediction requests, decoded step by step, so that none of the steps keeps the event loop for long.

The plain shapes of large bodies are known here: numbers, a text in Base64 or a string, alone or in a batch, as the
first key of the body. The general parser in `schemas` decodes all others, in a process of its own: see `decoder`.
"""

import io
import re
import struct
from array import array
from collections.abc import Callable, Generator, Iterator
from math import inf
from typing import Any, Final

from clipper_common import base64text, jsontext
from clipper_common.constants import MAX_INPUTS_PER_REQUEST
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from clipper_common.long_work import Steps
from query_frontend.http.schemas import Asked
from query_frontend.simd import simdjson_parser

PIECE_BYTES: Final = 1 << 16
"""The part of a body that is decoded in one step."""
_STEP_INPUTS: Final = 64
"""No more inputs of a batch are decoded in one step, however small they are."""
_MAX_REST_BYTES: Final = 1 << 10
"""The most that may follow the inputs in a body, such as the version."""
_SEARCHED_BYTES: Final = 1 << 20
"""The part of a body that is searched in one step."""
_BLANK: Final = re.compile(rb"[ \t\r\n]{0,256}")
_START: Final = re.compile(rb'B\{B"(input|input_batch)"B:B'.replace(b"B", _BLANK.pattern))
_WIDE: Final = struct.Struct("96d")
_NARROW: Final = struct.Struct("96f")
_MAX_CHARACTER_BYTES: Final = 4
_LONG_TEXT_BYTES: Final = 1 << 12
"""Longer text is worth a parser that makes no object of it, which takes a fifth of the time."""
_MAX_BEGUN_BYTES: Final = 1 << 10
"""The most that is carried from one piece to the next: the beginning of a number, with the blanks around it."""
_SIGNS: Final = bytes(0xFF if byte & 0x80 else 0 for byte in range(256))
"""The bytes that extend an integer to a longer one, by its highest byte."""
_CODES: Final = {InputType.INTS: "i", InputType.FLOATS: "d", InputType.DOUBLES: "d"}
"""The type that simdjson makes of numbers: whole ones of 64 bits, or doubles."""

Span = tuple[bytes, int, int]
"""A part of the body, and where an input begins and ends in it."""


class _NotPlainError(Exception):
    """The body has another shape, or something is wrong with it. Only the general parser can tell."""


def decode(parts: list[bytes], input_type: InputType) -> Steps[Asked | None]:
    """Yield after each step; return what the body holds, or None if that is for the general parser to say.

    The body comes in parts, each of `PIECE_BYTES` at least but for the last. It may be left as a single one.
    """
    try:
        return (yield from _decode(parts, input_type))
    except (_NotPlainError, JsonError, ValueError, OverflowError, TypeError, RuntimeError):  # some are of simdjson
        return None


def _decode(parts: list[bytes], input_type: InputType) -> Generator[None, None, Asked]:
    start = _START.match(parts[0])
    if start is None:
        raise _NotPlainError
    if start[1] == b"input":
        value, rest = yield from _only_value(parts, start.end(), input_type)
        return _asked([value], rest, start[1])
    body = yield from _joined(parts)
    inputs, end = yield from _values(body, start.end(), input_type)
    return _asked(inputs, body[end : end + _MAX_REST_BYTES + 1], start[1])


def _only_value(parts: list[bytes], at: int, input_type: InputType) -> Generator[None, None, tuple[bytes, bytes]]:
    """The only input, and what follows it in the body."""
    opening, closing = _quotes(input_type)
    if parts[0][at : at + 1] != opening:
        raise _NotPlainError
    *before, last = parts
    if before and len(last) <= _MAX_REST_BYTES:
        last = before.pop() + last
    begin = 0 if before else at + 1
    end = last.find(closing, max(begin, len(last) - _MAX_REST_BYTES - 1))  # if one is before that, it is in a piece
    if end < 0:
        raise _NotPlainError
    spans = [(part, 0, len(part)) for part in before] + [(last, 0, end)]
    spans[0] = (spans[0][0], at + 1, spans[0][2])
    return (yield from _encoded(spans, input_type)), last[end + 1 :]


def _joined(parts: list[bytes]) -> Generator[None, None, bytes]:
    if len(parts) > 1:
        body = _room_for(sum(map(len, parts)))
        parts.reverse()
        while parts:
            body.write(parts.pop())
            yield
        parts.append(body.getvalue())
    return parts[0]


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
        if at - decoded_at > PIECE_BYTES or not len(inputs) % _STEP_INPUTS:
            decoded_at = at
            yield


def _value(body: bytes, at: int, input_type: InputType) -> Generator[None, None, tuple[bytes, int]]:
    """Return one input, and where it ends."""
    opening, closing = _quotes(input_type)
    if body[at : at + 1] != opening:
        raise _NotPlainError
    end = yield from _find(body, closing, at + 1)
    return (yield from _encoded([(body, at + 1, end)], input_type)), end + 1


def _quotes(input_type: InputType) -> tuple[bytes, bytes]:
    return (b"[", b"]") if input_type in _CODES else (b'"', b'"')


def _encoded(spans: list[Span], input_type: InputType) -> Generator[None, None, bytes]:
    """The input whose text is in `spans`."""
    size = sum(end - at for _, at, end in spans)
    if size == 0:  # no model can answer that
        raise _NotPlainError
    if input_type in _CODES:
        return (yield from _numbers(spans, size, input_type))
    if input_type is InputType.BYTES:
        return (yield from _base64(spans, size))
    return (yield from _string(spans, size))


def _find(body: bytes, closing: bytes, at: int) -> Generator[None, None, int]:
    while (end := body.find(closing, at, at + _SEARCHED_BYTES)) < 0:
        at += _SEARCHED_BYTES
        if at >= len(body):
            raise _NotPlainError
        yield
    return end


def _room_for(size: int) -> io.BytesIO:
    """A buffer that is handed out without a copy once all of its bytes are written, and whose memory is allocated as
    they are."""
    return io.BytesIO(bytes(size))


def _pieces(spans: list[Span], cut: Callable[[bytes, int, int], int], skipped: int = 0) -> Iterator[bytes]:
    """The text in `spans`, in pieces. Each ends where `cut` says, and `skipped` bytes follow that are in none."""
    (data, at, end), *others = spans
    if not others and end - at <= PIECE_BYTES:
        yield data[at:end]
        return
    begun = b""
    for data, at, end in spans:
        for begin in range(at, end, PIECE_BYTES):
            stop = min(begin + PIECE_BYTES, end)
            if (cut_at := cut(data, begin, stop)) > begin:
                yield begun + data[begin:cut_at]
                begun, begin = b"", cut_at + skipped
            begun += data[begin:stop]
            if len(begun) > _MAX_BEGUN_BYTES:
                raise _NotPlainError
    yield begun


def _numbers(spans: list[Span], size: int, input_type: InputType) -> Generator[None, None, bytes]:
    parser = simdjson_parser()
    if parser is None:
        raise _NotPlainError
    value: io.BytesIO | None = None
    for numbers in _pieces(spans, _last_comma, len(b",")):
        text = b"[%b]" % numbers
        if text.find(b"[", 1) > 0:  # simdjson would flatten it
            raise _NotPlainError
        piece = _in_size(bytes(parser.parse(text).as_buffer(of_type=_CODES[input_type])), input_type)
        if not piece:  # two commas in a row, or one at the end
            raise _NotPlainError
        if value is None:
            if len(numbers) == size:
                return piece
            value = _room_for(len(piece) * size // len(numbers) * 65 // 64)  # for all, if the others are as long
        value.write(piece)
        yield
    assert value is not None
    value.truncate()
    return value.getvalue()


def _last_comma(data: bytes, begin: int, stop: int) -> int:
    return data.rfind(b",", begin, stop)


def _in_size(numbers: bytes, input_type: InputType) -> bytes:
    """Return the numbers in the size that the model takes. Raises OverflowError for one that is too large for it."""
    if input_type is InputType.INTS:
        return _in_32_bits(numbers)
    if input_type is InputType.FLOATS:
        return _in_single_precision(numbers)
    return numbers


def _in_single_precision(numbers: bytes) -> bytes:
    """Doubles as floats, in small groups: the memory of a hundred numbers is used again and again."""
    whole = len(numbers) // _WIDE.size * _WIDE.size
    groups = [_NARROW.pack(*group) for group in _WIDE.iter_unpack(numbers[:whole])]
    rest = (len(numbers) - whole) // 8
    groups.append(struct.pack(f"{rest}f", *struct.unpack_from(f"{rest}d", numbers, whole)))
    floats = b"".join(groups)
    exponents = floats[3::4]
    if (b"\x7f" in exponents or b"\xff" in exponents) and inf in map(abs, array("f", floats)):
        raise OverflowError
    return floats


def _in_32_bits(numbers: bytes) -> bytes:
    """Integers of 64 bits in 32 bits, by slicing: `array` makes an object of each to convert it."""
    signs = numbers[3::8].translate(_SIGNS)
    if not signs == numbers[4::8] == numbers[5::8] == numbers[6::8] == numbers[7::8]:
        raise OverflowError
    return array("i", numbers)[::2].tobytes()


def _base64(spans: list[Span], size: int) -> Generator[None, None, bytes]:
    value = _room_for(size * 3 // 4)
    for text in _quartets(spans):
        if value.tell() % 3:  # there was padding, and more follows
            raise _NotPlainError
        value.write(base64text.decode_strictly(text))
        yield
    value.truncate()
    return value.getvalue()


def _quartets(spans: list[Span]) -> Iterator[bytes | memoryview]:
    """The text in `spans`, padded, in pieces of whole quartets. Only the last, and those of two spans, are copied."""
    begun = b""
    for data, at, end in spans:
        if begun:
            first = at
            at = min(first + 4 - len(begun), end)
            begun += data[first:at]
            if len(begun) < 4:
                continue
            yield begun
        stop = end - (end - at) % 4
        view = memoryview(data)
        for begin in range(at, stop, PIECE_BYTES):
            yield view[begin : min(begin + PIECE_BYTES, stop)]
        begun = data[stop:end]
    if begun:
        yield begun + b"=" * (-len(begun) % 4)


def _string(spans: list[Span], size: int) -> Generator[None, None, bytes]:
    """Text without escapes is the same outside JSON, if it is well-formed."""
    parser = simdjson_parser() if size > _LONG_TEXT_BYTES else None
    check: Callable[[bytes], object] = jsontext.parse if parser is None else parser.parse
    value = _room_for(size)
    for text in _pieces(spans, _last_character):
        if b"\\" in text or b'"' in text:
            raise _NotPlainError
        check(b'["%b"]' % text)
        value.write(text)
        yield
    return value.getvalue()


def _last_character(data: bytes, begin: int, stop: int) -> int:
    """Return where the last character begins whose first byte is there; `begin` if there is none."""
    for at in range(stop - 1, max(begin, stop - _MAX_CHARACTER_BYTES), -1):
        if data[at] & 0xC0 != 0x80:
            return at
    return begin


def _asked(inputs: list[bytes], rest: bytes, key: bytes) -> Asked:
    """The request with these inputs, and with the keys behind them."""
    if len(rest) > _MAX_REST_BYTES or b'"input' in rest or b"\\" in rest:  # there may be other inputs
        raise _NotPlainError
    fields: dict[str, Any] = jsontext.parse(b'{"%b":null%b' % (key, rest))
    if not isinstance(fields.get("version"), str | None):
        raise _NotPlainError
    return Asked.of(inputs, fields)


def _skip_blank(body: bytes, at: int) -> int:
    found = _BLANK.match(body, at)
    return found.end() if found else at
