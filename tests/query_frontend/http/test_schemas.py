import base64
import json
from array import array
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.constants import MAX_INPUTS_PER_REQUEST
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from query_frontend.http import schemas
from tests.steps import in_steps

I32 = 2**31
GOOD = [
    ("ints", [1, -2, I32 - 1, -I32], array("i", [1, -2, I32 - 1, -I32]).tobytes()),
    ("floats", [1.5, 2, -3.4e38], array("f", [1.5, 2, -3.4e38]).tobytes()),
    ("doubles", [1.1, 2, 10**18, 1e308], array("d", [1.1, 2, 1e18, 1e308]).tobytes()),
    ("doubles", [10**30], array("d", [1e30]).tobytes()),
    ("strings", "héllo \x00 {}", "héllo \x00 {}".encode()),
    ("bytes", base64.b64encode(b"\x00\xff\x10").decode(), b"\x00\xff\x10"),
    ("bytes", "AP8", b"\x00\xff"),
    ("bytes", "AP8\n", b"\x00\xff"),
    ("bytes", base64.encodebytes(bytes(range(256))).decode(), bytes(range(256))),
    ("bytes", " AP \r\n 8= \t", b"\x00\xff"),
    ("bytes", "data:image/png;base64,AP8=", b"\x00\xff"),
    ("bytes", "data:;base64,AP8", b"\x00\xff"),
    ("bytes", "DATA:text/plain;charset=utf-8;BASE64,AP8=\n", b"\x00\xff"),
    ("bytes", [0, 255, 16], b"\x00\xff\x10"),
]


@pytest.mark.parametrize(("kind", "value", "encoded"), GOOD)
def test_good_inputs(kind: str, value: object, encoded: bytes) -> None:
    input_type = InputType.parse(kind)
    single = schemas.parse_predict(json.dumps({"input": value}).encode(), input_type)
    assert single == schemas.Asked([encoded])
    batch = schemas.parse_predict(json.dumps({"input_batch": [value, value]}).encode(), input_type)
    assert batch == schemas.Asked([encoded, encoded])


@pytest.mark.parametrize(
    ("keys", "uid", "explain"),
    [
        pytest.param({}, None, False, id="none"),
        pytest.param({"uid": 7, "explain": True}, 7, True, id="number"),
        pytest.param({"uid": "u", "explain": False}, "u", False, id="text"),
        pytest.param({"uid": [1, 2], "explain": 1}, [], False, id="list"),
        pytest.param({"uid": {"a": 1}, "explain": "true"}, {}, False, id="object"),
    ],
)
def test_keys_that_selection_policies_use(keys: dict[str, Any], uid: object, explain: bool) -> None:
    body = json.dumps({"input": [1.5], "version": "2"} | keys).encode()
    assert schemas.parse_predict(body, InputType.FLOATS)[1:] == ("2", uid, explain)
    assert in_steps(schemas.parse_predict_in_steps(body, InputType.FLOATS, False))[0][1:] == ("2", uid, explain)


BAD = [
    ("ints", [1.0], "Array input of type Number is not of type int"),
    ("ints", [I32], "Array input of type Number is not of type int: 2147483648 is beyond"),
    ("ints", [-I32 - 1], "is not of type int"),
    ("ints", [10**25], "is not of type int"),
    ("ints", [True], "Array input of type True is not of type int"),
    ("ints", "1", "Type mismatch! JSON key input expected type Arraybut found type String"),
    ("ints", [], "empty"),
    ("floats", [3.5e38], "Array input of type Number is not of type float: 3.5e+38 is beyond"),
    ("floats", [None], "Array input of type Null is not of type float"),
    ("floats", [[1.0]], "Array input of type Array is not of type float"),
    ("doubles", [1.0, False], "Array input of type False is not of type double"),
    ("doubles", ["1.0"], "Array input of type String is not of type double"),
    ("doubles", {"a": 1}, "Type mismatch! JSON key input expected type Arraybut found type Object"),
    ("doubles", None, "Type mismatch! JSON key input expected type Arraybut found type Null"),
    ("strings", ["a"], "Type mismatch! JSON key input expected type Stringbut found type Array"),
    ("strings", "", "empty"),
    ("bytes", [1, 256], "input: Array input of type Number is not of type byte: 256 is not from 0 to 255"),
    ("bytes", [-1], "-1 is not from 0 to 255"),
    ("bytes", [2**40], "is not from 0 to 255"),
    ("bytes", [2**70], "is not of type byte"),
    ("bytes", [1.0], "Array input of type Number is not of type byte"),
    ("bytes", [True], "Array input of type True is not of type byte"),
    ("bytes", ["AP8="], "Array input of type String is not of type byte"),
    ("bytes", [], "empty"),
    ("bytes", {"a": 1}, "Type mismatch! JSON key input expected type Stringbut found type Object"),
    ("bytes", "_-8=", "URL-safe alphabet"),
    ("bytes", "QUJ REVG", "holds a space at position 3: was a '+' taken for one in a URL?"),
    ("bytes", "data:text/plain,hello", "a data: URL without ';base64'"),
    ("bytes", "data:image/png;base64,", "empty"),
    ("bytes", "AP8=!", "holds '!' at position 4"),
    ("doubles", [1.0, None], "Array input of type Null is not of type double. An application takes null"),
    ("floats", [None], "Array input of type Null is not of type float. An application takes null"),
    ("bytes", "!!!!", "not of type base64-encoded string"),
    ("bytes", "AAA=A", "not of type base64-encoded string"),
    ("bytes", "é", "not of type base64-encoded string"),
    ("bytes", "", "empty"),
]


@pytest.mark.parametrize(("kind", "value", "text"), BAD)
def test_bad_inputs(kind: str, value: object, text: str) -> None:
    with pytest.raises(JsonError) as caught:
        schemas.parse_predict(json.dumps({"input": value}).encode(), InputType.parse(kind))
    assert text in str(caught.value)


# --- missing values ---

MISSING = [
    ("doubles", b"[1.5, null]", [1.5, nan]),
    ("doubles", b"[NaN]", [nan]),
    ("doubles", b"[Infinity, -Infinity, -0.0]", [inf, -inf, -0.0]),
    ("doubles", b"[1, 2.5]", [1.0, 2.5]),
    ("doubles", b"[100000000000000000000000000, NaN]", [1e26, nan]),
    ("floats", b"[null, 1e-45, 3.4e38, -Infinity]", [nan, 1e-45, 3.4e38, -inf]),
]


@pytest.mark.parametrize(("kind", "value", "numbers"), MISSING)
def test_missing_values(kind: str, value: bytes, numbers: list[float]) -> None:
    input_type = InputType.parse(kind)
    encoded = array(input_type.typecode, numbers).tobytes()
    assert schemas.parse_predict(b'{"input": %b}' % value, input_type, True) == schemas.Asked([encoded])
    body = b'{"version": "2", "input_batch": [%b, %b]}' % (value, value)
    assert schemas.parse_predict(body, input_type, True) == schemas.Asked([encoded, encoded], "2")
    update = b'{"uid": 0, "label": 1, "input": %b}' % value
    assert schemas.parse_update(update, input_type, True).input == encoded


@pytest.mark.parametrize("value", [b"[null]", b"[NaN]", b"[1, Infinity]", b"[-Infinity]"])
@pytest.mark.parametrize("kind", ["floats", "doubles"])
def test_missing_values_are_refused_without_the_setting(kind: str, value: bytes) -> None:
    for body in (b'{"input": %b}', b'{"input_batch": [[1.0], %b]}'):
        with pytest.raises(JsonError, match="registered with missing_values=true"):
            schemas.parse_predict(body % value, InputType.parse(kind))


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("floats", b'{"input": [1e300, null]}', "1e+300 is beyond"),
        ("floats", b'{"input": [1e300, Infinity]}', "1e+300 is beyond"),
        ("doubles", b'{"input": [NaN, 1e400]}', "number out of range: 1e400"),
        ("doubles", b'{"input_batch": [[NaN], [1e400]]}', "number out of range: 1e400"),
        ("floats", b'{"input_batch": [[NaN], [-1e999]]}', "number out of range: -1e999"),
        ("floats", b'{"input": [Infinity, 1e400]}', "number out of range: 1e400"),
        ("doubles", b'{"input": [NaN], "version": "\\ud800"}', "JSON parse error"),
        ("doubles", b'{"input": [NaN], "version": "\\uDFFF"}', "JSON parse error"),
        ("doubles", b'{"input": [NaN, 1' + b"0" * 350 + b"]}", "is beyond ..1.79769e.308"),
        ("doubles", b'{"input": [null, true]}', "of type True is not of type double"),
        ("doubles", b'{"input": ["NaN"]}', "of type String is not of type double"),
        ("doubles", b'{"input": [nan]}', "JSON parse error"),
        ("doubles", b'{"input": [NaN}', "JSON parse error"),
        ("doubles", b'{"input": NaN}', "expected type Arraybut found type Number"),
        ("doubles", b'{"input": null}', "expected type Arraybut found type Null"),
        ("doubles", b'\xff{"input": [NaN]}', "JSON parse error"),
        ("doubles", b'{"input": [NaN], "deep": ' + b"[" * 100_000, "JSON parse error"),
        ("doubles", b'{"input": [NaN, 1' + b"0" * 5000 + b"]}", "JSON parse error"),
        ("doubles", b'{"input": [null, 1' + b"0" * 400 + b"]}", "JSON parse error|not of type double"),
        ("ints", b'{"input": [null]}', "of type Null is not of type int$"),
        ("ints", b'{"input": [NaN]}', "JSON parse error"),
        ("strings", b'{"input": NaN}', "JSON parse error"),
        ("bytes", b'{"input": [null]}', "of type Null is not of type byte"),
    ],
)
def test_what_is_refused_with_missing_values(kind: str, body: bytes, text: str) -> None:
    with pytest.raises(JsonError, match=text.replace("+", r"\+")) as caught:
        schemas.parse_predict(body, InputType.parse(kind), True)
    assert "registered with" not in str(caught.value)


BAD_BATCHES = [
    ("doubles", {"input_batch": 3}, "Type mismatch! JSON key input_batch expected type Arraybut found type Number"),
    ("doubles", {"input_batch": [[1.0], 2.0]}, "Array input of type Number is not of type array"),
    ("bytes", {"input_batch": [7]}, "PredictionData of type Number is not of type base64-encoded string"),
    ("doubles", {"inputs": [1.0]}, "JSON object does not have required keys input or input_batch"),
    ("doubles", {"input": [1.0], "version": 1}, "Type mismatch! JSON key version expected type Stringbut found"),
]


@pytest.mark.parametrize(("kind", "fields", "text"), BAD_BATCHES)
def test_bad_fields(kind: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(JsonError) as caught:
        schemas.parse_predict(json.dumps(fields).encode(), InputType.parse(kind))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": [1.0,, 2.0], "note": "NaN"}',
        b'{"NaN": 1, "input": [oops]}',
        b'{"input": [1] "Infinity"}',
        b"{",
        b"\xff",
    ],
)
def test_the_setting_is_named_only_where_it_would_help(body: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        schemas.parse_predict(body, InputType.DOUBLES)
    assert "missing_values" not in str(caught.value)


MALFORMED = [b"", b"{", b'{"input": [1,}', b'{"input": NaN}', b'{"input": "\\ud800"}', b"\xff\xfe", b"[" * 3000]


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_json_says_where(body: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        schemas.parse_predict(body, InputType.DOUBLES)
    text = schemas.explain(caught.value, schemas.PREDICT_SCHEMA)
    assert text.startswith("Error parsing JSON: JSON parse error: ")
    assert "(offset " in text and "Expected JSON schema: " in text


@pytest.mark.parametrize("body", [b"[]", b"1", b'"input"', b"null"])
def test_json_that_is_no_object(body: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        schemas.parse_predict(body, InputType.DOUBLES)
    assert schemas.explain(caught.value, schemas.PREDICT_SCHEMA) == "JSON schema invalid"


def test_input_wins_over_input_batch_and_unknown_keys_are_ignored() -> None:
    body = b'{"uid": 3, "input": [1], "input_batch": 7, "version": "2"}'
    assert schemas.parse_predict(body, InputType.INTS) == schemas.Asked([array("i", [1]).tobytes()], "2", 3)


def test_a_request_holds_a_bounded_number_of_inputs() -> None:
    body = json.dumps({"input_batch": [[1]] * (MAX_INPUTS_PER_REQUEST + 1)}).encode()
    with pytest.raises(JsonError, match="input_batch holds 4097 inputs, more than the 4096"):
        schemas.parse_predict(body, InputType.INTS)


def test_an_empty_batch_is_a_batch() -> None:
    assert schemas.parse_predict(b'{"input_batch": []}', InputType.INTS) == schemas.Asked([])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(["input", "input_batch", "version", "uid", "label", "x"]), JSON_VALUES)


@given(FIELDS | JSON_VALUES, st.sampled_from(InputType))
def test_any_json_is_parsed_or_refused(value: object, kind: InputType) -> None:
    body = json.dumps(value).encode()
    for parse in (schemas.parse_predict, schemas.parse_update):
        try:
            parse(body, kind)
        except JsonError as error:
            assert schemas.explain(error, "schema")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"input": [1.0], "label": 1.0}, "JSON object does not have required key: uid"),
        ({"uid": 0, "label": 1.0}, "JSON object does not have required key: input"),
        ({"uid": 0, "input": [1.0]}, "JSON object does not have required key: label"),
        ({"uid": 0.5, "input": [1.0], "label": 1.0}, "key uid expected type int64"),
        ({"uid": 2**63, "input": [1.0], "label": 1.0}, "key uid expected type int64"),
        ({"uid": True, "input": [1.0], "label": 1.0}, "key uid expected type int64"),
        ({"uid": 0, "input": [1.0], "label": "1"}, "key label expected type double"),
        ({"uid": 0, "input": ["1"], "label": 1}, "is not of type double"),
    ],
)
def test_bad_updates(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(JsonError) as caught:
        schemas.parse_update(json.dumps(fields).encode(), InputType.DOUBLES)
    assert text in str(caught.value)


def test_a_good_update() -> None:
    update = schemas.parse_update(b'{"uid": 0, "input": [1], "label": 1}', InputType.DOUBLES)
    assert (update.uid, update.label) == (0, 1.0)


def test_of_a_batch_nothing_is_encoded_for_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The general path does that in steps."""
    monkeypatch.setattr(schemas, "_encode", lambda *_: pytest.fail("encoded"))
    assert schemas.parse_single(b'{"input_batch": [[1], [2]]}', InputType.INTS, False) is None
    assert schemas.parse_single(b'{"input": [1], "version": "2"}', InputType.INTS, False) is None


def test_a_single_input_is_the_same_for_the_fast_path() -> None:
    for body in (b'{"input": [1]}', b'{"input_batch": [[1]]}', b'{"input": [1], "version": null}'):
        assert [schemas.parse_single(body, InputType.INTS, False)] == schemas.parse_predict(body, InputType.INTS)[0]
