"""JSON bodies of the query frontend's requests as values."""

from array import array
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import inf, isinf, nan
from typing import Any, Final, NamedTuple

from clipper_common import base64text, jsontext
from clipper_common.constants import MAX_INPUTS_PER_REQUEST
from clipper_common.datatypes import InputType
from clipper_common.errors import JsonError
from query_frontend.simd import simdjson_parser

PREDICT_SCHEMA: Final = """
  {
   "input" := [double] | [int] | [float] | string | base64-encoded string | [byte],
   "input_batch" := [ input, ... ] (instead of "input"),
   "version" := string (optional)
  }
"""
UPDATE_SCHEMA: Final = """
  {
   "uid" := int,
   "input" := [double] | [int] | [float] | string | base64-encoded string | [byte],
   "label" := double
  }
"""
_simdjson: Final = simdjson_parser()
_STEP_INPUTS: Final = 64
_INT64_LIMIT: Final = 1 << 63
_BRACKET: Final = ord("[")
_INT: Final = frozenset({int})
_INT_OR_FLOAT: Final = frozenset({int, float})
_MAX_UID_LENGTH: Final = 1024
"""The longest `uid` that is used itself. It is hashed for each arm, and may come from another process."""
_NUMBER_OR_MISSING: Final = frozenset({int, float, type(None)})
_NON_FINITE: Final = ("NaN", "Infinity")
_MISSING_VALUES_HINT: Final = (
    "An application takes null, NaN and infinities among its numbers if it was registered with missing_values=true"
)
_LIMITS: Final = {InputType.INTS: 2.0**31, InputType.FLOATS: 3.4028235e38, InputType.DOUBLES: 1.7976931348623157e308}
_ELEMENT_NAMES: Final = {InputType.INTS: "int", InputType.FLOATS: "float", InputType.DOUBLES: "double"}


class Asked(NamedTuple):
    """A request for predictions."""

    inputs: list[bytes]
    """As they go to the model."""
    version: str | None = None
    """The version that is asked for."""
    uid: object = None
    """The user, as it was in the JSON, but without what an array or object contained; a long text is hashed."""
    explain: bool = False

    @classmethod
    def of(cls, inputs: list[bytes], fields: Mapping[str, Any]) -> "Asked":
        """Return the request with these inputs, whose other keys are in `fields`, with a valid version."""
        uid = fields.get("uid")
        if isinstance(uid, list | dict):
            uid = type(uid)()
        elif isinstance(uid, str) and len(uid) > _MAX_UID_LENGTH:
            uid = blake2b(uid.encode(errors="surrogatepass")).hexdigest()
        return cls(inputs, fields.get("version"), uid, fields.get("explain") is True)


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    uid: int
    input: bytes
    label: float


def explain(error: JsonError, schema: str) -> str:
    """The text of 0.4 for a request that is not as `schema` says."""
    if isinstance(error, NotAnObject):
        return str(error)
    return f"Error parsing JSON: {error}. Expected JSON schema: {schema}"


def parse_predict(body: bytes, input_type: InputType, missing_values: bool = False) -> Asked:
    """Raises `JsonError`.

    With `missing_values`, floats and doubles may be null (which is NaN), NaN and infinite.
    """
    if input_type is InputType.DOUBLES and (encoded := parse_doubles(body)):
        return Asked([encoded])
    key, values, fields = _parse_inputs(body, input_type, missing_values)
    return Asked.of([_encode(key, value, input_type, missing_values) for value in values], fields)


def parse_single(body: bytes, input_type: InputType, missing_values: bool) -> bytes | None:
    """The only input of a body that asks for no version; None for any other body. Raises `JsonError`."""
    key, values, fields = _parse_inputs(body, input_type, missing_values)
    if fields.get("version") is not None or len(values) != 1:
        return None
    return _encode(key, values[0], input_type, missing_values)


def parse_predict_in_steps(body: bytes, input_type: InputType, missing_values: bool) -> Generator[None, None, Asked]:
    """Parse a request like `parse_predict`, with a step for every few inputs."""
    key, values, fields = _parse_inputs(body, input_type, missing_values)
    inputs: list[bytes] = []
    for begin in range(0, len(values), _STEP_INPUTS):
        if begin:
            yield
        some = values[begin : begin + _STEP_INPUTS]
        inputs += [_encode(key, value, input_type, missing_values) for value in some]
    return Asked.of(inputs, fields)


def _parse_inputs(body: bytes, input_type: InputType, missing_values: bool) -> tuple[str, list[Any], dict[str, Any]]:
    """The key of the inputs, their values, and all fields, of which the version is valid."""
    fields = _parse_fields(body, input_type, missing_values)
    version = fields.get("version")
    if version is not None and not isinstance(version, str):
        raise jsontext.type_mismatch("version", "String", version)
    if "input" in fields:
        return "input", [fields["input"]], fields
    if "input_batch" not in fields:
        raise JsonError("JSON object does not have required keys input or input_batch")
    batch = fields["input_batch"]
    if not isinstance(batch, list):
        raise jsontext.type_mismatch("input_batch", "Array", batch)
    if len(batch) > MAX_INPUTS_PER_REQUEST:
        raise JsonError(
            f"JSON key input_batch holds {len(batch)} inputs, more than the {MAX_INPUTS_PER_REQUEST} of a request"
        )
    return "input_batch", batch, fields


def parse_update(body: bytes, input_type: InputType, missing_values: bool = False) -> UpdateRequest:
    """Raises `JsonError`."""
    fields = _parse_fields(body, input_type, missing_values)
    for key in ("uid", "input", "label"):
        if key not in fields:
            raise JsonError(f"JSON object does not have required key: {key}")
    uid, label = fields["uid"], fields["label"]
    if type(uid) is not int or not -_INT64_LIMIT <= uid < _INT64_LIMIT:
        raise jsontext.type_mismatch("uid", "int64", uid)
    if type(label) not in _INT_OR_FLOAT:
        raise jsontext.type_mismatch("label", "double", label)
    return UpdateRequest(uid, _encode("input", fields["input"], input_type, missing_values), float(label))


def parse_doubles(body: bytes) -> bytes | None:
    """The input in ``{"input": [1.5, ...]}`` as doubles; None for anything else, be it right or wrong.

    simdjson writes the numbers into one buffer, where any other parser makes a Python object of each; that is most of
    what a long vector costs. It would flatten nested arrays, and of repeated keys it takes the first.
    """
    if _simdjson is None or not body.startswith(b"{") or not _has_one_array(body):
        return None
    try:
        fields = _simdjson.parse(body)
        return bytes(fields["input"].as_buffer(of_type="d")) if len(fields) == 1 else None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # whatever it is, the general parser finds the words for it


def _has_one_array(body: bytes) -> bool:
    """Whether there is one opening bracket at most, which comes after few characters as a rule."""
    last = body.rfind(b"[")
    at = 0
    while at < last and body[at] != _BRACKET:
        at += 1
    return at >= last


class NotAnObject(JsonError):
    """The body is JSON, but no object; 0.4 says so without a schema."""


def _parse_fields(body: bytes, input_type: InputType, missing_values: bool) -> dict[str, Any]:
    try:
        value = jsontext.parse(body)
    except JsonError as error:
        if input_type not in (InputType.FLOATS, InputType.DOUBLES) or not error.rest.startswith(_NON_FINITE):
            raise
        if not missing_values:
            raise JsonError(f"{error}{_MISSING_VALUES_HINT}") from None
        value = jsontext.parse_with_missing(body)
    if not isinstance(value, dict):
        raise NotAnObject("JSON schema invalid")
    return value


def _encode(key: str, value: object, input_type: InputType, missing_values: bool) -> bytes:
    if input_type is InputType.STRINGS:
        encoded = _encode_string(key, value)
    elif input_type is InputType.BYTES:
        encoded = _encode_byte_list(key, value) if isinstance(value, list) else _decode_base64(key, value)
    elif missing_values and input_type is not InputType.INTS and isinstance(value, list):
        encoded = _encode_with_missing(value, input_type)
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
        return base64text.decode(value)
    except ValueError as error:
        raise JsonError(f"JSON key {key} is not of type base64-encoded string: {error}") from None


def _encode_byte_list(key: str, value: list[Any]) -> bytes:
    if not _INT.issuperset(map(type, value)):
        wrong = next(item for item in value if type(item) is not int)
        raise JsonError(f"JSON key {key}: Array input of type {jsontext.type_name(wrong)} is not of type byte")
    try:
        return bytes(value)
    except (ValueError, OverflowError):
        wrong = next(item for item in value if not 0 <= item < 256)
        text = f"Array input of type Number is not of type byte: {wrong} is not from 0 to 255"
        raise JsonError(f"JSON key {key}: {text}") from None


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


def _encode_with_missing(value: list[Any], input_type: InputType) -> bytes:
    """Encode numbers like `_encode_numbers`, with NaN for null, and with infinities as they are."""
    if not _NUMBER_OR_MISSING.issuperset(map(type, value)):
        raise _not_of_type(next(item for item in value if type(item) not in _NUMBER_OR_MISSING), input_type)
    try:
        numbers = array(input_type.typecode, [nan if item is None else item for item in value])
    except OverflowError:
        raise _out_of_range([item for item in value if item is not None], input_type) from None
    if input_type is InputType.FLOATS:  # what was finite must be so as a float, too
        wide = [item for item, number in zip(value, numbers, strict=True) if isinf(number) and not isinf(item)]
        if wide:
            raise _out_of_range(wide, input_type)
    return numbers.tobytes()


def _not_of_type(item: object, input_type: InputType) -> JsonError:
    text = f"Array input of type {jsontext.type_name(item)} is not of type {_ELEMENT_NAMES[input_type]}"
    return JsonError(text if item is not None or input_type is InputType.INTS else f"{text}. {_MISSING_VALUES_HINT}")


def _out_of_range(value: list[Any], input_type: InputType) -> JsonError:
    name = _ELEMENT_NAMES[input_type]
    limit = _LIMITS[input_type]
    worst = max((item for item in value if item == item), key=abs)  # NaN is not greater than anything
    return JsonError(f"Array input of type Number is not of type {name}: {worst} is beyond +-{limit:g}")
