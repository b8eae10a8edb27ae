"""Input types, model ids and names."""

import json
from typing import Any

import numpy as np
import pytest

from clipper_common import datatypes
from clipper_common.datatypes import InputType, ModelId, to_model_inputs
from clipper_common.errors import ClipperException

WORDS = {
    InputType.BYTES: "b byte bytes",
    InputType.INTS: "i int ints integer integers",
    InputType.FLOATS: "f float floats",
    InputType.DOUBLES: "d double doubles",
    InputType.STRINGS: "s str strs string strings",
}
UNPRINTABLE = ["a\n", "\x00", "\t", "\x7f", "\x85", "\u061c", "\u200f", "\u2028", "a\u202eb", "\u2069"]
PAIRS = [(word, kind) for kind, words in WORDS.items() for word in words.split()]


def test_numbers_are_those_of_the_wire() -> None:
    assert [(kind.name, kind.value) for kind in InputType] == [
        ("BYTES", 0),
        ("INTS", 1),
        ("FLOATS", 2),
        ("DOUBLES", 3),
        ("STRINGS", 4),
    ]


@pytest.mark.parametrize(("word", "kind"), PAIRS)
def test_every_word_is_known(word: str, kind: InputType) -> None:
    assert InputType.parse(word) is InputType.parse(f" {word.upper()} ") is kind


@pytest.mark.parametrize("word", ["", "boolean", "intss", "3", None])
def test_other_words_are_refused(word: Any) -> None:
    with pytest.raises(ClipperException, match=f"^{word} is not a valid input string$"):
        InputType.parse(word)


def test_canonical_names() -> None:
    names = [kind.canonical_name for kind in InputType]
    assert names == ["bytes", "integers", "floats", "doubles", "strings"]
    assert [InputType.parse(name) for name in names] == list(InputType)


def test_element_sizes() -> None:
    assert [kind.element_bytes for kind in InputType] == [1, 4, 4, 8, 1]


@pytest.mark.parametrize(
    ("kind", "raw", "dtype", "value"),
    [
        (InputType.BYTES, "00ff", "int8", [0, -1]),
        (InputType.INTS, "01000000feffffff", "int32", [1, -2]),
        (InputType.FLOATS, "0000803f000020c0", "float32", [1.0, -2.5]),
        (InputType.DOUBLES, "000000000000f03f00000000000004c0", "float64", [1.0, -2.5]),
    ],
)
def test_inputs_of_one_length_are_a_matrix(kind: InputType, raw: str, dtype: str, value: list[float]) -> None:
    inputs = to_model_inputs(kind, [bytes.fromhex(raw), memoryview(bytes.fromhex(raw))])
    assert (inputs.dtype, inputs.shape, inputs.tolist()) == (np.dtype(dtype), (2, 2), [value, value])
    inputs[0, 0] = 5  # a model may work in place


def test_inputs_of_different_lengths_are_a_list_of_arrays() -> None:
    inputs = to_model_inputs(InputType.INTS, [bytes(4), b"", bytes(8)])
    assert isinstance(inputs, list)
    assert [item.tolist() for item in inputs] == [[0], [], [0, 0]]
    inputs[0][0] = 5


def test_empty_inputs_are_a_matrix_without_columns() -> None:
    assert to_model_inputs(InputType.DOUBLES, [b"", b""]).shape == (2, 0)


def test_strings_are_str() -> None:
    assert to_model_inputs(InputType.STRINGS, ["hé".encode(), memoryview(b"")]) == ["hé", ""]


def test_model_id_text() -> None:
    assert str(ModelId("m", "1")) == "m:1"
    assert ModelId.parse("m:1") == ModelId("m", "1") == ("m", "1")


@pytest.mark.parametrize("name", ["a", "A-b_c.9~", "...", "9"])
def test_app_names(name: str) -> None:
    assert datatypes.is_app_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "a\n", "a%", "a?", "a#", "a:b"])
def test_no_app_names(name: str) -> None:
    assert not datatypes.is_app_name(name)


def test_id_parts() -> None:
    assert all(map(datatypes.is_id_part, ["m", "Ä b/c", "1.0", "", "שלום", "🦀"]))
    assert not any(map(datatypes.is_id_part, ["a,b", "a:b", *UNPRINTABLE]))


def test_names_of_new_models() -> None:
    assert all(map(datatypes.is_model_name, ["m", "Ä b.c", "1.0", ""]))
    assert not any(map(datatypes.is_model_name, ["a/b", "/", "a,b", *UNPRINTABLE]))


@pytest.mark.parametrize("text", UNPRINTABLE)
def test_what_cannot_be_seen_is_escaped_as_in_json(text: str) -> None:
    escaped = datatypes.escape(text)
    assert escaped.isprintable() and escaped.isascii()
    assert json.loads(f'"{escaped}"') == text


def test_what_can_be_seen_is_not_escaped() -> None:
    assert datatypes.escape('Ä b/c "\\" שלום 🦀') == 'Ä b/c "\\" שלום 🦀'


def test_names_of_models() -> None:
    assert all(map(datatypes.is_model_text, ["m", "Ä b/c", "x" * 255]))
    assert not any(map(datatypes.is_model_text, ["", "a:b", "a\n", "x" * 256]))


def test_plain_texts() -> None:
    assert all(map(datatypes.is_plain_text, ["host:7000:1f", "a,b", "Ä", "x" * 255]))
    assert not any(map(datatypes.is_plain_text, ["", "a\n", "\x1b[31m", "\x85", "\ud800", "x" * 256]))
    assert datatypes.is_plain_text("x" * 300, 300)


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 63])
def test_dns_names(name: str) -> None:
    assert datatypes.is_dns_name(name) and datatypes.is_dns_version(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a\n", "a" * 64, "ä"])
def test_no_dns_names(name: str) -> None:
    assert not datatypes.is_dns_name(name) and not datatypes.is_dns_version(name)


def test_names_may_consist_of_several_with_dots() -> None:
    assert all(map(datatypes.is_dns_subdomain, ["a", "my.model", "a-b.c1.2", "a" * 63]))
    assert not any(map(datatypes.is_dns_subdomain, ["", ".", "a.", ".a", "a..b", "a.-b", "A.b", "a_b", "a." * 32]))


def test_versions_may_hold_dots() -> None:
    assert datatypes.is_dns_version("1.0") and not datatypes.is_dns_name("1.0")
    assert not datatypes.is_dns_version(".1") and not datatypes.is_dns_version("1.")
