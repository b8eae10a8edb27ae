"""Tests of parsing and writing JSON, and of the texts of errors."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common import jsontext
from clipper_common.errors import JsonError


def test_an_object_is_read() -> None:
    assert jsontext.parse_object(b' {"a": [1, 2.5, null, "\xc3\xa9"]} ') == {"a": [1, 2.5, None, "é"]}


@pytest.mark.parametrize("body", [b"", b"{", b"{} x", b'{"a": NaN}', b'{"a": 01}', b"\xff", b'"\\ud800"', b"[" * 9999])
def test_malformed_json_says_where(body: bytes) -> None:
    with pytest.raises(JsonError, match=r"^JSON parse error: .+ \(offset \d+\)\n$"):
        jsontext.parse_object(body)


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null"])
def test_no_object(body: bytes) -> None:
    with pytest.raises(JsonError, match="^JSON schema invalid$"):
        jsontext.parse_object(body)
    with pytest.raises(JsonError, match="^other text$"):
        jsontext.parse_object(body, otherwise="other text")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("null", "Null"),
        ("true", "True"),
        ("false", "False"),
        ("{}", "Object"),
        ("[]", "Array"),
        ('""', "String"),
        ("0", "Number"),
        ("0.5", "Number"),
    ],
)
def test_names_of_types(text: str, name: str) -> None:
    value = json.loads(text)
    assert jsontext.type_name(value) == name
    expected = f"Type mismatch! JSON key input expected type Arraybut found type {name}"
    assert str(jsontext.type_mismatch("input", "Array", value)) == expected


@pytest.mark.parametrize(
    ("output", "embedded"),
    [
        (b"1", b"1"),
        (b"[1, 2]", b"[1, 2]"),
        (b"true", b"true"),
        (b"null", b"null"),
        (b'"a"', b'"a"'),
        (b'{"a": 1.10}', b'{"a": 1.10}'),
        (b"007", b'"007"'),
        (b"NaN", b'"NaN"'),
        (b"Infinity", b'"Infinity"'),
        (b"[NaN]", b'"[NaN]"'),
        (b"None", b'"None"'),
        (b"", b'""'),
        (b"DEFAULT", b'"DEFAULT"'),
        ("é".encode(), '"é"'.encode()),
        (b"\xff", '"�"'.encode()),
        (b'say "hi"\n', b'"say \\"hi\\"\\n"'),
    ],
)
def test_what_is_json_is_embedded_and_the_rest_is_a_string(output: bytes, embedded: bytes) -> None:
    assert jsontext.embed(output) == embedded


def refuse_constant(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


@given(st.binary() | st.text().map(str.encode) | st.floats().map(lambda number: str(number).encode()))
def test_whatever_is_embedded_is_strict_json(output: bytes) -> None:
    json.loads(jsontext.embed(output).decode(), parse_constant=refuse_constant)


@given(st.floats())
def test_floats_are_embedded_exactly(number: float) -> None:
    value: Any = json.loads(jsontext.embed(repr(number).encode()))
    assert value == number if math.isfinite(number) else value == repr(number)


def test_dumps_is_compact() -> None:
    assert jsontext.dumps({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()
