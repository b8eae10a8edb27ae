"""Values that Redis returns, read: any bytes are a record or a fault, and a record read replaces the one before."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common import changes, reading
from clipper_common.datatypes import InputType, ModelId
from clipper_common.layout import LAYOUT, Collection, Place
from clipper_common.reading import Draft, Found
from clipper_common.records import Application, Model, Replica
from clipper_common.snapshot import Snapshot

APP = Application("app", InputType.INTS, "-1", 20000)
MODEL = Model(ModelId("m", "1"), InputType.INTS)
REPLICA = Replica(MODEL.id, 2, 7, InputType.INTS)
EMPTY = Snapshot()
LAST = Snapshot(7, {"app": APP}, {MODEL.id: MODEL}, {"m": "1"}, {"app": ("m",)}, workers=3, epoch="e")
APPLICATION = LAYOUT.application_place("app")
PLACES = [
    APPLICATION,
    LAYOUT.model_place(MODEL.id),
    LAYOUT.current_version_place("m"),
    LAYOUT.links_place("app"),
]
HEAD_PLACES = [LAYOUT.revision, LAYOUT.workers]

# --- what Redis may hold: anything ---

KEYS = st.sampled_from([b"app", b"m:1", b"m,1,2", b"CURRENT_MODEL_VERSION:m", b"clipper:revision", b"clipper:workers"])
ANYTHING = st.binary(max_size=30) | st.sampled_from(
    [b"-1", b"0", b"9" * 400, b"nan", b"1e999", b"\xff", b"ints", b"a\nb"]
)
FLAT_HASHES = st.dictionaries(ANYTHING, ANYTHING).map(lambda fields: [part for pair in fields.items() for part in pair])


def flat(hash_: dict[str, str]) -> list[bytes]:
    return [text.encode() for pair in hash_.items() for text in pair]


def spoilt_hashes(hash_: dict[str, str]) -> st.SearchStrategy[list[bytes]]:
    """A good record, of which some fields have other values or are not there."""
    good = {name.encode(): value.encode() for name, value in hash_.items()}
    values = st.dictionaries(st.sampled_from(sorted(good)), ANYTHING | st.none(), min_size=1)
    return values.map(
        lambda changed: [part for pair in (good | changed).items() if pair[1] is not None for part in pair]
    )


def found(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Found]]:
    problems = st.sampled_from([b"", b"it is a list"])
    return st.lists(st.tuples(KEYS | st.binary(max_size=20), problems, values | st.none()), max_size=4)


HEADS = found(ANYTHING)
GROUPS = st.tuples(
    found(spoilt_hashes(APP.to_hash()) | FLAT_HASHES),
    found(spoilt_hashes(MODEL.to_hash()) | FLAT_HASHES),
    found(ANYTHING),
    found(st.lists(ANYTHING, max_size=3)),
)


@given(HEADS, GROUPS, st.sampled_from([EMPTY, LAST]), st.booleans())
def test_a_configuration_of_any_bytes_is_read(
    head: list[Found], groups: tuple[list[Found], ...], last: Snapshot, keeps_good: bool
) -> None:
    draft = Draft(last, keeps_good)
    draft.put_head(head)
    for collection, group in zip(LAYOUT.configuration, groups, strict=True):
        draft.put(collection, group)
    snapshot = draft.snapshot()
    held = [snapshot.applications, snapshot.models, snapshot.current_versions, snapshot.links]
    for group, read, collection in zip(groups, held, LAYOUT.configuration, strict=True):
        wrong = sum(place.database == collection.database for place in snapshot.faults)
        there = {key: value is not None for key, _, value in group}
        assert sum(there.values()) <= len(read) + wrong, "each is read, or wrong"
    assert all(reason.isprintable() and len(reason) < 400 for reason in snapshot.faults.values())
    assert all(str(place).isprintable() for place in [*snapshot.faults, *draft.changed])
    for app in snapshot.applications.values():
        assert app.slo_seconds > 0
    assert snapshot.workers is None or snapshot.workers in range(1, 65)
    json.dumps(changes.put_snapshot(snapshot)).encode()


@given(found(spoilt_hashes(REPLICA.to_hash()) | FLAT_HASHES))
def test_replicas_of_any_bytes_are_read(group: list[Found]) -> None:
    replicas, faults = reading.read_replicas(group)
    assert len({key for key, _, value in group if value is not None}) <= len(replicas) + len(faults)


# --- what takes the place of what was there ---

VALUES: dict[Place, Any] = dict(zip(PLACES, [flat(APP.to_hash()), flat(MODEL.to_hash()), b"1", [b"m"]], strict=True))


def found_at(place: Place, problem: bytes, value: Any = b"") -> list[Found]:
    return [(place.key.encode(), problem, value)]


def collection_at(place: Place) -> Collection:
    collection = LAYOUT.collection_at(place)
    assert collection is not None
    return collection


def read(last: Snapshot, place: Place, problem: bytes, value: Any = b"", keeps_good: bool = True) -> Draft:
    draft = Draft(last, keeps_good)
    draft.put_head([(b"clipper:revision", b"", b"8"), (b"clipper:epoch", b"", b"e"), (b"clipper:workers", b"", b"3")])
    draft.put(collection_at(place), found_at(place, problem, value))
    return draft


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_is_wrong_stays_as_it_was(place: Place) -> None:
    draft = read(LAST, place, b"it is a list")
    assert (draft.snapshot(), draft.changed) == (replace(LAST, revision=8), set())
    assert draft.snapshot().faults == {place: "it is a list"}


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_is_wrong_is_left_out_where_that_is_wanted(place: Place) -> None:
    draft = read(LAST, place, b"it is a list", keeps_good=False)
    assert draft.snapshot() != replace(LAST, revision=8)
    assert draft.changed == {place} == set(draft.snapshot().faults)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_is_gone_does_not_stay(place: Place) -> None:
    draft = read(LAST, place, b"", None)
    assert draft.changed == {place} and not draft.snapshot().faults
    assert read(draft.snapshot(), place, b"", None).changed == set()


@pytest.mark.parametrize("place", HEAD_PLACES, ids=str)
@pytest.mark.parametrize("keeps_good", [True, False])
def test_the_head_stays_as_it_was_if_it_is_wrong(place: Place, keeps_good: bool) -> None:
    draft = Draft(LAST, keeps_good)
    others = {LAYOUT.revision: b"7", LAYOUT.workers: b"3", LAYOUT.epoch: b"e"} | {place: b"x"}
    draft.put_head([(place.key.encode(), b"", value) for place, value in others.items()])
    assert (draft.snapshot() == LAST) == keeps_good
    assert list(draft.snapshot().faults) == [place]


def test_a_head_that_is_gone_does_not_stay() -> None:
    draft = Draft(LAST, keeps_good=True)
    draft.put_head([])
    assert draft.snapshot() == replace(LAST, revision=0, epoch="", workers=None)
    assert draft.changed == {LAYOUT.workers}


def test_what_is_good_again_counts() -> None:
    mended = replace(APP, default_output="mended")
    wrong = read(LAST, APPLICATION, b"it is a list").snapshot()
    draft = read(wrong, APPLICATION, b"", flat(mended.to_hash()))
    assert draft.snapshot().applications == {"app": mended}
    assert draft.changed == {APPLICATION} and not draft.snapshot().faults


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("problem", [b"", b"it is a list"])
def test_what_is_not_found_is_gone(place: Place, problem: bytes) -> None:
    """But for what is wrong now: it was found."""
    bad = Place(place.database, "a, b")
    draft = Draft(replace(LAST, faults={bad: "it is a list"}), keeps_good=True)
    draft.put_head([(b"clipper:workers", b"", b"3")])
    draft.put(collection_at(place), found_at(place, problem, VALUES[place]))
    for collection in LAYOUT.configuration:
        draft.keep_found(collection)
    assert draft.changed == set(PLACES) - {place}
    assert list(draft.snapshot().faults) == ([place] if problem else [])


@pytest.mark.parametrize("key", [b"app\xff", b"\xff"])
def test_a_key_that_is_no_text_is_not_taken_for_one_that_looks_like_it(key: bytes) -> None:
    name = key.decode(errors="backslashreplace")
    last = Snapshot(applications={name: replace(APP, name=name)})
    draft = Draft(last, keeps_good=False)
    draft.put(LAYOUT.applications, [(key, b"", flat(APP.to_hash()))])
    assert draft.snapshot().applications == last.applications and not draft.changed


def test_a_draft_leaves_the_earlier_snapshot_as_it_is() -> None:
    before = replace(LAST, applications=dict(LAST.applications))
    read(LAST, APPLICATION, b"", None)
    assert before == LAST
