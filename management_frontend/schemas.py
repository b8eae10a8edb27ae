"""The requests of the routes. The fields of a class define how a request is checked, and its schema in errors."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from clipper_common import jsontext
from clipper_common.constants import MAX_INT32
from clipper_common.datatypes import BatchPolicy, InputType
from clipper_common.errors import ClipperException, JsonError, QueryError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_INT32: Final = range(-MAX_INT32 - 1, MAX_INT32 + 1)


@dataclass(frozen=True)
class AddApplication:
    name: str
    input_type: InputType
    default_output: str
    latency_slo_micros: int
    missing_values: bool = False
    """Whether floats and doubles may be null, NaN or infinite."""
    max_body_bytes: int | None = None


@dataclass(frozen=True)
class NamedApplication:
    name: str


@dataclass(frozen=True)
class ModelLinks:
    app_name: str
    model_names: tuple[str, ...]


@dataclass(frozen=True)
class LinkedModels:
    app_name: str


@dataclass(frozen=True)
class SetSelectionPolicy:
    app_name: str
    policy: str
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class AppSelection:
    app_name: str


@dataclass(frozen=True)
class AddModel:
    model_name: str
    model_version: str
    labels: tuple[str, ...]
    input_type: InputType
    container_name: str
    model_data_path: str
    batch_size: int
    make_current: bool = True
    """Whether this becomes the current version, which queries without a version go to."""
    check_only: bool = False
    """Whether to check only if the model could be added, and to write nothing."""
    batch_policy: BatchPolicy | None = None
    batch_delay_micros: int | None = None
    max_output_bytes: int | None = None
    batch_wait: bool | None = None


@dataclass(frozen=True)
class VersionedModel:
    model_name: str
    model_version: str


@dataclass(frozen=True)
class SetBatching:
    """A change of batching. Fields that are left out stay as they are."""

    model_name: str
    model_version: str
    batch_policy: BatchPolicy | None = None
    batch_size: int | None = None
    batch_delay_micros: int | None = None
    batch_wait: bool | None = None


@dataclass(frozen=True)
class SetWorkers:
    workers: int


@dataclass(frozen=True)
class Nothing:
    """A request without fields."""


@dataclass(frozen=True)
class Listing:
    verbose: bool


@dataclass(frozen=True)
class NumberedReplica:
    model_name: str
    model_version: str
    replica_id: int


@dataclass(frozen=True)
class SelectionState:
    app_name: str
    uid: int


AnyRequest = TypeVar("AnyRequest", bound="DataclassInstance")


def parse(request: type[AnyRequest], body: bytes) -> AnyRequest:
    """Parse the request in `body`. Raises `JsonError`, which says which key is wrong and what was expected."""
    try:
        document = jsontext.parse_object(body, otherwise="Can only get key-value pair from an object")
        return request(**dict(_take_fields(request, document)))
    except JsonError as error:
        raise JsonError(f"Error parsing JSON: {error}. Expected JSON schema: {hint(request)}") from None


def hint(request: "type[DataclassInstance]") -> str:
    """Return the schema of `request`, as errors show it."""
    return "{" + ", ".join(map(_field_hint, fields(request))) + "}"


def _field_hint(field: Field[Any]) -> str:
    return f'"{field.name}": {_KINDS[field.type].hint}' + (" (optional)" if _is_optional(field) else "")


def _take_fields(request: "type[DataclassInstance]", document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for field in fields(request):
        if field.name in document:
            yield field.name, _KINDS[field.type].check(field.name, document[field.name])
        elif not _is_optional(field):
            raise JsonError(f"JSON object does not have required key: {field.name}")


def _is_optional(field: Field[Any]) -> bool:
    return field.default is not MISSING


# --- the types of fields: their checks and their names in schemas ---


def _string(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise jsontext.type_mismatch(key, "String", value)
    return value


def _strings(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise jsontext.type_mismatch(key, "Array", value)
    for item in value:
        if not isinstance(item, str):
            raise JsonError(f"Array input of type {jsontext.type_name(item)} is not of type string")
    return tuple(value)


def _integer(key: str, value: object) -> int:
    if type(value) not in (int, float):
        raise jsontext.type_mismatch(key, "Number", value)
    if not isinstance(value, int) or value not in _INT32:
        raise JsonError("PredictionData of type Number is not of type int")
    return value


def _boolean(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        # Unlike in jsontext.type_mismatch there is a blank before "but", as in Clipper 0.4.
        found = jsontext.type_name(value)
        raise JsonError(f"Type mismatch! JSON key {key} expected type bool but found type {found}")
    return value


def _object(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise jsontext.type_mismatch(key, "Object", value)
    return value


def _input_type(key: str, value: object) -> InputType:
    try:
        return InputType.parse(_string(key, value))
    except JsonError:
        raise
    except ClipperException as error:
        raise QueryError(str(error)) from None


def _batch_policy(key: str, value: object) -> BatchPolicy:
    try:
        return BatchPolicy.parse(_string(key, value))
    except JsonError:
        raise
    except ClipperException as error:
        raise QueryError(str(error)) from None


class _Kind(NamedTuple):
    check: Callable[[str, object], Any]
    hint: str


_KINDS: Final[dict[Any, _Kind]] = {
    str: _Kind(_string, "string"),
    tuple[str, ...]: _Kind(_strings, "[string, ...]"),
    int: _Kind(_integer, "int32"),
    int | None: _Kind(_integer, "int32"),
    bool: _Kind(_boolean, "bool"),
    InputType: _Kind(_input_type, " | ".join(f'"{kind.canonical_name}"' for kind in InputType)),
    bool | None: _Kind(_boolean, "bool"),
    dict[str, Any] | None: _Kind(_object, "object"),
    BatchPolicy | None: _Kind(_batch_policy, " | ".join(f'"{policy}"' for policy in BatchPolicy)),
}
