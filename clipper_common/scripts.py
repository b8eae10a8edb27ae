"""The scripts by which several databases of Redis are read and written as one: Lua, in the folder `lua`.

A script consists of shared files and its own. Facts that Lua and Python share are defined in Python: `layout.NAME`,
`records.NAME` and `key.NAME` in a file are replaced by their values when the script is loaded. No script may fail
because of the content of Redis: a key of the wrong type counts as absent.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from operator import attrgetter
from typing import Final

from clipper_common import records
from clipper_common.layout import LAYOUT, Collection

_FACT: Final = re.compile(r"(?<![\w.])(layout|records|key)\.(\w+(?:\.\w+)?)")


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """A script, and the keys with which each call begins. The keys of the call follow."""

    text: str
    keys: tuple[bytes, ...]


def _script(name: str, *places: str, reads_records: bool = False) -> Script:
    """Put the script of this name together. `places` are those of the layout whose keys it always uses."""
    shared = [LAYOUT.lua, "common", *(["reading"] if reads_records else [])]
    source = "\n".join(map(_source, [*shared, name]))
    given = f"local function given(index) return KEYS[{len(places)} + index] end\n"
    text = _FACT.sub(lambda fact: _value(fact[1], fact[2], places), source)
    return Script(given + text, tuple(getattr(LAYOUT, place).key.encode() for place in places))


def _value(of: str, name: str, places: Sequence[str]) -> str:
    """Return the Lua text of a fact, for a script that always uses the keys of `places`.

    A shared file may name a key that the script never uses.
    """
    if of == "key":
        return f"KEYS[{places.index(name) + 1}]" if name in places else "nil"
    return _literal(attrgetter(name)(LAYOUT if of == "layout" else records))


def _literal(value: object) -> str:
    """Return a value as a Lua literal."""
    if isinstance(value, Collection):
        return "{" + ", ".join(f"{name} = {_literal(part)}" for name, part in asdict(value).items()) + "}"
    if isinstance(value, tuple):
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
