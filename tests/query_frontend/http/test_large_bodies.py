"""Large bodies in steps: what comes of them is what the general parser says, or nothing."""

import base64
import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from query_frontend.http import large_bodies, schemas
from query_frontend.http.schemas import Asked
from tests.steps import in_steps

INTS, FLOATS, DOUBLES = InputType.INTS, InputType.FLOATS, InputType.DOUBLES
STRINGS, BYTES = InputType.STRINGS, InputType.BYTES


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "PIECE_BYTES", 8)


def decoded(body: bytes, kind: InputType, *cuts: int) -> tuple[Asked | None, int]:
    """Return the inputs of a body that is read in parts, and the number of steps that it took."""
    parts = [body[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(body)])]
    return in_steps(large_bodies.decode(parts, kind))


def at_once(body: bytes, kind: InputType) -> Asked | str:
    try:
        return schemas.parse_predict(body, kind)
    except JsonError as error:
        return str(error)


DATA = bytes(range(256))


def test_to_look_for_the_end_takes_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "PIECE_BYTES", 1 << 16)
    monkeypatch.setattr(large_bodies, "_SEARCHED_BYTES", 10)
    for kind, opening, closing in ((STRINGS, b'"', b'"'), (DOUBLES, b"[", b"]")):
        body = b'{"input_batch":[%b%b%b]}' % (opening, b"1" * 95, closing)
        assert decoded(body, kind)[1] >= 95 // 10
        assert decoded(body[:-3], kind) == (None, 9)


def test_a_step_decodes_few_inputs_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "PIECE_BYTES", 1 << 16)
    body = b'{"input_batch":[%b[1]]}' % (b"[1]," * 999)
    found, steps = decoded(body, INTS)
    assert found == at_once(body, INTS)
    assert steps == 999 // large_bodies._STEP_INPUTS


@pytest.mark.parametrize(
    ("kind", "item"), [(STRINGS, b"text \xc3\xa9 "), (BYTES, b"QUJD"), (DOUBLES, b"1.25,"), (INTS, b"1234567,")]
)
def test_nothing_large_is_copied_in_one_go(kind: InputType, item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory allocated beside the input stays as small as a few pieces."""
    monkeypatch.setattr(large_bodies, "PIECE_BYTES", 1 << 12)
    opening, closing = (b'"', b'"') if kind in (STRINGS, BYTES) else (b"[", b"1]")
    body = b'{"input":%b%b%b}' % (opening, item * (1 << 16), closing)
    decoded(body, kind)  # what is imported and compiled at the first time
    tracemalloc.start()
    found, _ = decoded(body, kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert peak < len(found[0][0]) + (1 << 17)


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
@pytest.mark.parametrize("rest", [b"}", b' , "version" : "2"}\n', b',"version":null,"uid":[1],"explain":true}'])
def test_plain_shapes(value: Any, kind: InputType, rest: bytes) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    for body in (
        b'{"input":%b%b' % (text, rest),
        b' {\n "input" :\t%b%b' % (text, rest),
        b'{"input_batch":[%b]%b' % (text, rest),
        b'{"input_batch": [ %b , %b,%b\n]%b' % (text, text, text, rest),
    ):
        found, steps = decoded(body, kind)
        assert found == at_once(body, kind)
        assert isinstance(found, tuple)
        assert steps >= len(text) // 40


@given(
    st.sampled_from(
        [
            (b'{"input":[%b]}' % b",".join(b"%d" % number for number in range(-300, 300)), INTS),
            (b'{"input":[%b],"version":"3"}' % b" , ".join(b"%d.25e-1" % number for number in range(300)), FLOATS),
            (b'{"input":"%b" }' % base64.b64encode(DATA * 9), BYTES),
            (b'{"input":"%b"}' % base64.b64encode(DATA * 9)[:-2], BYTES),
            (b'{"input":"%b"}' % ("text, é 𝄞".encode() * 99), STRINGS),
            (b'{"input_batch":["%b","QUJD"]}' % base64.b64encode(DATA * 9), BYTES),
        ]
    ),
    st.lists(st.integers(20, 1500), max_size=4),
)
def test_parts_that_end_anywhere(case: tuple[bytes, InputType], cuts: list[int]) -> None:
    body, kind = case
    assert decoded(body, kind, *[cut for cut in cuts if cut < len(body)])[0] == at_once(body, kind)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"input":[[1,2],[3]]}', DOUBLES),
        (b'{"input":[1],"other":[%b]}' % (b"1," * 2000 + b"1"), DOUBLES),
        (b'{"input":"%b","other":"%b"}' % (b"x" * 2000, b"x" * 2000), STRINGS),
        (b'{"input":[1,,2]}', DOUBLES),
        (b'{"input":[1234567,,1234567]}', DOUBLES),
        (b'{"input":[1234567,1234567,]}', DOUBLES),
        (b'{"input":[]}', DOUBLES),
        (b'{"input":[ ]}', DOUBLES),
        (b'{"input":[1,null]}', DOUBLES),
        (b'{"input":[1,%b2]}' % (b" " * 2000), DOUBLES),
        (b'{"input":[1,2%b,3]}' % (b" " * 2000), DOUBLES),
        (b'{"input":[1.%b,3]}' % (b"3" * 2000), DOUBLES),
        (b'{"input":[NaN]}', DOUBLES),
        (b'{"input":[true]}', DOUBLES),
        (b'{"input":["1"]}', DOUBLES),
        (b'{"input":["]",1]}', DOUBLES),
        (b'{"input":[1e999]}', DOUBLES),
        (b'{"input":[1e39]}', FLOATS),
        (b'{"input":[1.0]}', INTS),
        (b'{"input":[2147483648]}', INTS),
        (b'{"input":[-2147483649]}', INTS),
        (b'{"input":[4294967296]}', INTS),
        (b'{"input":[4294967295]}', INTS),
        (b'{"input":[-4294967296]}', INTS),
        (b'{"input":[72057594037927936]}', INTS),
        (b'{"input":[9223372036854775807]}', INTS),
        (b'{"input":[-9223372036854775808]}', INTS),
        (b'{"input":[1,2,3,3.4028236e38]}', FLOATS),
        (b'{"input":[-3.4028236e38]}', FLOATS),
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
        (b'{"input":"%b"}' % (b"\x80" * 40), STRINGS),
        (b'{"input":"0123456\x1f"}', STRINGS),
        (b'{"input":%b[1]}' % (b" " * 300), DOUBLES),
        (b'{"input":[1],%b"version":"2"}' % (b" " * 2000), DOUBLES),
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
    assert decoded(body, kind)[0] is None


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


WHOLE = st.integers(-(2**34), 2**34) | st.sampled_from(
    [s * 2**k + d for k in (31, 32, 63) for s in (1, -1) for d in (-1, 0, 1)]
)
REAL = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-3.5e38, 3.5e38) | st.integers(-(2**70), 2**70)


def said_of(value: Any, kind: InputType, key: str = "input") -> tuple[Asked | None, Asked | str]:
    """Return what a body is decoded to in steps, and at once."""
    body = json.dumps({key: value}, ensure_ascii=False).encode(errors="surrogatepass")
    return decoded(body, kind)[0], at_once(body, kind)


@pytest.mark.parametrize("many", [95, 96, 97, 192, 300])
def test_floats_of_any_number(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "PIECE_BYTES", 1 << 16)
    numbers = [number / 7 for number in range(many)]
    found, expected = said_of(numbers, FLOATS)
    assert found == expected
    for at in (0, 95, many - 1):
        assert said_of([*numbers[:at], 3.5e38, *numbers[at + 1 :]], FLOATS)[0] is None


@given(st.lists(WHOLE, min_size=1))
def test_any_whole_numbers(numbers: list[int]) -> None:
    found, expected = said_of(numbers, INTS)
    assert found == (expected if isinstance(expected, tuple) else None)


@example([-(2**63) - 1], FLOATS)
@given(st.lists(REAL, min_size=1), st.sampled_from([FLOATS, DOUBLES]))
def test_any_numbers(numbers: list[float], kind: InputType) -> None:
    found, expected = said_of(numbers, kind)
    assert found is None or found == expected
    assert found is not None or isinstance(expected, str) or any(not -(2**63) <= number < 2**64 for number in numbers)


@pytest.mark.parametrize("long_bytes", [0, 1 << 20])
@given(text=st.text(st.characters(exclude_categories=()), min_size=1))
def test_any_text(text: str, long_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(large_bodies, "_LONG_TEXT_BYTES", long_bytes)
        found, expected = said_of(text, STRINGS)
    assert found is None or found == expected


@pytest.mark.parametrize("long_bytes", [0, 1 << 20])
@given(text=st.binary(min_size=1).filter(lambda text: b'"' not in text))
def test_any_bytes_as_text(text: bytes, long_bytes: int) -> None:
    body = b'{"input":"%b"}' % text
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(large_bodies, "_LONG_TEXT_BYTES", long_bytes)
        found = decoded(body, STRINGS)[0]
    expected = at_once(body, STRINGS)
    assert found == (expected if isinstance(expected, tuple) and b"\\" not in text else None)


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=5), st.integers(0, 2), st.data())
def test_any_base64(values: list[bytes], cut: int, data: st.DataObject) -> None:
    texts = [base64.b64encode(value).decode() for value in values]
    found, expected = said_of(texts, BYTES, "input_batch")
    assert found == expected == Asked(values)
    at = data.draw(st.integers(0, len(texts[0])))
    texts[0] = (
        texts[0][:at]
        + data.draw(st.sampled_from(["", "=", "==", "-", "\n", " ", "A", "\u00e9", "\\"]))
        + texts[0][at + cut :]
    )
    found, expected = said_of(texts, BYTES, "input_batch")
    assert found is None or found == expected


@given(BODIES, st.sampled_from(list(InputType)), st.lists(st.integers(0, 60), max_size=2))
def test_it_never_says_anything_else_than_the_general_parser(body: bytes, kind: InputType, cuts: list[int]) -> None:
    found, _ = decoded(body, kind, *[cut for cut in cuts if cut <= len(body)])
    assert found is None or found == at_once(body, kind)
