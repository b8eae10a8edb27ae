"""The scripts: each file is used, runs in a real Redis, and names no database and no key of its own."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import redis

from clipper_common import scripts
from clipper_common.layout import LAYOUT
from clipper_common.scripts import Script

FOLDER = Path(scripts.__file__).parent / "lua"
FILES = sorted(FOLDER.glob("*.lua"))
ALL = {name: value for name, value in vars(scripts).items() if isinstance(value, Script)}

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
every_script = pytest.mark.parametrize("script", ALL.values(), ids=ALL)


def test_each_file_is_part_of_a_script() -> None:
    shared = {LAYOUT.lua, "common", "reading"}
    assert {file.stem for file in FILES} == shared | {name.lower() for name in ALL}


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
    named = {getattr(LAYOUT, place).key.encode() for place in re.findall(r"(?<![.\w])key\.(\w+)", code)}
    assert named <= set(script.keys)
    assert f"KEYS[{len(script.keys)} + index]" in script.text


@every_script
def test_facts_of_python_are_put_in(script: Script) -> None:
    assert not re.search(r"(?<![\w.])(layout|records|key)\.\w", script.text)


def test_facts_in_lua(client: redis.Redis) -> None:
    """As a script sees them: numbers, texts, a collection and several."""
    for fact, value in (
        ("records.MAX_KEY_BYTES", 4096),
        ("records.UNNUMBERED", -1),
        ("layout.frontends_channel", "clipper:frontends_changed"),
        ("layout.frontends.prefix", "clipper:frontend:"),
        ("layout.models", dataclasses.asdict(LAYOUT.models)),
        ("layout.configuration", [dataclasses.asdict(collection) for collection in LAYOUT.configuration]),
    ):
        text = scripts._FACT.sub(lambda found: scripts._value(found[1], found[2], ()), f"return cjson.encode({fact})")
        assert json.loads(client.eval(text, 0)) == value
