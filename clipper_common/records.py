"""What Redis holds: records as frozen dataclasses, and their keys, fields and text forms.

The schema is Clipper 0.4's (databases 1 to 7), and database 0 for what 0.4 did not have. `docs/redis-schema.md` has
the tables.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Self

from clipper_common.constants import DEFAULT_BATCH_SIZE
from clipper_common.datatypes import BatchPolicy, InputType, ModelId
from clipper_common.errors import ClipperException, RecordError

# --- databases and keys ---
CLIPPER_DB: Final = 0
STATE_DB: Final = 1
MODEL_DB: Final = 2
REPLICA_DB: Final = 3
APPLICATION_DB: Final = 5
METADATA_DB: Final = 6
LINK_DB: Final = 7

SCHEMA_VERSION: Final = "1"
SCHEMA_KEY: Final = "clipper:schema_version"
REVISION_KEY: Final = "clipper:revision"
EPOCH_KEY: Final = "clipper:epoch"
CLUSTER_KEY: Final = "clipper:cluster"
LAST_CLUSTER_KEY: Final = "clipper:last_cluster"
WORKERS_KEY: Final = "clipper:workers"
FRONTEND_PREFIX: Final = "clipper:frontend:"
LIVING_KEY: Final = "clipper:living_frontends"
REPLICA_NUMBER_PREFIX: Final = "clipper:replica_number:"
REPLICA_COUNT_PREFIX: Final = "clipper:replica_count:"
REACHED_PREFIX: Final = "reached:"
"""The prefix of the fields of a frontend's record that name the model versions it reaches."""
CHANGES_CHANNEL: Final = "clipper:changes"
FRONTENDS_CHANNEL: Final = "clipper:frontends_changed"
"""A message says that query frontends came or went, or have other replicas than before."""

CURRENT_VERSION_PREFIX: Final = "CURRENT_MODEL_VERSION:"
DEFAULT_POLICY: Final = "DefaultOutputSelectionPolicy"

Hash = Mapping[str, str]


def _take(hash_: Hash, name: str, what: str) -> str:
    try:
        return hash_[name]
    except KeyError:
        raise RecordError(f"{what} has no field '{name}'") from None


def _take_int(hash_: Hash, name: str, what: str) -> int:
    text = _take(hash_, name, what)
    try:
        return int(text)
    except ValueError:
        raise RecordError(f"{what} has {name}={text!r}, which is no whole number") from None


def _take_input_type(hash_: Hash, what: str) -> InputType:
    try:
        return InputType.parse(_take(hash_, "input_type", what))
    except RecordError:
        raise
    except ClipperException as error:
        raise RecordError(f"{what}: {error}") from None


def _take_batch_policy(hash_: Hash, what: str) -> BatchPolicy:
    try:
        return BatchPolicy.parse(hash_["batch_policy"]) if "batch_policy" in hash_ else BatchPolicy.LEARNED
    except ClipperException as error:
        raise RecordError(f"{what}: {error}") from None


# --- records ---


@dataclass(frozen=True, slots=True)
class Application:
    """A REST endpoint: what it takes, how long it may take, what it says when it has nothing better."""

    name: str
    input_type: InputType
    default_output: str
    latency_slo_micros: int
    policy: str = DEFAULT_POLICY
    missing_values: bool = False
    """Whether floats and doubles may be null, NaN and infinite."""

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
        }

    @classmethod
    def from_hash(cls, name: str, hash_: Hash) -> Self:
        what = f"application '{name}'"
        return cls(
            name=name,
            input_type=_take_input_type(hash_, what),
            default_output=_take(hash_, "default_output", what),
            latency_slo_micros=_take_int(hash_, "latency_slo_micros", what),
            policy=hash_.get("policy", DEFAULT_POLICY),
            missing_values=hash_.get("missing_values") == "true",
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
    """Differs between two registrations of one name and version; empty when Clipper 0.4 wrote the record."""
    learning_policy: BatchPolicy = BatchPolicy.LEARNED
    """By which the batch size is learned, when it is."""
    batch_delay_micros: int = 0

    @property
    def batch_policy(self) -> BatchPolicy:
        """The policy in effect."""
        return self.learning_policy if self.batch_size == DEFAULT_BATCH_SIZE else BatchPolicy.FIXED

    def with_batching_of(self, other: Self) -> Self:
        """What may change while the version is registered comes from `other`, all else stays."""
        return replace(
            self,
            batch_size=other.batch_size,
            learning_policy=other.learning_policy,
            batch_delay_micros=other.batch_delay_micros,
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
        }

    @classmethod
    def from_hash(cls, hash_: Hash) -> Self:
        what = f"model '{hash_.get('model_name')}:{hash_.get('model_version')}'"
        labels = _take(hash_, "labels", what)
        return cls(
            id=ModelId(_take(hash_, "model_name", what), _take(hash_, "model_version", what)),
            input_type=_take_input_type(hash_, what),
            labels=tuple(labels.split(",")) if labels else (),
            container_name=_take(hash_, "container_name", what),
            model_data_path=_take(hash_, "model_data_path", what),
            batch_size=_take_int(hash_, "batch_size", what),
            registration=hash_.get("registration", ""),
            learning_policy=_take_batch_policy(hash_, what),
            batch_delay_micros=_take_int(hash_, "batch_delay_micros", what) if "batch_delay_micros" in hash_ else 0,
        )


@dataclass(frozen=True, slots=True)
class Replica:
    """A model container that is connected to one query frontend or several."""

    model: ModelId
    replica_id: int
    zmq_connection_id: int
    input_type: InputType

    @property
    def key(self) -> str:
        return f"{self.model.name},{self.model.version},{self.replica_id}"

    def to_hash(self) -> dict[str, str]:
        return {
            "model_id": str(self.model),
            "model_name": self.model.name,
            "model_version": self.model.version,
            "model_replica_id": str(self.replica_id),
            "zmq_connection_id": str(self.zmq_connection_id),
            "batch_size": "1",  # always: a field of 0.4 that means nothing
            "input_type": self.input_type.canonical_name,
        }

    @classmethod
    def from_hash(cls, hash_: Hash) -> Self:
        what = f"container '{hash_.get('model_id')}'"
        return cls(
            model=ModelId(_take(hash_, "model_name", what), _take(hash_, "model_version", what)),
            replica_id=_take_int(hash_, "model_replica_id", what),
            zmq_connection_id=_take_int(hash_, "zmq_connection_id", what),
            input_type=_take_input_type(hash_, what),
        )


UNNUMBERED: Final = -1
"""The number of a replica that Redis gave none yet."""


@dataclass(frozen=True, slots=True)
class FrontendReport:
    """What a query frontend says about itself."""

    frontend_id: str
    revision: int
    """By which it serves."""
    rpc_address: str = ""
    """Where containers reach it; empty when it does not know."""
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    """By name. A replica has the same name at all frontends that it is connected to."""
    reached: frozenset[ModelId] = frozenset()
    """The model versions that it has a replica of, or is relayed to one."""

    def to_json(self) -> str:
        """All but the revision."""
        replicas = [[name, replica.to_hash()] for name, replica in self.replicas.items()]
        return json.dumps([self.rpc_address, replicas, sorted(map(str, self.reached))])


@dataclass(frozen=True, slots=True)
class Frontend:
    """A query frontend that lives, as the others see it."""

    id: str
    rpc_address: str
    models: frozenset[ModelId]
    """Of which it has replicas."""


@dataclass(frozen=True)
class Snapshot:
    """All configuration at one revision. Not to be changed: what differs is a new snapshot."""

    revision: int = 0
    applications: Mapping[str, Application] = field(default_factory=dict)
    models: Mapping[ModelId, Model] = field(default_factory=dict)
    current_versions: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Application name to the names of the models linked to it."""
    workers: int | None = None
    """Of each query frontend; None leaves it to them."""
    epoch: str = ""
    """Of the Redis that it was read from; empty when that is new, or lost all."""

    def versions(self, model_name: str) -> list[str]:
        return [model.version for model in self.models if model.name == model_name]

    def apps_linked_to(self, model_name: str) -> list[Application]:
        return [app for name, app in self.applications.items() if model_name in self.links.get(name, ())]

    def same_configuration(self, other: "Snapshot") -> bool:
        return replace(self, revision=other.revision, epoch=other.epoch) == other


# --- writes: what a change of configuration does to Redis, as values ---


class Write(NamedTuple):
    """One Redis command in one database; `store.commit` carries out several at once or none."""

    database: int
    command: tuple[str, ...]


def _hset(database: int, key: str, hash_: Hash) -> Write:
    fields = [text for pair in hash_.items() for text in pair]
    return Write(database, ("HSET", key, *fields))


def put_application(app: Application) -> list[Write]:
    state = json.dumps({"y_hat": app.default_output}, separators=(",", ":"))
    return [
        _hset(APPLICATION_DB, app.name, app.to_hash()),
        Write(STATE_DB, ("SET", f"{app.name}:0:0", state)),
    ]


def delete_application(name: str) -> list[Write]:
    return [
        Write(APPLICATION_DB, ("DEL", name)),
        Write(LINK_DB, ("DEL", name)),
        Write(STATE_DB, ("DEL", f"{name}:0:0")),
    ]


def put_link(app_name: str, model_name: str) -> Write:
    return Write(LINK_DB, ("SADD", app_name, model_name))


def delete_link(app_name: str, model_name: str) -> Write:
    return Write(LINK_DB, ("SREM", app_name, model_name))


def put_model(model: Model) -> Write:
    return _hset(MODEL_DB, str(model.id), model.to_hash())


def delete_model(model: ModelId) -> Write:
    return Write(MODEL_DB, ("DEL", str(model)))


def put_current_version(model: ModelId) -> Write:
    return Write(METADATA_DB, ("SET", CURRENT_VERSION_PREFIX + model.name, model.version))


def delete_current_version(model_name: str) -> Write:
    return Write(METADATA_DB, ("DEL", CURRENT_VERSION_PREFIX + model_name))


def put_workers(workers: int) -> Write:
    return Write(CLIPPER_DB, ("SET", WORKERS_KEY, str(workers)))


def put_snapshot(snapshot: Snapshot) -> list[Write]:
    """Everything in `snapshot`, for a Redis that came back empty."""
    writes = [write for app in snapshot.applications.values() for write in put_application(app)]
    writes += map(put_model, snapshot.models.values())
    writes += [put_current_version(ModelId(*pair)) for pair in snapshot.current_versions.items()]
    writes += [put_link(app, model) for app, models in snapshot.links.items() for model in models]
    writes += [put_workers(snapshot.workers)] if snapshot.workers is not None else []
    return writes
