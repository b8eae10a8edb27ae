"""Large outputs are embedded as small ones are, in steps."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper_common import jsontext
from query_frontend.serving import large_outputs
from tests.query_frontend.http.test_schemas import JSON_VALUES
from tests.query_frontend.serving.test_answers import PARTS
from tests.steps import in_steps


def embedded(output: bytes, piece_bytes: int = large_outputs.PIECE_BYTES) -> tuple[bytes, int]:
    """The value, and the number of steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_outputs, "PIECE_BYTES", piece_bytes)
        return in_steps(large_outputs.embed(output))


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from([*PARTS, b"true", b"1e999", b"\0", b"\\u00e9", b"\\ud83d\\ude00", b"\\\\", b'\\"', b","]),
        max_size=30,
    )
)
def test_any_text(parts: list[bytes]) -> None:
    for output in (b"".join(parts), b"[" + b"".join(parts) + b"]", b'{"a":"' + b"".join(parts) + b'"}'):
        for size in (1, 2, 3, 5, 8):
            assert embedded(output, size)[0] == jsontext.embed(output), size


@given(JSON_VALUES, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([1, 2, 4, 7, 16, 40]))
def test_any_json(value: object, indent: int | None, ascii_only: bool, size: int) -> None:
    output = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")
    assert embedded(output, size)[0] == jsontext.embed(output)


@given(JSON_VALUES, st.data())
def test_json_with_a_mistake(value: object, data: st.DataObject) -> None:
    output = json.dumps(value).encode()
    at = data.draw(st.integers(0, len(output) - 1))
    wrong = output[:at] + data.draw(st.sampled_from([b"", b",", b"]", b"}", b"[", b'"', b"\\", b"\xc3", b":"]))
    for text in (wrong, wrong + output[at:], wrong + output[at + 1 :]):
        for size in (1, 4, 9):
            assert embedded(text, size)[0] == jsontext.embed(text)


LONG = 1 << 20
OUTPUTS = {
    "numbers": b"[" + b",".join([b"0.125"] * (LONG // 6)) + b"]",
    "nested": b"[" + b",".join([b"[]"] * (LONG // 3)) + b"]",
    "objects": json.dumps([{"label": "cat", "score": 0.5, "box": [1, 2, 3, 4]}] * (LONG // 60)).encode(),
    "strings": json.dumps(["a, b", 'c "d" \\', "é"] * (LONG // 40)).encode(),
    "a string": b'"' + b"x" * LONG + b'"',
    "a string in an object": b'{"text":"' + "é, ".encode() * (LONG // 4) + b'","n":1}',
    "escapes": b'["' + b"some text\\n" * (LONG // 11) + b'"]',
    "backslashes": b'["' + b"\\\\" * (LONG // 2) + b'"]',
    "halves of characters": json.dumps("\U0001f600" * (LONG // 12)).encode(),
    "text": b"x" * LONG,
    "no UTF-8": b"\xff" * LONG,
    "text with brackets": b"[x], " * (LONG // 5),
    "broken in the end": b"[" + b"1," * (LONG // 2) + b"]",
    "a long key": b'{"' + b"k" * LONG + b'":1}',
    "a long key and what follows": b'{"n":1, "' + b'k\\",' * (LONG // 9) + b'" :[' + b"[]," * (LONG // 6) + b"1]}",
    "broken behind a long string": b'["' + b"x" * (LONG // 2) + b'",' + b"[]," * (LONG // 6) + b"x",
    "a string without an end": b'"' + b"x" * LONG,
    "blanks within": b'{"a" ' + b" " * LONG + b":[1\n" + b"\n" * LONG + b"]}",
    "blanks": b" " * LONG,
    "a number in blanks": b" " * LONG + b"1" + b"\n" * LONG,
    "brackets": b"[" * LONG,
    "brackets in pairs": b"[]" * (LONG // 2),
    "digits": b"[1," + b"1" * LONG + b"]",
    "quotes": b'[","' + b'"' * LONG,
    "a string without UTF-8": b'"' + b"\x80" * LONG + b'"',
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_step_looks_at_much(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = OUTPUTS[name]
    longest = 0
    parse, dumps = jsontext.parse, jsontext.dumps

    def note(text: bytes | str) -> None:
        nonlocal longest
        longest = max(longest, len(text))

    class Parser:
        def __init__(self) -> None:
            self._parser = module_parser()

        def parse(self, text: bytes) -> object:
            note(text)
            return self._parser.parse(text)

    module_parser = large_outputs.simdjson_parser
    expected = jsontext.embed(output)
    monkeypatch.setattr(large_outputs, "simdjson_parser", Parser)
    monkeypatch.setattr(jsontext, "embed", pytest.fail)
    monkeypatch.setattr(jsontext, "parse", lambda text: (note(text), parse(text))[1])
    monkeypatch.setattr(jsontext, "dumps", lambda value: (note(value), dumps(value))[1])
    value, steps = embedded(output)
    assert value == expected
    assert longest < 2 * large_outputs.PIECE_BYTES
    assert steps >= LONG // large_outputs.PIECE_BYTES // 2


@pytest.mark.parametrize("output", [b"true", b" false\n", b"null", b"-1.5e3", b"1" * 100, b"truest", b"1 2", b"", b" "])
def test_what_has_no_brackets(output: bytes) -> None:
    assert embedded(output, 1)[0] == jsontext.embed(output)


def test_what_can_be_cut_nowhere_is_text() -> None:
    """It is as good as never what a model says, and to parse it takes long."""
    output = b"[0." + b"1" * LONG + b"]"
    assert embedded(output)[0] == jsontext.dumps(output.decode())


@given(
    st.lists(st.sampled_from([b"k", b"\\\\", b'\\"', b",", b"{", b":", b" ", b"\\u00e9"]), max_size=40), st.booleans()
)
def test_long_keys(parts: list[bytes], is_inner: bool) -> None:
    key = b'"' + b"".join(parts) + b'"'
    output = b'{"a":[%b], %b : {%b:%b}}' % ((b"{%b:1}" % key if is_inner else key), key, key, key)
    for size in (1, 3, 8, 20):
        assert embedded(output, size)[0] == output
