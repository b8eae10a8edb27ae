"""JSON bodies of the query frontend's routes: requests to values, answers to bytes."""

import binascii
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple

from clipper_common import jsontext
from clipper_common.constants import MAX_INPUTS_PER_REQUEST
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError


def _simdjson_parser() -> Any:
    try:
        import simdjson
    except ImportError:  # no wheel for this platform
        return None
    return simdjson.Parser()


PREDICT_SCHEMA: Final = """
  {
   "input" := [double] | [int] | [float] | string | base64-encoded string,
   "input_batch" := [ input, ... ] (instead of "input"),
   "version" := string (optional)
  }
"""
UPDATE_SCHEMA: Final = """
  {
   "uid" := int,
   "input" := [double] | [int] | [float] | string | base64-encoded string,
   "label" := double
  }
"""
_simdjson: Final = _simdjson_parser()
_MAX_SIMDJSON_BYTES: Final = 1 << 20
"""It keeps a buffer of several times the largest text that it saw."""
_INT64_LIMIT: Final = 1 << 63
_INT: Final = frozenset({int})
_INT_OR_FLOAT: Final = frozenset({int, float})
_ELEMENT_NAMES: Final = {InputType.INTS: "int", InputType.FLOATS: "float", InputType.DOUBLES: "double"}


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    uid: int
    input: bytes
    label: float


class Default(NamedTuple):
    """The application's default output, as JSON, and why there is no better one."""

    output: bytes
    explanation: str


Answer = bytes | Default
"""What one input is answered with: the model's output, as JSON, or the default."""


def explain(error: JsonError, schema: str) -> str:
    """The text of 0.4 for a request that is not as `schema` says."""
    if isinstance(error, NotAnObject):
        return str(error)
    return f"Error parsing JSON: {error}. Expected JSON schema: {schema}"


# --- requests ------------------------------------------------------------------------------------


def parse_predict(body: bytes, input_type: InputType) -> tuple[list[bytes], str | None]:
    """The inputs as they go to the model, and the version that is asked for. Raises `JsonError`."""
    if input_type is InputType.DOUBLES and (encoded := parse_doubles(body)):
        return [encoded], None
    fields = _parse_fields(body)
    version = fields.get("version")
    if version is not None and not isinstance(version, str):
        raise jsontext.type_mismatch("version", "String", version)
    if "input" in fields:
        return [_encode("input", fields["input"], input_type)], version
    if "input_batch" not in fields:
        raise JsonError("JSON object does not have required keys input or input_batch")
    batch = fields["input_batch"]
    if not isinstance(batch, list):
        raise jsontext.type_mismatch("input_batch", "Array", batch)
    if len(batch) > MAX_INPUTS_PER_REQUEST:
        raise JsonError(
            f"JSON key input_batch holds {len(batch)} inputs, more than the {MAX_INPUTS_PER_REQUEST} of a request"
        )
    return [_encode("input_batch", item, input_type) for item in batch], version


def parse_update(body: bytes, input_type: InputType) -> UpdateRequest:
    """Raises `JsonError`."""
    fields = _parse_fields(body)
    for key in ("uid", "input", "label"):
        if key not in fields:
            raise JsonError(f"JSON object does not have required key: {key}")
    uid, label = fields["uid"], fields["label"]
    if type(uid) is not int or not -_INT64_LIMIT <= uid < _INT64_LIMIT:
        raise jsontext.type_mismatch("uid", "int64", uid)
    if type(label) not in _INT_OR_FLOAT:
        raise jsontext.type_mismatch("label", "double", label)
    return UpdateRequest(uid, _encode("input", fields["input"], input_type), float(label))


def parse_doubles(body: bytes) -> bytes | None:
    """The input in ``{"input": [1.5, ...]}`` as doubles; None for anything else, be it right or wrong.

    simdjson writes the numbers into one buffer, where any other parser makes a Python object of each; that is most of
    what a long vector costs. It would flatten nested arrays, and of repeated keys it takes the first.
    """
    if _simdjson is None or len(body) > _MAX_SIMDJSON_BYTES:
        return None
    if not body.startswith(b"{") or body.find(b"[") != body.rfind(b"["):
        return None
    try:
        fields = _simdjson.parse(body)
        return bytes(fields["input"].as_buffer(of_type="d")) if len(fields) == 1 else None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # whatever it is, the general parser finds the words for it


class NotAnObject(JsonError):
    """The body is JSON, but no object; 0.4 says so without a schema."""


def _parse_fields(body: bytes) -> dict[str, Any]:
    value = jsontext.parse(body)
    if not isinstance(value, dict):
        raise NotAnObject("JSON schema invalid")
    return value


def _encode(key: str, value: object, input_type: InputType) -> bytes:
    if input_type is InputType.STRINGS:
        encoded = _encode_string(key, value)
    elif input_type is InputType.BYTES:
        encoded = _decode_base64(key, value)
    else:
        encoded = _encode_numbers(key, value, input_type)
    if not encoded:
        raise JsonError(f"JSON key {key} holds an empty input, which no model can answer")
    return encoded


def _encode_string(key: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise jsontext.type_mismatch(key, "String", value)
    return value.encode()


def _decode_base64(key: str, value: object) -> bytes:
    if not isinstance(value, str):
        if key == "input":
            raise jsontext.type_mismatch(key, "String", value)
        name = jsontext.type_name(value)
        raise JsonError(f"PredictionData of type {name} is not of type base64-encoded string")
    try:
        return binascii.a2b_base64(value + "=" * (-len(value) % 4), strict_mode=True)
    except ValueError as error:
        raise JsonError(f"JSON key {key} is not of type base64-encoded string: {error}") from None


def _encode_numbers(key: str, value: object, input_type: InputType) -> bytes:
    if not isinstance(value, list):
        if key == "input":
            raise jsontext.type_mismatch(key, "Array", value)
        raise JsonError(f"Array input of type {jsontext.type_name(value)} is not of type array")
    allowed = _INT if input_type is InputType.INTS else _INT_OR_FLOAT
    if not allowed.issuperset(map(type, value)):
        raise _not_of_type(next(item for item in value if type(item) not in allowed), input_type)
    try:
        numbers = array(input_type.typecode, value)
    except OverflowError:
        raise _out_of_range(value, input_type) from None
    if input_type is InputType.FLOATS and (inf in numbers or -inf in numbers):
        raise _out_of_range(value, input_type)
    return numbers.tobytes()


def _not_of_type(item: object, input_type: InputType) -> JsonError:
    name = _ELEMENT_NAMES[input_type]
    return JsonError(f"Array input of type {jsontext.type_name(item)} is not of type {name}")


def _out_of_range(value: list[Any], input_type: InputType) -> JsonError:
    name = _ELEMENT_NAMES[input_type]
    limit = 2.0**31 if input_type is InputType.INTS else 3.4028235e38
    worst = max(value, key=abs)
    return JsonError(f"Array input of type Number is not of type {name}: {worst} is beyond +-{limit:g}")


# --- answers -------------------------------------------------------------------------------------


def render(answers: Sequence[Answer], query_ids: Iterator[int]) -> bytes:
    """The response body. A batch of exactly one is unwrapped, as in 0.4."""
    parts = [render_one(next(query_ids), answer) for answer in answers]
    return parts[0] if len(parts) == 1 else b'{"batch_predictions":[' + b",".join(parts) + b"]}"


def render_one(query_id: int, answer: Answer) -> bytes:
    if isinstance(answer, bytes):
        return b'{"query_id":%d,"output":%b,"default":false}' % (query_id, answer)
    return b'{"query_id":%d,"output":%b,"default":true,"default_explanation":%b}' % (
        query_id,
        answer.output,
        jsontext.dumps(answer.explanation),
    )
