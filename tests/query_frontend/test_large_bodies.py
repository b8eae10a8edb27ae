"""Large bodies in steps: what comes of them is what the general parser says, or nothing."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from query_frontend import large_bodies, schemas
from query_frontend.large_bodies import Inputs

INTS, FLOATS, DOUBLES = InputType.INTS, InputType.FLOATS, InputType.DOUBLES
STRINGS, BYTES = InputType.STRINGS, InputType.BYTES


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "PIECE_BYTES", 8)


def in_steps(body: bytes, kind: InputType) -> tuple[Inputs | None, int]:
    """What comes of a body, and in how many steps."""
    steps, count = large_bodies.decode(body, kind), 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value, count
        count += 1


def at_once(body: bytes, kind: InputType) -> Inputs | str:
    try:
        return schemas.parse_predict(body, kind)
    except JsonError as error:
        return str(error)


DATA = bytes(range(256))
NUMBERS = list(range(-50, 50))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (NUMBERS, INTS),
        ([-(2**31), 2**31 - 1], INTS),
        (NUMBERS, FLOATS),
        ([number / 7 for number in NUMBERS], FLOATS),
        ([1e38, -1e-38, 0.1], FLOATS),
        (NUMBERS, DOUBLES),
        ([number / 7 for number in NUMBERS], DOUBLES),
        ([2**63, 2**64 - 1, -(2**63), 1e308, 5e-324], DOUBLES),
        ("text, ] } { [ : é 𝄞 " * 9, STRINGS),
        (base64.b64encode(DATA).decode(), BYTES),
        (base64.b64encode(DATA).decode().rstrip("="), BYTES),
        (base64.b64encode(DATA[:255]).decode(), BYTES),
    ],
)
@pytest.mark.parametrize("rest", [b"}", b' , "version" : "2"}\n', b',"version":null,"other":[1]}'])
def test_plain_shapes(value: Any, kind: InputType, rest: bytes) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    for body in (
        b'{"input":%b%b' % (text, rest),
        b' {\n "input" :\t%b%b' % (text, rest),
        b'{"input_batch":[%b]%b' % (text, rest),
        b'{"input_batch": [ %b , %b,%b\n]%b' % (text, text, text, rest),
    ):
        found, steps = in_steps(body, kind)
        assert found == at_once(body, kind)
        assert isinstance(found, tuple)
        assert steps >= len(text) // 40


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"input":[[1,2],[3]]}', DOUBLES),
        (b'{"input":[1,,2]}', DOUBLES),
        (b'{"input":[1234567,,1234567]}', DOUBLES),
        (b'{"input":[1234567,1234567,]}', DOUBLES),
        (b'{"input":[]}', DOUBLES),
        (b'{"input":[ ]}', DOUBLES),
        (b'{"input":[1,null]}', DOUBLES),
        (b'{"input":[NaN]}', DOUBLES),
        (b'{"input":[true]}', DOUBLES),
        (b'{"input":["1"]}', DOUBLES),
        (b'{"input":["]",1]}', DOUBLES),
        (b'{"input":[1e999]}', DOUBLES),
        (b'{"input":[1e39]}', FLOATS),
        (b'{"input":[1.0]}', INTS),
        (b'{"input":[2147483648]}', INTS),
        (b'{"input":[9223372036854775808]}', INTS),
        (b'{"input":[1]', DOUBLES),
        (b'{"input":[1', DOUBLES),
        (b'{"input":[1]}}', DOUBLES),
        (b'{"input":[1],"input":[2]}', DOUBLES),
        (b'{"input":[1],"inp\\u0075t":[2]}', DOUBLES),
        (b'{"input_batch":[[1]],"input":[2]}', DOUBLES),
        (b'{"input":[1],"version":2}', DOUBLES),
        (b'{"input":[1],"other":"%b"}' % (b"x" * 2000), DOUBLES),
        (b'{"input_batch":[]}', DOUBLES),
        (b'{"input_batch":[[1],]}', DOUBLES),
        (b'{"input_batch":[[1][2]]}', DOUBLES),
        (b'{"input_batch":[[1],[2]', DOUBLES),
        (b'{"input_batch":[%b[1]]}' % (b"[1]," * 200_000), DOUBLES),
        (b'{"input":"a\\n"}', STRINGS),
        (b'{"input":"a\\"b"}', STRINGS),
        (b'{"input":"a\nb"}', STRINGS),
        (b'{"input":"0123456\xc3"}', STRINGS),
        (b'{"input":"0123456\xff"}', STRINGS),
        (b'{"input":"\xed\xa0\x80"}', STRINGS),
        (b'{"input":""}', STRINGS),
        (b'{"input":"AAAAAA==AAAA"}', BYTES),
        (b'{"input":"AAAAAAAAAAA=AAAA"}', BYTES),
        (b'{"input":"AAAA\\/AAA"}', BYTES),
        (b'{"input":"AAA\nAAAAA"}', BYTES),
        (b'{"input":"A"}', BYTES),
        (b'{"input":[1,2]}', BYTES),
        (b'{"other":1,"input":[1]}', DOUBLES),
        (b"[1]", DOUBLES),
        (b"", DOUBLES),
    ],
)
def test_what_is_left_to_the_general_parser(body: bytes, kind: InputType) -> None:
    assert in_steps(body, kind)[0] is None


FRAGMENTS = [
    *(b"[", b"]", b",", b'"', b"{", b"}", b":", b" ", b"\n", b"1", b"-2.5", b"1e5", b"null", b"true", b"12345678901"),
    *(b'"input"', b'"input_batch"', b'"version"', b'"2"', b"\\", b"\xc3\xa9", b"\xc3", b"QUJD", b"=", b"QUJDREVGR0g"),
]
BODIES = st.builds(
    lambda start, middle, end: start + b"".join(middle) + end,
    st.sampled_from([b'{"input":[', b'{"input":"', b'{"input_batch":[[', b'{"input_batch":["', b'{"input":', b""]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=20),
    st.sampled_from([b"]}", b'"}', b"]]}", b'"]}', b'],"version":"2"}', b"}", b""]),
)


@given(BODIES, st.sampled_from(list(InputType)))
def test_it_never_says_anything_else_than_the_general_parser(body: bytes, kind: InputType) -> None:
    found, _ = in_steps(body, kind)
    assert found is None or found == at_once(body, kind)
