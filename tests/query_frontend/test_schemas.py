import base64
import itertools
import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.constants import MAX_INPUTS_PER_REQUEST
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from query_frontend import schemas
from query_frontend.schemas import Default

I32 = 2**31
GOOD = [
    ("ints", [1, -2, I32 - 1, -I32], array("i", [1, -2, I32 - 1, -I32]).tobytes()),
    ("floats", [1.5, 2, -3.4e38], array("f", [1.5, 2, -3.4e38]).tobytes()),
    ("doubles", [1.1, 2, 10**18, 1e308], array("d", [1.1, 2, 1e18, 1e308]).tobytes()),
    ("doubles", [10**30], array("d", [1e30]).tobytes()),
    ("strings", "héllo \x00 {}", "héllo \x00 {}".encode()),
    ("bytes", base64.b64encode(b"\x00\xff\x10").decode(), b"\x00\xff\x10"),
    ("bytes", "AP8", b"\x00\xff"),
]


@pytest.mark.parametrize(("kind", "value", "encoded"), GOOD)
def test_good_inputs(kind: str, value: object, encoded: bytes) -> None:
    input_type = InputType.parse(kind)
    single = schemas.parse_predict(json.dumps({"input": value}).encode(), input_type)
    assert single == ([encoded], None)
    batch = schemas.parse_predict(json.dumps({"input_batch": [value, value]}).encode(), input_type)
    assert batch == ([encoded, encoded], None)


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
    ("bytes", [1, 2], "Type mismatch! JSON key input expected type Stringbut found type Array"),
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
    assert schemas.parse_predict(body, InputType.INTS) == ([array("i", [1]).tobytes()], "2")


def test_a_request_holds_a_bounded_number_of_inputs() -> None:
    body = json.dumps({"input_batch": [[1]] * (MAX_INPUTS_PER_REQUEST + 1)}).encode()
    with pytest.raises(JsonError, match="input_batch holds 4097 inputs, more than the 4096"):
        schemas.parse_predict(body, InputType.INTS)


def test_an_empty_batch_is_a_batch() -> None:
    assert schemas.parse_predict(b'{"input_batch": []}', InputType.INTS) == ([], None)
    assert schemas.render([], itertools.count(5)) == b'{"batch_predictions":[]}'


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


def test_answers_are_rendered_as_0_4_rendered_them() -> None:
    good = b"1.10"
    default = Default(b'"x"', 'because "so"')
    assert schemas.render([good], itertools.count(7)) == b'{"query_id":7,"output":1.10,"default":false}'
    assert (
        schemas.render([default], itertools.count(7))
        == b'{"query_id":7,"output":"x","default":true,"default_explanation":"because \\"so\\""}'
    )
    assert schemas.render([good, default], itertools.count(7)) == (
        b'{"batch_predictions":[{"query_id":7,"output":1.10,"default":false},'
        b'{"query_id":8,"output":"x","default":true,"default_explanation":"because \\"so\\""}]}'
    )
