"""Base64 as users send it."""

import base64
from urllib.parse import quote

import pytest

from clipper_common import base64text

DATA = bytes(range(256)) * 4


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(DATA).decode(),
        base64.b64encode(DATA).decode().rstrip("="),
        base64.encodebytes(DATA).decode(),
        base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
        "  " + base64.b64encode(DATA).decode() + "\t",
        "data:application/octet-stream;base64," + base64.b64encode(DATA).decode(),
        "data:;base64," + base64.encodebytes(DATA).decode(),
        "data:;base64," + quote(base64.b64encode(DATA).decode(), safe=""),
    ],
)
def test_what_is_accepted(text: str) -> None:
    assert base64text.decode(text) == DATA


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (base64.urlsafe_b64encode(b"\xff\xfe\xfd\xfb").decode(), "URL-safe alphabet"),
        ("data:text/plain,hello", "without ';base64'"),
        ("data:text/plain;base64", "holds ':' at position 4"),
        ("AAAA\nAA!A", "holds '!' at position 6"),
        ("QUJ REVG", "a space at position 3"),
        ("AAAAA", "base64"),
        ("AA=A", "padding"),
        ("AAA==AAA", "[Ee]xcess data|padding"),
        ("\u00e9", "holds '\u00e9' at position 0"),
        ("AA\u2028AA", "position 2"),
    ],
)
def test_what_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        base64text.decode(text)
