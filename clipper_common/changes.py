"""Changes of the configuration as values: writes to Redis that are carried out together or not at all."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from clipper_common.datatypes import ModelId
from clipper_common.layout import LAYOUT, Place
from clipper_common.records import Application, Hash, Model, Selection
from clipper_common.snapshot import Snapshot


class Write(NamedTuple):
    """One Redis command in one database; `ConfigStore.commit` carries out several at once or none."""

    database: int
    command: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.command[1]


def _write(place: Place, command: str, *arguments: str) -> Write:
    return Write(place.database, (command, place.key, *arguments))


def _hset(place: Place, hash_: Hash) -> Write:
    return _write(place, "HSET", *(text for pair in hash_.items() for text in pair))


def put_application(app: Application) -> list[Write]:
    state = json.dumps({"y_hat": app.default_output}, separators=(",", ":"))
    return [
        _hset(LAYOUT.application_place(app.name), app.to_hash()),
        _write(LAYOUT.state_place(app.name), "SET", state),
    ]


def delete_application(name: str) -> list[Write]:
    return [_write(place(name), "DEL") for place in (LAYOUT.application_place, LAYOUT.links_place, LAYOUT.state_place)]


def put_link(app_name: str, model_name: str) -> Write:
    return _write(LAYOUT.links_place(app_name), "SADD", model_name)


def delete_link(app_name: str, model_name: str) -> Write:
    return _write(LAYOUT.links_place(app_name), "SREM", model_name)


def put_selection(app_name: str, selection: Selection, linked: Iterable[str], wanted: Iterable[str]) -> list[Write]:
    """Return the writes of a selection, and of the names of linked models, which are `linked` and become `wanted`."""
    linked, wanted = set(linked), set(wanted)
    return [
        _hset(LAYOUT.application_place(app_name), {"selection": selection.to_json()}),
        *(delete_link(app_name, name) for name in sorted(linked - wanted)),
        *(put_link(app_name, name) for name in sorted(wanted - linked)),
    ]


def put_model(model: Model) -> Write:
    return _hset(LAYOUT.model_place(model.id), model.to_hash())


def delete_model(model: ModelId) -> Write:
    return _write(LAYOUT.model_place(model), "DEL")


def put_current_version(model: ModelId) -> Write:
    return _write(LAYOUT.current_version_place(model.name), "SET", model.version)


def delete_current_version(model_name: str) -> Write:
    return _write(LAYOUT.current_version_place(model_name), "DEL")


def put_workers(workers: int) -> Write:
    return _write(LAYOUT.workers, "SET", str(workers))


def put_snapshot(snapshot: Snapshot) -> list[Write]:
    """Return the writes of everything in `snapshot`, for a Redis that came back empty."""
    writes = [write for app in snapshot.applications.values() for write in put_application(app)]
    writes += map(put_model, snapshot.models.values())
    writes += [put_current_version(ModelId(*pair)) for pair in snapshot.current_versions.items()]
    writes += [put_link(app, model) for app, models in snapshot.links.items() for model in models]
    writes += [put_workers(snapshot.workers)] if snapshot.workers is not None else []
    return writes
