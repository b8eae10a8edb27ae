"""The scripts by which several databases of Redis are read and written as one: Lua, in the folder `lua`.

A script is put together of a head, with what Lua and Python both know, of files that scripts share, and of its own
file. Whatever somebody put into Redis, none of them may fail: what is of the wrong kind counts as absent.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import Final

from clipper_common import records
from clipper_common.layout import LAYOUT, Collection, Place

_SHARED_FACTS: Final = (
    *("COUNTER_DIGITS", "REPLICA_NUMBER_DIGITS", "MAX_RECORD_BYTES", "MAX_RECORD_PARTS", "MAX_KEY_BYTES"),
    *("MAX_EPOCH_BYTES", "EPOCH_CHARACTERS", "SCHEMA_VERSION", "UNNUMBERED"),
)
"""The names of constants in `records`, which in Lua are fields of a table of that name."""


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """A script, and the keys that each call of it begins with; those that the call names follow."""

    text: str
    keys: tuple[str, ...]


def _script(name: str, *places: str, reads_records: bool = False) -> Script:
    """Put the script of this name together. `places` are those of the layout whose keys it always uses."""
    shared = [LAYOUT.lua, "common", *(["reading"] if reads_records else [])]
    keys = tuple(getattr(LAYOUT, place).key for place in places)
    return Script("\n".join([_head(places), *map(_source, [*shared, name])]), keys)


def _head(places: tuple[str, ...]) -> str:
    """Return the facts that a script begins with: `layout`, `records`, `key` by the names of `places`, and `given`."""
    keys = ", ".join(f"{place} = KEYS[{number}]" for number, place in enumerate(places, 1))
    return (
        f"local layout = {_literal(_layout())}\n"
        f"local records = {_literal({name: getattr(records, name) for name in _SHARED_FACTS})}\n"
        f"local key = {{{keys}}}\n"
        f"local function given(index) return KEYS[{len(places)} + index] end"
    )


def _layout() -> Mapping[str, object]:
    """Return what scripts know of the layout: all but the places, whose keys they are given."""
    known = {field.name: getattr(LAYOUT, field.name) for field in fields(LAYOUT)}
    return {
        **{
            name: asdict(value) if isinstance(value, Collection) else value
            for name, value in known.items()
            if not isinstance(value, Place)
        },
        "configuration": [collection.name for collection in LAYOUT.configuration],
    }


def _literal(value: object) -> str:
    """Return a value as Lua has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_literal(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(_literal, value)) + "}"
    return json.dumps(value)


@cache
def _source(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


READ_HEAD: Final = _script("read_head", "revision", "epoch", "workers", reads_records=True)
READ_PAGE: Final = _script("read_page", reads_records=True)
READ_CHANGES: Final = _script("read_changes", "revision", "epoch", "workers", "journal", reads_records=True)
READ_REPLICAS: Final = _script("read_replicas", reads_records=True)
COMMIT: Final = _script("commit", "revision", "epoch", "journal", "schema_version")
RESTORE: Final = _script("restore", "revision", "epoch", "schema_version")
REPORT: Final = _script("report", "living_frontends")
IS_APPLIED: Final = _script("is_applied")
NOT_REACHING: Final = _script("not_reaching")
CLAIM: Final = _script("claim", "cluster", "last_cluster", "workers", "revision", "journal")
RELEASE: Final = _script("release", "cluster")
TRY: Final = _script("try", "nothing")
