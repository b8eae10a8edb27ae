"""Requests are checked by the fields of their class, with Clipper 0.4's texts."""

import json
from dataclasses import fields
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipper_common.datatypes import BatchPolicy, InputType
from clipper_common.errors import JsonError, QueryError
from management_frontend import schemas

ROUTES: dict[str, Any] = {
    "add_app": schemas.AddApplication,
    "delete_app": schemas.NamedApplication,
    "add_model_links": schemas.ModelLinks,
    "delete_model_links": schemas.ModelLinks,
    "set_selection_policy": schemas.SetSelectionPolicy,
    "get_selection_policy": schemas.AppSelection,
    "delete_selection_state": schemas.AppSelection,
    "add_model": schemas.AddModel,
    "delete_versioned_model": schemas.VersionedModel,
    "set_model_version": schemas.VersionedModel,
    "set_batching": schemas.SetBatching,
    "get_all_applications": schemas.Listing,
    "get_application": schemas.NamedApplication,
    "get_linked_models": schemas.LinkedModels,
    "get_all_models": schemas.Listing,
    "get_model": schemas.VersionedModel,
    "get_all_containers": schemas.Listing,
    "get_container": schemas.NumberedReplica,
    "get_state": schemas.SelectionState,
}
OPTIONAL = {
    "add_app": {"missing_values", "max_body_bytes"},
    "add_model": {"make_current", "check_only", "batch_policy", "batch_delay_micros", "max_output_bytes", "batch_wait"},
    "set_selection_policy": {"options"},
    "set_batching": {"batch_policy", "batch_size", "batch_delay_micros", "batch_wait"},
}
GOOD: dict[Any, Any] = {str: "x", int: 1, bool: True, tuple[str, ...]: ["x"], InputType: "ints"} | {
    int | None: 1,
    bool | None: True,
    BatchPolicy | None: "fixed",
    dict[str, Any] | None: {"x": 1},
}

NUMBER_RANGE = "PredictionData of type Number is not of type int"
WRONG: dict[Any, list[tuple[Any, str]]] = {
    str: [
        (value, f"Type mismatch! JSON key {{}} expected type Stringbut found type {found}")
        for value, found in [
            (None, "Null"),
            (True, "True"),
            (False, "False"),
            (1, "Number"),
            (1.5, "Number"),
            ([], "Array"),
            ({}, "Object"),
        ]
    ],
    int: [
        ("1", "Type mismatch! JSON key {} expected type Numberbut found type String"),
        (True, "Type mismatch! JSON key {} expected type Numberbut found type True"),
        (None, "Type mismatch! JSON key {} expected type Numberbut found type Null"),
        (1.0, NUMBER_RANGE),
        (2**31, NUMBER_RANGE),
        (-(2**31) - 1, NUMBER_RANGE),
        (10**30, NUMBER_RANGE),
    ],
    bool: [
        (1, "Type mismatch! JSON key {} expected type bool but found type Number"),
        ("true", "Type mismatch! JSON key {} expected type bool but found type String"),
        (None, "Type mismatch! JSON key {} expected type bool but found type Null"),
    ],
    tuple[str, ...]: [
        ("x", "Type mismatch! JSON key {} expected type Arraybut found type String"),
        ({}, "Type mismatch! JSON key {} expected type Arraybut found type Object"),
        (["x", 1], "Array input of type Number is not of type string"),
        ([None], "Array input of type Null is not of type string"),
        ([["x"]], "Array input of type Array is not of type string"),
    ],
    InputType: [
        (3, "Type mismatch! JSON key {} expected type Stringbut found type Number"),
        (None, "Type mismatch! JSON key {} expected type Stringbut found type Null"),
    ],
}

WRONG[dict[str, Any] | None] = [
    ([], "Type mismatch! JSON key {} expected type Objectbut found type Array"),
    (None, "Type mismatch! JSON key {} expected type Objectbut found type Null"),
]
WRONG[int | None] = WRONG[int]
WRONG[bool | None] = WRONG[bool]
WRONG[BatchPolicy | None] = WRONG[InputType]

BODIES = {route: {field.name: GOOD[field.type] for field in fields(shape)} for route, shape in ROUTES.items()}
TYPE_ERRORS = [
    pytest.param(route, field.name, value, text.format(field.name), id=f"{route}-{field.name}-{value}")
    for route, shape in ROUTES.items()
    for field in fields(shape)
    for value, text in WRONG[field.type]
]


def refused(detail: str, route: str) -> tuple[int, str, str]:
    schema = schemas.hint(ROUTES[route])
    return 400, "text/plain", f"Error parsing JSON: {detail}. Expected JSON schema: {schema}"


@pytest.mark.parametrize(("route", "key", "value", "detail"), TYPE_ERRORS)
async def test_a_value_of_the_wrong_type_is_named(
    client: TestClient, route: str, key: str, value: Any, detail: str
) -> None:
    answer = await client.post(f"/admin/{route}", json=BODIES[route] | {key: value})
    assert (answer.status, answer.content_type, await answer.text()) == refused(detail, route)


@pytest.mark.parametrize(("route", "key"), [(route, key) for route, body in BODIES.items() for key in body])
async def test_a_missing_key_is_named_unless_optional(client: TestClient, route: str, key: str) -> None:
    body = {name: value for name, value in BODIES[route].items() if name != key}
    answer = await client.post(f"/admin/{route}", json=body)
    if key in OPTIONAL.get(route, ()):
        assert "does not have required key" not in await answer.text()
    else:
        expected = refused(f"JSON object does not have required key: {key}", route)
        assert (answer.status, answer.content_type, await answer.text()) == expected


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("body", ["[]", "1", '"x"', "null", "true"])
async def test_a_body_that_is_no_object_is_refused(client: TestClient, route: str, body: str) -> None:
    answer = await client.post(f"/admin/{route}", data=body)
    expected = refused("Can only get key-value pair from an object", route)
    assert (answer.status, answer.content_type, await answer.text()) == expected


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": NaN}', b'{"a": 1} x', b"\xff\x00", b'{"name": "\\ud800"}', b"[" * 5000]
)
async def test_malformed_json_says_where(client: TestClient, route: str, body: bytes) -> None:
    answer = await client.post(f"/admin/{route}", data=body)
    text = await answer.text()
    assert (answer.status, answer.content_type) == (400, "text/plain")
    assert text.startswith("Error parsing JSON: JSON parse error: ")
    assert text.endswith(f")\n. Expected JSON schema: {schemas.hint(ROUTES[route])}")
    assert "(offset " in text


def test_the_first_wrong_key_of_the_table_is_reported() -> None:
    with pytest.raises(JsonError, match="required key: input_type"):
        schemas.parse(schemas.AddApplication, b'{"name": "x", "latency_slo_micros": "y"}')


def test_a_request_with_unknown_keys_is_read() -> None:
    assert schemas.parse(schemas.NamedApplication, b'{"name": "x", "uid": 0}') == schemas.NamedApplication("x")


def test_optional_keys_have_defaults() -> None:
    body = {key: value for key, value in BODIES["add_model"].items() if key not in OPTIONAL["add_model"]}
    wanted = schemas.parse(schemas.AddModel, json.dumps(body).encode())
    assert (wanted.make_current, wanted.check_only) == (True, False)
    assert (wanted.batch_policy, wanted.batch_delay_micros) == (None, None)


@pytest.mark.parametrize("number", [2**31 - 1, -(2**31)])
def test_all_of_int32_is_read(number: int) -> None:
    body = json.dumps({"app_name": "x", "uid": number}).encode()
    assert schemas.parse(schemas.SelectionState, body).uid == number


def test_an_unknown_input_type_is_said_without_the_schema() -> None:
    body = json.dumps(BODIES["add_app"] | {"input_type": "words"}).encode()
    with pytest.raises(QueryError, match="^words is not a valid input string$"):
        schemas.parse(schemas.AddApplication, body)


def test_an_unknown_batch_policy_is_said_with_those_that_there_are() -> None:
    body = json.dumps(BODIES["set_batching"] | {"batch_policy": "magic"}).encode()
    with pytest.raises(QueryError, match="^magic is not a batch policy. Use one of learned, aimd, quantile, fixed$"):
        schemas.parse(schemas.SetBatching, body)


def test_the_hint_shows_each_kind_of_field() -> None:
    kinds = '"bytes" | "integers" | "floats" | "doubles" | "strings"'
    assert schemas.hint(schemas.AddModel) == (
        '{"model_name": string, "model_version": string, "labels": [string, ...], '
        f'"input_type": {kinds}, "container_name": string, "model_data_path": string, "batch_size": int32, '
        '"make_current": bool (optional), "check_only": bool (optional), '
        '"batch_policy": "learned" | "aimd" | "quantile" | "fixed" (optional), "batch_delay_micros": int32 (optional), '
        '"max_output_bytes": int32 (optional), "batch_wait": bool (optional)}'
    )


# --- whatever the JSON, no route fails: each answers 200 or says why not ---

WORDS = st.sampled_from(
    ["a", "m", "1", "2", "ints", "doubles", "", "a,b", "a:b", "split", "\x00", "é\U0001f600", "..", "*"]
)
TEXT = WORDS | st.text(max_size=20)
NUMBERS = st.sampled_from([-1, 0, 1, 2**31 - 1, 2**31, 2**64]) | st.integers() | st.floats()
ANY_JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
# Weighted towards what gets past the checks.
LIKELY = TEXT | TEXT | st.lists(TEXT, max_size=2) | st.booleans() | NUMBERS | ANY_JSON
RIGHT: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.sampled_from([-1, 1, 20000]),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(WORDS, max_size=2),
    InputType: st.sampled_from(["ints", "doubles", "s", "nonsense"]),
    int | None: st.sampled_from([-1, 1, 20000]),
    bool | None: st.booleans(),
    BatchPolicy | None: st.sampled_from([*BatchPolicy, "nonsense"]),
    dict[str, Any] | None: st.dictionaries(
        st.sampled_from(["weights", "sticky_key", "x"]), ANY_JSON | st.dictionaries(WORDS, NUMBERS, max_size=3)
    ),
}


def _bodies(shape: Any) -> st.SearchStrategy[bytes]:
    right = st.fixed_dictionaries({field.name: RIGHT[field.type] for field in fields(shape)})
    nearly = st.fixed_dictionaries({field.name: RIGHT[field.type] | LIKELY for field in fields(shape)})
    documents = right | nearly | ANY_JSON
    return documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=30)


REQUESTS = st.sampled_from(list(ROUTES)).flatmap(lambda route: st.tuples(st.just(route), _bodies(ROUTES[route])))


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS)
async def test_no_json_makes_a_route_fail(client: TestClient, request: tuple[str, bytes]) -> None:
    route, body = request
    answer = await client.post(f"/admin/{route}", data=body)
    assert answer.status in (200, 400), await answer.text()
