"""Decodes inputs of the type bytes: Base64, Base64 with line breaks and ``data:`` URLs."""

import binascii
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

_decode_whole: Callable[..., bytes] | None
"""A faster decoder of Base64 whose length is a multiple of four; None if it is not installed."""
try:
    from pybase64 import b64decode
except ImportError:  # there is no wheel for this platform
    _decode_whole = None
else:
    _decode_whole = b64decode

_WORTH_IT: Final = 256
"""The least number of characters for which `_decode_whole` is faster than binascii."""
_WHITESPACE: Final = " \t\r\n"
_LINE_BREAK: Final = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/=]")
_DATA_URL: Final = re.compile(r"data:([^,]*),", re.IGNORECASE)


def decode_strictly(text: str | bytes | memoryview) -> bytes:
    """Decode like `binascii.a2b_base64` in strict mode, with the same errors. Raises ValueError for malformed text."""
    if len(text) < _WORTH_IT or _decode_whole is None:
        return binascii.a2b_base64(text, strict_mode=True)
    try:
        value = _decode_whole(text, validate=True)
    except ValueError:
        value = b""
    if 4 * len(value) == 3 * len(text):
        return value
    # Either the last four characters are padded, which binascii checks, or the text is malformed.
    whole = (len(text) - 1) // 4 * 4
    if 4 * len(value) <= 3 * whole:
        return binascii.a2b_base64(text, strict_mode=True)
    return value[: whole // 4 * 3] + binascii.a2b_base64(text[whole:], strict_mode=True)


def decode(text: str) -> bytes:
    """Decode `text`. Raises ValueError, which says what is wrong with it."""
    try:
        return decode_strictly(text + "=" * (-len(text) % 4))
    except ValueError:
        plain = _plain(text)
        if plain == text:
            raise
    return decode(plain)


def _plain(text: str) -> str:
    """Return `text` without line breaks and the head of a ``data:`` URL. Raises ValueError if that is not Base64."""
    if url := _DATA_URL.match(text):
        if not url[1].lower().endswith(";base64"):
            raise ValueError("it is a data: URL without ';base64' before its comma")
        text = unquote(text[url.end() :])
    text = _LINE_BREAK.sub("", text.strip(_WHITESPACE))
    if wrong := _NOT_BASE64.search(text):
        if wrong[0] == " ":
            raise ValueError(f"it holds a space at position {wrong.start()}: was a '+' taken for one in a URL?")
        if wrong[0] in "-_":
            raise ValueError("it is in the URL-safe alphabet: '+' and '/' stand where it has '-' and '_'")
        raise ValueError(f"it holds {wrong[0]!r} at position {wrong.start()}")
    return text
