"""Turns the replies of Redis into records. An invalid value becomes a fault; no public function raises for it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from clipper_common import records
from clipper_common.constants import MAX_WORKERS
from clipper_common.datatypes import ModelId, is_plain_text, printable
from clipper_common.errors import RecordError
from clipper_common.records import (
    APPLICATION_DB,
    CLIPPER_DB,
    COUNTS,
    CURRENT_VERSION_PREFIX,
    EPOCH_PLACE,
    LINK_DB,
    METADATA_DB,
    MODEL_DB,
    REVISION_PLACE,
    WORKERS_PLACE,
    Application,
    Faults,
    Model,
    Place,
    Replica,
    Snapshot,
    check_model_text,
    to_int,
)

Found = tuple[bytes, bytes, Any]
"""A key, the reason why it was not read (or empty), and its value: a text, the list of a set or flat hash, or None."""

CONFIGURATION: Final = ((APPLICATION_DB, "hash"), (MODEL_DB, "hash"), (METADATA_DB, "string"), (LINK_DB, "set"))
"""The databases with the configuration, and the type of their values."""

_EPOCH: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


class Draft:
    """A snapshot that is being made: an earlier one, in which values from Redis replace the previous ones.

    With `keeps_good`, a record that has become invalid keeps its previous value; without, it is left out.
    """

    def __init__(self, last: Snapshot, keeps_good: bool) -> None:
        self.changed: set[Place] = set()
        """The places of records that differ from those in `last`."""
        self._last = last
        self._keeps_good = keeps_good
        self._faults = dict(last.faults)
        self._found: dict[int, set[Any]] = {database: set() for database, _ in CONFIGURATION}
        """The names of the records that were found, by database."""
        self._found_wrong: set[Place] = set()
        self._head: dict[str, Any] = {}
        self._records: dict[int, Mapping[Any, Any]] = {
            APPLICATION_DB: last.applications,
            MODEL_DB: last.models,
            METADATA_DB: last.current_versions,
            LINK_DB: last.links,
        }
        """The records, by database: those of `last` until one changes."""
        self._copied: dict[int, dict[Any, Any]] = {}

    def put(self, database: int, found: Iterable[Found]) -> None:
        """Take over the values that were found in a database of the configuration."""
        kind = _KINDS[database]
        for found_one in found:
            place, value, fault = _read(database, found_one, kind.read)
            self._note(place, fault)
            name = kind.name(place.key)
            if kind.place(name) != place or place.key.encode() != found_one[0]:
                continue
            if fault or value is not None:
                self._found[database].add(name)
            if fault and self._keeps_good:
                continue
            if value != self._records[database].get(name):
                self._change(place, name, value)

    def keep_found(self, database: int) -> None:
        """Remove the records that were not found in a database of the configuration."""
        for name in self._records[database].keys() - self._found[database]:
            self._change(_KINDS[database].place(name), name, None)
        for place in self._faults.keys() - self._found_wrong:
            if place.database == database:
                del self._faults[place]

    def put_head(self, found: Iterable[Found]) -> None:
        """Take over the revision, the epoch and the number of workers. A value that is not `found` does not exist."""
        last = self._last
        known = {REVISION_PLACE: last.revision, EPOCH_PLACE: "", WORKERS_PLACE: last.workers}
        values: dict[Place, Any] = {}
        for place in known:
            self._note(place, "")
        for found_one in found:
            place, values[place], fault = _read(CLIPPER_DB, found_one, _head)
            self._note(place, fault)
            if fault and self._keeps_good:
                values[place] = known.get(place)
        self._head = {
            "revision": values.get(REVISION_PLACE) or 0,
            "epoch": values.get(EPOCH_PLACE) or "",
            "workers": values.get(WORKERS_PLACE),
        }
        if self._head["workers"] != last.workers:
            self.changed.add(WORKERS_PLACE)

    def snapshot(self) -> Snapshot:
        """Return the earlier snapshot with all changes."""
        return replace(
            self._last,
            applications=self._records[APPLICATION_DB],
            models=self._records[MODEL_DB],
            current_versions=self._records[METADATA_DB],
            links=self._records[LINK_DB],
            faults=self._faults,
            **self._head,
        )

    def _change(self, place: Place, name: Any, value: Any) -> None:
        self.changed.add(place)
        database = place.database
        if database not in self._copied:
            self._copied[database] = self._records[database] = dict(self._records[database])
        if value is None:
            del self._copied[database][name]
        else:
            self._copied[database][name] = value

    def _note(self, place: Place, fault: str) -> None:
        if fault:
            self._faults[place] = fault
            self._found_wrong.add(place)
        else:
            self._faults.pop(place, None)


def place_of(key: bytes, database: int) -> Place:
    """Return the place of a key, which may not be UTF-8."""
    return Place(database, key.decode(errors="backslashreplace"))


def read_replicas(found: Iterable[Found]) -> tuple[list[Replica], Faults]:
    """Return the valid records of replicas, in order, and the faults of the others."""
    replicas, faults = [], {}
    for found_one in found:
        place, replica, fault = _read(records.REPLICA_DB, found_one, _replica)
        if fault:
            faults[place] = fault
        elif replica is not None:
            replicas.append(replica)
    return sorted(replicas, key=lambda replica: (replica.model, replica.replica_id)), faults


Record = TypeVar("Record")


def _read(database: int, found: Found, read: Callable[[str, Any], Record]) -> tuple[Place, Record | None, str]:
    """Return the place, the record or None, and the fault if the value is invalid, or empty.

    `read` raises `RecordError` for an invalid value.
    """
    key, problem, value = found
    place = place_of(key, database)
    if value is None:
        return place, None, ""
    try:
        if problem:
            raise RecordError(_text(problem))
        return place, read(_text(key, "its key"), value), ""
    except RecordError as error:
        return place, None, printable(str(error), 300)


def _head(key: str, value: bytes) -> int | str:
    if key == records.REVISION_KEY:
        return to_int(_text(value), "it is ", COUNTS)
    if key == records.WORKERS_KEY:
        return to_int(_text(value), "it is ", range(1, MAX_WORKERS + 1))
    if not _EPOCH.fullmatch(_text(value)):
        raise RecordError("it is no epoch of Clipper's")
    return _text(value)


def _application(key: str, value: Sequence[bytes]) -> Application:
    return Application.from_hash(key, _hash(value))


def _model(key: str, value: Sequence[bytes]) -> Model:
    model = Model.from_hash(_hash(value))
    _check_key(key, records.model_place(model.id))
    return model


def _replica(key: str, value: Sequence[bytes]) -> Replica:
    replica = Replica.from_hash(_hash(value))
    _check_key(key, records.replica_place(replica.model, replica.replica_id))
    return replica


def _check_key(key: str, place: Place) -> None:
    if key != place.key:
        raise RecordError(f"what it says of itself belongs to the key '{printable(place.key, 80)}'")


def _current_version(key: str, value: bytes) -> str:
    if not key.startswith(CURRENT_VERSION_PREFIX):
        raise RecordError(f"its key does not begin with {CURRENT_VERSION_PREFIX}")
    check_model_text(key.removeprefix(CURRENT_VERSION_PREFIX), "it is for ")
    return check_model_text(_text(value), "it is ")


def _links(key: str, value: Sequence[bytes]) -> tuple[str, ...]:
    if not is_plain_text(key):
        raise RecordError("its key cannot be the name of an application")
    return tuple(sorted(check_model_text(_text(name), "it has ") for name in value))


def _hash(flat: Sequence[bytes]) -> dict[str, str]:
    texts = list(map(_text, flat))
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(value: bytes, what: str = "it") -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RecordError(f"{what} is not UTF-8: {value[:40]!r}") from None


class _Kind(NamedTuple):
    """The type of the records of a database."""

    read: Callable[[str, Any], Any]
    name: Callable[[str], Any]
    """Returns the name of the record with a key, such as an application's, if the key is valid."""
    place: Callable[[Any], Place]


_KINDS: Final[Mapping[int, _Kind]] = {
    APPLICATION_DB: _Kind(_application, str, records.application_place),
    MODEL_DB: _Kind(_model, ModelId.parse, records.model_place),
    METADATA_DB: _Kind(
        _current_version, lambda key: key.removeprefix(CURRENT_VERSION_PREFIX), records.current_version_place
    ),
    LINK_DB: _Kind(_links, str, records.links_place),
}
