"""Large outputs of models as JSON values, made step by step, so that none of the steps keeps the event loop for long.

An output is cut into pieces at commas, or within long strings, and each piece is parsed within the brackets that are
open around it. An output that is not JSON becomes a JSON string, piece by piece too.
"""

import codecs
import io
import re
from collections.abc import Generator, Iterator
from typing import Any, Final, NamedTuple

from clipper_common import jsontext
from clipper_common.errors import JsonError
from query_frontend.simd import BYTE_ORDER_MARK, simdjson_parser

PIECE_BYTES: Final = 1 << 14
"""The general parser takes 4 ms for the worst piece of this size, simdjson some microseconds for nearly all."""
_MOST_PIECE_BYTES: Final = 1 << 17
"""The most bytes of a piece without a place to cut it, apart from blanks. Deeper nesting or a longer number is taken
for text."""
_BLANKS: Final = b" \t\r\n"
_LONG_BLANK: Final = re.compile(rb"([ \t\r\n])\1{63,}")
_OPENING: Final = b'[{"'
_NUMBER: Final = b"0123456789+-.eE"
_LONGEST_WORD: Final = len("false")
_STRING: Final = re.compile(rb'"[^"]*"')
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_CLOSING: Final = bytes.maketrans(b"[{", b"]}")
_MOST_DEPTH: Final = 1024
"""No parser goes deeper."""
_ESCAPE_BYTES: Final = 12
"""The length of the longest escape in a string: that of the two halves of a character."""
_HALF_BYTES: Final = 6
_FOLLOWING_BYTES: Final = 3
"""The length of the longest character without its first byte."""
_FIRST_HALF: Final = re.compile(rb"\\u[dD][89abAB]")


class _NoJsonError(Exception):
    """The output is text, as far as the pieces tell."""


class _Piece(NamedTuple):
    """A part of an output, and what it begins and ends in the middle of."""

    text: bytes
    size: int
    """The size of the piece in the output, where it may have more blanks."""
    begins_in_string: bool
    ends_in_string: bool
    is_last: bool

    def whole(self) -> bytes:
        """The piece, with the quotes that belong to strings of which it has a part."""
        return b'"' * self.begins_in_string + self.text + b'"' * self.ends_in_string


class _Open(NamedTuple):
    """The brackets, and perhaps the string, that are open between two pieces."""

    brackets: bytes
    is_key: bool
    """Whether the string that is cut there, if one is, is a key of an object."""


def embed(output: bytes) -> Generator[None, None, bytes]:
    """Return an output as JSON like `jsontext.embed`, after a step for each piece."""
    parser = simdjson_parser()
    now_open = _Open(b"", False)
    try:
        if _is_plainly_text(output):
            raise _NoJsonError
        for piece in _pieces(output):
            if piece is not None:
                now_open = _check(piece, now_open, parser)
            yield
    except _NoJsonError:
        return (yield from _as_string(output))
    return output


def _as_string(output: bytes) -> Generator[None, None, bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = io.BytesIO()  # to join thousands of parts takes long
    text.write(b'"')
    for begin in range(0, len(output), PIECE_BYTES):
        text.write(jsontext.dumps(decoder.decode(output[begin : begin + PIECE_BYTES]))[1:-1])
        yield
    text.write(jsontext.dumps(decoder.decode(b"", final=True))[1:-1] + b'"')
    return text.getvalue()


def _is_plainly_text(output: bytes) -> bool:
    """Whether it is neither an array, an object, a string nor a number, and is longer than any other value in JSON."""
    value = output[:PIECE_BYTES].strip(_BLANKS)
    return value[:1] not in _OPENING and len(value) > _LONGEST_WORD and bool(value.translate(None, _NUMBER))


def _pieces(output: bytes) -> Iterator[_Piece | None]:
    """Yield the pieces, and None where nothing could be cut yet."""
    at, in_string, is_last = 0, False, False
    while not is_last:
        for piece in _next_piece(output, at, in_string):
            yield piece
        assert piece is not None, "it is what comes in the end"
        in_string, is_last = piece.ends_in_string, piece.is_last
        at += piece.size + (not in_string)  # the comma


def _check(piece: _Piece, before: _Open, parser: Any) -> _Open:
    """Return what is open after the piece. Raises `_NoJsonError`."""
    text = piece.whole()
    brackets = _brackets_after(before.brackets, text)
    may_end_here = not brackets if piece.is_last else brackets or piece.ends_in_string
    if not may_end_here or not _begins_and_ends_well(text):
        raise _NoJsonError
    is_key = piece.ends_in_string and _is_key(piece, text, before.is_key, brackets)
    prefix = _prefix(before.brackets, piece.begins_in_string and not before.is_key)
    _parse(parser, prefix + text + b":0" * is_key + brackets[::-1].translate(_CLOSING))
    return _Open(brackets, is_key)


def _is_key(piece: _Piece, text: bytes, was_key: bool, brackets: bytes) -> bool:
    """Whether the string within which the piece ends is a key of an object."""
    begin = _without_escapes(text[:-1]).rfind(b'"')
    if piece.begins_in_string and not begin:
        return was_key
    in_front = text[:begin].rstrip(_BLANKS)[-1:]  # of a comma at which was cut, nothing is left
    return brackets[-1:] == b"{" and in_front in b"{,"


def _next_piece(output: bytes, at: int, in_string: bool) -> Iterator[_Piece | None]:
    """Yield the next piece, which ends at a comma outside strings, or within a string if there is none; None before a
    longer piece is needed."""
    begin, before, size = at, b"", PIECE_BYTES
    while at + size < len(output):
        text = output[at : at + size]
        opened = in_string and not before
        quoted = b'"' * opened + text
        plain = _without_escapes(quoted)
        comma = _last_comma(plain) - opened
        if comma >= 0:
            yield _Piece(before + text[:comma], at + comma - begin, in_string, False, False)
            return
        cut = _cut_in_string(quoted) - opened
        if cut > 0:
            yield _Piece(before + text[:cut], at + cut - begin, in_string, True, False)
            return
        if plain.count(b'"') % 2:  # a string has just begun
            size += PIECE_BYTES
        else:
            before += _LONG_BLANK.sub(rb"\1", text)
            at += size
            size = PIECE_BYTES
        if len(before) + size > _MOST_PIECE_BYTES:
            raise _NoJsonError
        yield None
    yield _Piece(before + output[at:], len(output) - begin, in_string, False, True)


def _without_escapes(text: bytes) -> bytes:
    """Return a text as long as `text` in which each quote begins or ends a string."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _last_comma(plain: bytes) -> int:
    """Return where the last comma outside strings is, or -1."""
    end = plain.rfind(b'"') if plain.count(b'"') % 2 else len(plain)
    comma = plain.rfind(b",", 0, end)
    while comma >= 0:
        quote = plain.rfind(b'"', 0, end)
        if comma > quote:
            return comma
        end = plain.rfind(b'"', 0, quote)  # where that string begins
        if comma > end:
            comma = plain.rfind(b",", 0, end)
    return -1


def _cut_in_string(text: bytes) -> int:
    """Return where the string may be cut within which `text` ends; -1 if there is no such string or place."""
    plain = _without_escapes(text)
    if plain.count(b'"') % 2 == 0:
        return -1
    begin, cut = plain.rfind(b'"') + 1, len(text) - 1
    for _ in range(_FOLLOWING_BYTES):  # more are no character, wherever they are cut
        if cut > begin and text[cut] & 0xC0 == 0x80:  # in the middle of a character
            cut -= 1
    escape = plain.rfind(b"\\", max(begin, cut - _ESCAPE_BYTES), cut)
    if escape >= 0:
        cut = escape - _HALF_BYTES if _FIRST_HALF.match(text, escape - _HALF_BYTES) else escape
    else:
        cut -= (cut - len(text[:cut].rstrip(b"\\"))) % 2  # a backslash is in front of what it escapes
    return cut if cut > begin else -1


def _brackets_after(stack: bytes, text: bytes) -> bytes:
    """The brackets that are open after `text`, of which each is parsed within `stack`."""
    brackets = _STRING.sub(b"", _without_escapes(text)).translate(None, _NO_BRACKETS)
    for _ in range(_MOST_DEPTH):
        shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if shorter == brackets:
            break
        brackets = shorter
    if len(brackets) > 2 * _MOST_DEPTH:
        raise _NoJsonError
    for at in range(len(brackets)):
        bracket = brackets[at : at + 1]
        if bracket in b"[{":
            stack += bracket
        elif stack[-1:].translate(_CLOSING) == bracket:
            stack = stack[:-1]
        else:
            raise _NoJsonError
    if len(stack) > _MOST_DEPTH:
        raise _NoJsonError
    return stack


def _prefix(stack: bytes, in_string: bool) -> bytes:
    """Text that opens the brackets, and stands before the next value, or before a key in an object."""
    outer, inner = stack[:-1].replace(b"{", b'{"":'), stack[-1:]
    return outer + (inner.replace(b"{", b'{"":') if in_string else inner)


def _begins_and_ends_well(text: bytes) -> bool:
    """Whether there is something between two commas: within brackets of ours, nothing would do."""
    stripped = text.strip(_BLANKS)
    return bool(stripped) and stripped[0] not in b"]}" and stripped[-1] not in b"[{"


def _parse(parser: Any, text: bytes) -> None:
    if parser is not None and not text.startswith(BYTE_ORDER_MARK):
        try:
            parser.parse(text)
        except (ValueError, RuntimeError):  # it is wrong, or has a number that only the general parser takes
            pass
        else:
            return
    try:
        jsontext.parse(text)
    except JsonError:
        raise _NoJsonError from None
