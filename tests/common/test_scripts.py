"""The scripts: each file is used, runs in a real Redis, and names no database and no key of its own."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import redis

from clipper_common import records, scripts
from clipper_common.layout import LAYOUT, Collection
from clipper_common.scripts import Script

FOLDER = Path(scripts.__file__).parent / "lua"
FILES = sorted(FOLDER.glob("*.lua"))
ALL = {name: value for name, value in vars(scripts).items() if isinstance(value, Script)}

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
every_script = pytest.mark.parametrize("script", ALL.values(), ids=ALL)


@every_file
def test_each_file_is_part_of_a_script(file: Path) -> None:
    assert any(file.read_text() in script.text for script in ALL.values())


@every_file
def test_each_file_begins_with_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith("-- ")
    assert all(len(line) <= 120 for line in file.read_text().splitlines())


@every_script
def test_each_script_is_lua(script: Script, client: redis.Redis) -> None:
    assert client.script_load(script.text) == client.register_script(script.text).sha


@every_file
def test_databases_and_keys_are_those_of_the_layout(file: Path) -> None:
    """A database is a number after SELECT, which only the file of the layout sends; all keys have one prefix."""
    code = re.sub("--.*", "", file.read_text())
    assert "clipper:" not in code
    assert not re.search(r"'(SELECT|KEYS|SCAN)'", code) or file.stem == LAYOUT.lua


@pytest.mark.parametrize("name", ALL)
def test_each_script_is_given_the_keys_that_it_names(name: str) -> None:
    script = ALL[name]
    code = (FOLDER / f"{name.lower()}.lua").read_text()
    named = {getattr(LAYOUT, place).key for place in re.findall(r"(?<![.\w])key\.(\w+)", code)}
    assert named <= set(script.keys)
    assert f"KEYS[{len(script.keys)} + index]" in script.text


def test_facts_are_the_same_in_lua(client: redis.Redis) -> None:
    """The layout and the limits, as a script sees them."""
    shown = "return cjson.encode({layout, records})"
    layout, limits = json.loads(client.eval(scripts.TRY.text + shown, len(scripts.TRY.keys), *scripts.TRY.keys))
    assert limits == {name: getattr(records, name) for name in limits} and limits
    assert layout.pop("configuration") == ["applications", "models", "current_versions", "links"]
    for name, value in layout.items():
        known = getattr(LAYOUT, name)
        assert value == (dataclasses.asdict(known) if isinstance(known, Collection) else known)
