"""Inputs of the type bytes that come as text: Base64, wrapped Base64 and ``data:`` URLs."""

import binascii
import re
from typing import Final
from urllib.parse import unquote

_WHITESPACE: Final = " \t\r\n"
_LINE_BREAK: Final = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/=]")
_DATA_URL: Final = re.compile(r"data:([^,]*),", re.IGNORECASE)


def decode(text: str) -> bytes:
    """The bytes that `text` stands for. Raises ValueError that says what is wrong with it."""
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        plain = _plain(text)
        if plain == text:
            raise
    return decode(plain)


def _plain(text: str) -> str:
    """The Base64 in `text`, without line breaks and the head of a ``data:`` URL. Raises ValueError for other text."""
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
