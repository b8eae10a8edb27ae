"""Base64 as users send it."""

import base64
import binascii
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(
    st.binary(max_size=2000),
    st.lists(
        st.tuples(st.integers(0, 3000), st.sampled_from(["", "=", "==", "-", "\n", " ", "A", "\u00e9"])), max_size=2
    ),
)
def test_it_is_decoded_as_strictly_as_by_binascii(data: bytes, changes: list[tuple[int, str]]) -> None:
    text = base64.b64encode(data).decode()
    for at, inserted in changes:
        text = text[:at] + inserted + text[at + 1 :]

    def said(decode: Callable[[str | bytes], bytes], value: str | bytes) -> bytes | str:
        try:
            return decode(value)
        except ValueError as error:
            return str(error)

    for value in (text, text.encode()):
        assert said(base64text.decode_strictly, value) == said(partial(binascii.a2b_base64, strict_mode=True), value)


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


@pytest.mark.parametrize("padding", ["", "=", "=="])
def test_long_text_is_for_the_fast_decoder(padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given_: list[int] = []

    def decode_whole(text: str, validate: bool) -> bytes:
        given_.append(len(text))
        return binascii.a2b_base64(text, strict_mode=validate)

    monkeypatch.setattr(base64text, "_decode_whole", decode_whole)
    data = bytes(3000 + 2 * len(padding))
    text = base64.b64encode(data).decode()
    assert text.endswith("A" + padding)
    assert base64text.decode(text) == base64text.decode(text.rstrip("=")) == data
    assert given_ == [len(text)] * 2
    monkeypatch.setattr(base64text, "_decode_whole", None)
    assert base64text.decode(text) == data
