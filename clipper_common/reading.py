"""Turns the replies of Redis into records. An invalid value becomes a fault; no public function raises for it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from clipper_common.constants import MAX_WORKERS
from clipper_common.datatypes import ModelId, is_plain_text, printable
from clipper_common.errors import RecordError
from clipper_common.layout import LAYOUT, Collection, Faults, Place
from clipper_common.records import (
    COUNTS,
    EPOCH_CHARACTERS,
    MAX_EPOCH_BYTES,
    Application,
    Model,
    Replica,
    check_model_text,
    to_int,
)
from clipper_common.snapshot import Snapshot

Found = tuple[bytes, bytes, Any]
"""A key, the reason why it was not read (or empty), and its value: a text, the list of a set or flat hash, or None."""

_EPOCH: Final = re.compile(rf"[{EPOCH_CHARACTERS}]{{1,{MAX_EPOCH_BYTES}}}")


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
        self._found: dict[Collection, set[Any]] = {collection: set() for collection in LAYOUT.configuration}
        """The names of the records that were found."""
        self._found_wrong: set[Place] = set()
        self._head: dict[str, Any] = {}
        self._records: dict[Collection, Mapping[Any, Any]] = {
            LAYOUT.applications: last.applications,
            LAYOUT.models: last.models,
            LAYOUT.current_versions: last.current_versions,
            LAYOUT.links: last.links,
        }
        """The records, by collection: those of `last` until one changes."""
        self._copied: dict[Collection, dict[Any, Any]] = {}

    def put(self, collection: Collection, found: Iterable[Found]) -> None:
        """Take over the values that were found in a collection of the configuration."""
        kind = _KINDS[collection]
        for found_one in found:
            place, value, fault = _read(collection.database, found_one, kind.read)
            self._note(place, fault)
            name = kind.name(place.key)
            if kind.place(name) != place or place.key.encode() != found_one[0]:
                continue
            if fault or value is not None:
                self._found[collection].add(name)
            if fault and self._keeps_good:
                continue
            if value != self._records[collection].get(name):
                self._change(collection, place, name, value)

    def keep_found(self, collection: Collection) -> None:
        """Remove the records that were not found in a collection of the configuration."""
        for name in self._records[collection].keys() - self._found[collection]:
            self._change(collection, _KINDS[collection].place(name), name, None)
        for place in self._faults.keys() - self._found_wrong:
            if LAYOUT.collection_at(place) is collection:
                del self._faults[place]

    def put_head(self, found: Iterable[Found]) -> None:
        """Take over the revision, the epoch and the number of workers. A value that is not `found` does not exist."""
        last = self._last
        known = {LAYOUT.revision: last.revision, LAYOUT.epoch: "", LAYOUT.workers: last.workers}
        values: dict[Place, Any] = {}
        for place in known:
            self._note(place, "")
        for found_one in found:
            place, values[place], fault = _read(LAYOUT.home, found_one, _head)
            self._note(place, fault)
            if fault and self._keeps_good:
                values[place] = known.get(place)
        self._head = {
            "revision": values.get(LAYOUT.revision) or 0,
            "epoch": values.get(LAYOUT.epoch) or "",
            "workers": values.get(LAYOUT.workers),
        }
        if self._head["workers"] != last.workers:
            self.changed.add(LAYOUT.workers)

    def snapshot(self) -> Snapshot:
        """Return the earlier snapshot with all changes."""
        return replace(
            self._last,
            applications=self._records[LAYOUT.applications],
            models=self._records[LAYOUT.models],
            current_versions=self._records[LAYOUT.current_versions],
            links=self._records[LAYOUT.links],
            faults=self._faults,
            **self._head,
        )

    def _change(self, collection: Collection, place: Place, name: Any, value: Any) -> None:
        self.changed.add(place)
        if collection not in self._copied:
            self._copied[collection] = self._records[collection] = dict(self._records[collection])
        if value is None:
            del self._copied[collection][name]
        else:
            self._copied[collection][name] = value

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
        place, replica, fault = _read(LAYOUT.replicas.database, found_one, _replica)
        if fault:
            faults[place] = fault
        elif replica is not None:
            replicas.append(replica)
    return sorted(replicas, key=lambda replica: (replica.model_id, replica.replica_id)), faults


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
    if key == LAYOUT.revision.key:
        return to_int(_text(value), "it is ", COUNTS)
    if key == LAYOUT.workers.key:
        return to_int(_text(value), "it is ", range(1, MAX_WORKERS + 1))
    if not _EPOCH.fullmatch(_text(value)):
        raise RecordError("it is no epoch of Clipper's")
    return _text(value)


def _application(key: str, value: Sequence[bytes]) -> Application:
    return Application.from_hash(LAYOUT.applications.record_name(key), _hash(value))


def _model(key: str, value: Sequence[bytes]) -> Model:
    model = Model.from_hash(_hash(value))
    _check_key(key, LAYOUT.model_place(model.id))
    return model


def _replica(key: str, value: Sequence[bytes]) -> Replica:
    replica = Replica.from_hash(_hash(value))
    _check_key(key, LAYOUT.replica_place(replica.model_id, replica.replica_id))
    return replica


def _check_key(key: str, place: Place) -> None:
    if key != place.key:
        raise RecordError(f"what it says of itself belongs to the key '{printable(place.key, 80)}'")


def _current_version(key: str, value: bytes) -> str:
    prefix = LAYOUT.current_versions.prefix
    if not key.startswith(prefix):
        raise RecordError(f"its key does not begin with {prefix}")
    check_model_text(LAYOUT.current_versions.record_name(key), "it is for ")
    return check_model_text(_text(value), "it is ")


def _links(key: str, value: Sequence[bytes]) -> tuple[str, ...]:
    if not is_plain_text(LAYOUT.links.record_name(key)):
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
    """The functions that read and name the records of a collection."""

    read: Callable[[str, Any], Any]
    name: Callable[[str], Any]
    """Returns the name of the record with a key, such as an application's, if the key is valid."""
    place: Callable[[Any], Place]


_KINDS: Final[Mapping[Collection, _Kind]] = {
    LAYOUT.applications: _Kind(_application, LAYOUT.applications.record_name, LAYOUT.application_place),
    LAYOUT.models: _Kind(_model, lambda key: ModelId.parse(LAYOUT.models.record_name(key)), LAYOUT.model_place),
    LAYOUT.current_versions: _Kind(_current_version, LAYOUT.current_versions.record_name, LAYOUT.current_version_place),
    LAYOUT.links: _Kind(_links, LAYOUT.links.record_name, LAYOUT.links_place),
}
