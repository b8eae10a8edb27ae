"""The records in Redis, as frozen dataclasses: their fields, their text forms and the valid values.

`docs/redis-schema.md` has the tables.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from clipper_common.constants import (
    DEFAULT_BATCH_SIZE,
    MAX_DEFAULT_OUTPUT_BYTES,
    MAX_INT32,
    MAX_OUTPUT_BYTES,
    SIZE_LIMITS,
)
from clipper_common.datatypes import BatchPolicy, InputType, Link, ModelId, is_model_text, is_plain_text, printable
from clipper_common.errors import ClipperException, RecordError

# --- limits ---

SCHEMA_VERSION: Final = "1"
DEFAULT_POLICY: Final = "DefaultOutputSelectionPolicy"

MAX_RECORD_BYTES: Final = 2 * 1024 * 1024
"""The most bytes of a record. A larger one is invalid, and Redis does not send it."""
MAX_RECORD_PARTS: Final = 1000
"""The most fields of a hash, or members of a set."""
MAX_KEY_BYTES: Final = 4096
COUNTER_DIGITS: Final = 15
"""The most digits of a revision, because all numbers are doubles in the Lua of Redis."""
REPLICA_NUMBER_DIGITS: Final = 9
MAX_REMEMBERED: Final = 8192
"""While the database of the frontends has so many keys, the numbers of new replicas are not remembered."""
EPOCH_CHARACTERS: Final = "A-Za-z0-9-"
"""The characters of an epoch, as a character class in patterns of Python and of Lua."""
MAX_EPOCH_BYTES: Final = 64

# --- fields ---

Hash = Mapping[str, str]

_WHOLE: Final = re.compile(rf"-?(0|[1-9][0-9]{{0,{COUNTER_DIGITS - 1}}})")
COUNTS: Final = range(10**COUNTER_DIGITS)
_REPLICA_NUMBERS: Final = range(10**REPLICA_NUMBER_DIGITS)
_POSITIVE: Final = range(1, MAX_INT32 + 1)
_BATCH_SIZES: Final = range(DEFAULT_BATCH_SIZE, MAX_INT32 + 1)
_DELAYS: Final = range(MAX_INT32 + 1)


def _take(hash_: Hash, name: str, what: str) -> str:
    try:
        return hash_[name]
    except KeyError:
        raise RecordError(f"{what} has no field '{name}'") from None


def _take_int(hash_: Hash, name: str, what: str, allowed: range) -> int:
    return to_int(_take(hash_, name, what), f"{what} has {name}=", allowed)


def _take_size_limit(hash_: Hash, name: str, what: str) -> int:
    """Return the limit; 0 if there is none."""
    return _take_int(hash_, name, what, SIZE_LIMITS) if name in hash_ else 0


def to_int(text: str, what: str, allowed: range) -> int:
    if not _WHOLE.fullmatch(text):
        raise RecordError(f"{what}'{printable(text, 40)}', which is no whole number")
    if (number := int(text)) not in allowed:
        raise RecordError(f"{what}{number}, which is not from {allowed[0]} to {allowed[-1]}")
    return number


def _take_model_id(hash_: Hash, what: str) -> ModelId:
    for name in ("model_name", "model_version"):
        check_model_text(_take(hash_, name, what), f"{what} has {name}=")
    return ModelId(hash_["model_name"], hash_["model_version"])


def check_model_text(text: str, what: str) -> str:
    if not is_model_text(text):
        raise RecordError(f"{what}'{printable(text, 40)}', which cannot be the name or the version of a model")
    return text


def _take_input_type(hash_: Hash, what: str) -> InputType:
    word = _take(hash_, "input_type", what)
    try:
        return InputType.parse(word)
    except ClipperException:
        raise RecordError(f"{what}: {printable(word, 40)} is not a valid input string") from None


def _take_batch_policy(hash_: Hash, what: str) -> BatchPolicy:
    word = hash_.get("batch_policy", BatchPolicy.LEARNED)
    try:
        policy = BatchPolicy.parse(word)
    except ClipperException:
        raise RecordError(f"{what}: {printable(word, 40)} is not a batch policy") from None
    if policy is BatchPolicy.FIXED:
        raise RecordError(f"{what} has batch_policy='{policy}', by which no batch size is learned")
    return policy


# --- records ---


@dataclass(frozen=True, slots=True)
class Selection:
    """How an application chooses among the models that it is linked to."""

    policy: str
    """The name of the policy. A program that does not know it takes it for `single`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    generation: int = 1
    """It is incremented when the policy or its options change."""
    links: tuple[Link, ...] = ()
    """The links in the order in which they were made. Empty with the policy `single`, whose only link is that in the
    collection of links."""

    def to_json(self) -> str:
        links = list(map(str, self.links))
        record = {"policy": self.policy, "options": self.options, "generation": self.generation, "links": links}
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, what: str) -> Self:
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise RecordError(f"{what} has a selection that is no JSON object")
        policy, options, links = fields.get("policy"), fields.get("options"), fields.get("links")
        generation = fields.get("generation")
        if not isinstance(policy, str) or not is_plain_text(policy):
            raise RecordError(f"{what} has a selection without the name of a policy")
        if not isinstance(options, dict) or type(generation) is not int or generation not in COUNTS:
            raise RecordError(f"{what} has a selection without options or generation")
        if not isinstance(links, list) or not all(isinstance(link, str) for link in links):
            raise RecordError(f"{what} has a selection without a list of links")
        return cls(policy, options, generation, tuple(_to_link(link, what) for link in links))


def _to_link(text: str, what: str) -> Link:
    link = Link.parse(text)
    for part in (link.model_name, link.version):
        if part is not None:
            check_model_text(part, f"{what} has a link to ")
    return link


@dataclass(frozen=True, slots=True)
class Application:
    """A REST endpoint with its input type, latency objective and default output."""

    name: str
    input_type: InputType
    default_output: str
    latency_slo_micros: int
    policy: str = DEFAULT_POLICY
    missing_values: bool = False
    """Whether floats and doubles may be null, NaN and infinite."""
    max_body_bytes: int = 0
    """The largest body of a request in bytes; 0 is the limit of the query frontend."""
    selection: Selection | None = None
    """None if no policy was ever set."""

    @property
    def slo_seconds(self) -> float:
        return self.latency_slo_micros / 1e6

    def to_hash(self) -> dict[str, str]:
        return {
            "input_type": self.input_type.canonical_name,
            "policy": self.policy,
            "default_output": self.default_output,
            "latency_slo_micros": str(self.latency_slo_micros),
            **({"missing_values": "true"} if self.missing_values else {}),
            **({"max_body_bytes": str(self.max_body_bytes)} if self.max_body_bytes else {}),
            **({"selection": self.selection.to_json()} if self.selection else {}),
        }

    @classmethod
    def from_hash(cls, name: str, hash_: Hash) -> Self:
        what = f"application '{printable(name, 80)}'"
        if not is_plain_text(name):
            raise RecordError(f"{what} has no proper name")
        default_output = _take(hash_, "default_output", what)
        if len(default_output.encode()) > MAX_DEFAULT_OUTPUT_BYTES:
            raise RecordError(f"{what} has a default_output of more than {MAX_DEFAULT_OUTPUT_BYTES} bytes")
        return cls(
            name=name,
            input_type=_take_input_type(hash_, what),
            default_output=default_output,
            latency_slo_micros=_take_int(hash_, "latency_slo_micros", what, _POSITIVE),
            policy=hash_.get("policy", DEFAULT_POLICY),
            missing_values=hash_.get("missing_values") == "true",
            max_body_bytes=_take_size_limit(hash_, "max_body_bytes", what),
            selection=Selection.from_json(hash_["selection"], what) if "selection" in hash_ else None,
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A version of a model."""

    id: ModelId
    input_type: InputType
    labels: tuple[str, ...] = ()
    container_name: str = ""
    model_data_path: str = ""
    batch_size: int = DEFAULT_BATCH_SIZE
    registration: str = ""
    """An id that differs between two registrations of a version; empty in records that Clipper 0.4 wrote."""
    learning_policy: BatchPolicy = BatchPolicy.LEARNED
    """The policy that learns the batch size. It is kept, but not used, while the size is fixed."""
    batch_delay_micros: int = 0
    max_output_bytes: int = MAX_OUTPUT_BYTES
    """The largest output for one input, in bytes."""
    batch_wait: bool = True
    """Whether batches wait for clients that are expected back."""

    @property
    def batch_policy(self) -> BatchPolicy:
        """The policy in effect."""
        return self.learning_policy if self.batch_size == DEFAULT_BATCH_SIZE else BatchPolicy.FIXED

    def with_batching_of(self, other: Self) -> Self:
        """Return this version with the batching of `other`, since batching may change while a version is registered."""
        return replace(
            self,
            batch_size=other.batch_size,
            learning_policy=other.learning_policy,
            batch_delay_micros=other.batch_delay_micros,
            batch_wait=other.batch_wait,
        )

    def to_hash(self) -> dict[str, str]:
        return {
            "model_name": self.id.name,
            "model_version": self.id.version,
            "load": "0.000000",
            "input_type": self.input_type.canonical_name,
            "labels": ",".join(self.labels),
            "container_name": self.container_name,
            "model_data_path": self.model_data_path,
            "batch_size": str(self.batch_size),
            "valid": "",
            "registration": self.registration,
            "batch_policy": self.learning_policy,
            "batch_delay_micros": str(self.batch_delay_micros),
            "batch_wait": "true" if self.batch_wait else "false",
            **({"max_output_bytes": str(self.max_output_bytes)} if self.max_output_bytes != MAX_OUTPUT_BYTES else {}),
        }

    @classmethod
    def from_hash(cls, hash_: Hash) -> Self:
        what = f"model '{_shown_id(hash_)}'"
        labels = _take(hash_, "labels", what)
        batch_size = _take_int(hash_, "batch_size", what, _BATCH_SIZES)
        if not batch_size:
            raise RecordError(f"{what} has batch_size=0, which is neither positive nor {DEFAULT_BATCH_SIZE}")
        return cls(
            id=_take_model_id(hash_, what),
            input_type=_take_input_type(hash_, what),
            labels=tuple(labels.split(",")) if labels else (),
            container_name=_take(hash_, "container_name", what),
            model_data_path=_take(hash_, "model_data_path", what),
            batch_size=batch_size,
            registration=hash_.get("registration", ""),
            learning_policy=_take_batch_policy(hash_, what),
            batch_delay_micros=_take_int({"batch_delay_micros": "0", **hash_}, "batch_delay_micros", what, _DELAYS),
            max_output_bytes=_take_size_limit(hash_, "max_output_bytes", what) or MAX_OUTPUT_BYTES,
            batch_wait=hash_.get("batch_wait") != "false",
        )


@dataclass(frozen=True, slots=True)
class Replica:
    """A model container that is connected to one query frontend or several."""

    model_id: ModelId
    replica_id: int
    zmq_connection_id: int
    input_type: InputType

    def to_hash(self) -> dict[str, str]:
        return {
            "model_id": str(self.model_id),
            "model_name": self.model_id.name,
            "model_version": self.model_id.version,
            "model_replica_id": str(self.replica_id),
            "zmq_connection_id": str(self.zmq_connection_id),
            "batch_size": "1",  # a field of 0.4 that has no meaning
            "input_type": self.input_type.canonical_name,
        }

    @classmethod
    def from_hash(cls, hash_: Hash) -> Self:
        what = f"container '{_shown_id(hash_)}'"
        return cls(
            model_id=_take_model_id(hash_, what),
            replica_id=_take_int(hash_, "model_replica_id", what, _REPLICA_NUMBERS),
            zmq_connection_id=_take_int(hash_, "zmq_connection_id", what, COUNTS),
            input_type=_take_input_type(hash_, what),
        )


def _shown_id(hash_: Hash) -> str:
    """Return the name of a record that may be invalid."""
    return printable(f"{hash_.get('model_name')}:{hash_.get('model_version')}", 80)


UNNUMBERED: Final = -1
"""The number of a replica that has got no number from Redis yet."""


@dataclass(frozen=True, slots=True)
class FrontendReport:
    """The report of a query frontend about itself."""

    frontend_id: str
    revision: int
    """The revision by which it serves."""
    rpc_address: str = ""
    """The address at which containers reach it; empty if it is not known."""
    replicas: Sequence[tuple[str, Replica]] = ()
    """The replicas of the frontend by name. A replica has the same name at all frontends, and no other replica of its
    model version has it."""
    reached: frozenset[ModelId] = frozenset()
    """The model versions of which it reaches a replica, directly or relayed."""

    def to_json(self) -> str:
        """Return all but the revision, as JSON."""
        replicas = [[name, replica.to_hash()] for name, replica in self.replicas]
        return json.dumps([self.rpc_address, replicas, sorted(map(str, self.reached))])


@dataclass(frozen=True, slots=True)
class Frontend:
    """A live query frontend, as the others see it."""

    id: str
    rpc_address: str
    models: frozenset[ModelId]
    """The model versions of which it has replicas."""

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Return the frontend in a summary. Raises `RecordError` if it is malformed."""
        try:
            frontend_id, address, pairs = json.loads(text)
            models = frozenset(ModelId(name, version) for name, version in pairs)
        except (ValueError, TypeError, RecursionError):  # UnicodeDecodeError is a ValueError
            raise RecordError("its summary is no list of an id, an address and model versions") from None
        if not isinstance(frontend_id, str) or not is_plain_text(frontend_id):
            raise RecordError("its summary has no proper id")
        if address and not (isinstance(address, str) and address.startswith("tcp://") and is_plain_text(address)):
            raise RecordError("its summary has no proper address")
        if not all(isinstance(part, str) and is_model_text(part) for model in models for part in model):
            raise RecordError("its summary has model versions with no proper names")
        return cls(frontend_id, address or "", models)
