"""Records and their form in Redis, which is Clipper 0.4's."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipper_common import records
from clipper_common.constants import MAX_INT32
from clipper_common.datatypes import BatchPolicy, InputType, ModelId, is_model_text, is_plain_text
from clipper_common.errors import RecordError
from clipper_common.records import Application, Model, Replica, Snapshot, Write

APP = Application("app", InputType.INTS, "-1", 20000)
MODEL = Model(ModelId("m", "1"), InputType.DOUBLES, ("a", "b"), "image:1", "DEPRECATED", 5, "r")
REPLICA = Replica(ModelId("m", "1"), 2, 7, InputType.STRINGS)

# As a management and a query frontend of 0.4 write them.
APP_HASH = {
    "input_type": "integers",
    "policy": "DefaultOutputSelectionPolicy",
    "default_output": "-1",
    "latency_slo_micros": "20000",
}
MODEL_HASH = {
    "model_name": "m",
    "model_version": "1",
    "load": "0.000000",
    "input_type": "doubles",
    "labels": "a,b",
    "container_name": "image:1",
    "model_data_path": "DEPRECATED",
    "batch_size": "5",
    "valid": "",
}
REPLICA_HASH = {
    "model_id": "m:1",
    "model_name": "m",
    "model_version": "1",
    "model_replica_id": "2",
    "zmq_connection_id": "7",
    "batch_size": "1",
    "input_type": "strings",
}


def test_hashes_are_those_of_0_4() -> None:
    assert APP.to_hash() == APP_HASH
    ours = {"registration": "r", "batch_policy": "learned", "batch_delay_micros": "0"}
    assert MODEL.to_hash() == MODEL_HASH | ours
    assert REPLICA.to_hash() == REPLICA_HASH


def test_missing_values_are_a_field_that_may_be_absent() -> None:
    app = replace(APP, missing_values=True)
    assert app.to_hash() == APP_HASH | {"missing_values": "true"}
    assert Application.from_hash("app", app.to_hash()) == app
    assert not Application.from_hash("app", APP_HASH | {"missing_values": "no"}).missing_values


def test_hashes_of_0_4_are_read() -> None:
    assert Application.from_hash("app", APP_HASH) == APP
    assert Model.from_hash(MODEL_HASH | {"registration": "r"}) == MODEL
    assert Model.from_hash(MODEL_HASH).registration == ""
    assert Replica.from_hash(REPLICA_HASH) == REPLICA


def test_how_a_model_is_batched() -> None:
    fields = {"batch_size": "-1", "batch_policy": "aimd", "batch_delay_micros": "2000"}
    model = Model.from_hash(MODEL_HASH | fields)
    assert (model.batch_policy, model.batch_delay_micros) == (BatchPolicy.AIMD, 2000)
    assert model.to_hash().items() >= fields.items()
    assert Model.from_hash(MODEL_HASH).batch_policy is BatchPolicy.FIXED
    assert Model.from_hash(MODEL_HASH | {"batch_size": "-1"}).batch_policy is BatchPolicy.LEARNED
    assert Model.from_hash(MODEL_HASH | fields | {"batch_size": "5"}).batch_policy is BatchPolicy.FIXED


def test_a_change_of_batching_is_told_from_another_registration() -> None:
    batched = Model.from_hash(MODEL.to_hash() | {"batch_size": "-1", "batch_policy": "aimd", "batch_delay_micros": "9"})
    assert MODEL.with_batching_of(batched) == batched
    assert MODEL.with_batching_of(replace(batched, registration="s")) != replace(batched, registration="s")


def test_no_labels_are_no_labels() -> None:
    assert Model.from_hash(MODEL_HASH | {"labels": ""}).labels == ()


READERS: list[tuple[Callable[[Any], object], dict[str, str], list[str]]] = [
    (
        lambda hash_: Application.from_hash("app", hash_),
        APP_HASH,
        ["input_type", "default_output", "latency_slo_micros"],
    ),
    (
        Model.from_hash,
        MODEL_HASH,
        ["model_name", "model_version", "labels", "input_type", "container_name", "model_data_path", "batch_size"],
    ),
    (
        Replica.from_hash,
        REPLICA_HASH,
        ["model_name", "model_version", "model_replica_id", "zmq_connection_id", "input_type"],
    ),
]


@pytest.mark.parametrize(
    ("read", "hash_", "name"), [(read, hash_, name) for read, hash_, names in READERS for name in names]
)
def test_a_missing_field_is_named(read: Callable[[Any], object], hash_: dict[str, str], name: str) -> None:
    with pytest.raises(RecordError, match=f"has no field '{name}'"):
        read({key: value for key, value in hash_.items() if key != name})


@pytest.mark.parametrize(
    ("read", "hash_", "name", "text"),
    [
        (READERS[0][0], APP_HASH, "latency_slo_micros", "latency_slo_micros='x', which is no whole number"),
        (READERS[0][0], APP_HASH, "input_type", "application 'app': x is not a valid input string"),
        (Model.from_hash, MODEL_HASH, "batch_size", "model 'm:1' has batch_size='x'"),
        (Model.from_hash, MODEL_HASH, "input_type", "model 'm:1': x is not a valid"),
        (Model.from_hash, MODEL_HASH, "batch_policy", "model 'm:1': x is not a batch policy"),
        (Model.from_hash, MODEL_HASH, "batch_delay_micros", "model 'm:1' has batch_delay_micros='x'"),
        (Replica.from_hash, REPLICA_HASH, "model_replica_id", "container 'm:1' has model_replica_id='x'"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(
    read: Callable[[Any], object], hash_: dict[str, str], name: str, text: str
) -> None:
    with pytest.raises(RecordError, match=text):
        read(hash_ | {name: "x"})


TEXTS = st.text()
LABELS = st.lists(st.text(min_size=1).filter(lambda text: "," not in text)).map(tuple)
KINDS = st.sampled_from(InputType)
NAMES = st.text(min_size=1, max_size=255).filter(is_model_text).filter(is_plain_text)
IDS = st.builds(ModelId, NAMES, NAMES)
POSITIVE = st.integers(1, MAX_INT32)


@given(st.builds(Application, NAMES, KINDS, TEXTS, POSITIVE, TEXTS))
def test_application_round_trip(app: Application) -> None:
    assert Application.from_hash(app.name, app.to_hash()) == app


@given(st.builds(Model, IDS, KINDS, LABELS, TEXTS, TEXTS, POSITIVE | st.just(-1), TEXTS))
def test_model_round_trip(model: Model) -> None:
    assert Model.from_hash(model.to_hash()) == model


@given(st.builds(Replica, IDS, st.integers(0, 10**9 - 1), st.integers(0, 10**15 - 1), KINDS))
def test_replica_round_trip(replica: Replica) -> None:
    assert Replica.from_hash(replica.to_hash()) == replica


def test_slo_in_seconds() -> None:
    assert APP.slo_seconds == 0.02


# --- writes: the databases and keys of facts of 0.4 ---


def flat(hash_: dict[str, str]) -> tuple[str, ...]:
    return tuple(text for pair in hash_.items() for text in pair)


def test_writes() -> None:
    model = ModelId("m", "1")
    assert records.put_application(APP) == [
        Write(5, ("HSET", "app", *flat(APP_HASH))),
        Write(1, ("SET", "app:0:0", '{"y_hat":"-1"}')),
    ]
    assert records.delete_application("app") == [
        Write(5, ("DEL", "app")),
        Write(7, ("DEL", "app")),
        Write(1, ("DEL", "app:0:0")),
    ]
    assert records.put_link("app", "m") == (7, ("SADD", "app", "m"))
    assert records.delete_link("app", "m") == (7, ("SREM", "app", "m"))
    assert records.put_model(MODEL) == (2, ("HSET", "m:1", *flat(MODEL.to_hash())))
    assert records.delete_model(model) == (2, ("DEL", "m:1"))
    assert records.put_current_version(model) == (6, ("SET", "CURRENT_MODEL_VERSION:m", "1"))
    assert records.delete_current_version("m") == (6, ("DEL", "CURRENT_MODEL_VERSION:m"))


def test_a_snapshot_as_writes() -> None:
    snapshot = Snapshot(3, {"app": APP}, {MODEL.id: MODEL}, {"m": "1"}, {"app": ("m", "n")})
    assert records.put_snapshot(snapshot) == [
        *records.put_application(APP),
        records.put_model(MODEL),
        records.put_current_version(MODEL.id),
        records.put_link("app", "m"),
        records.put_link("app", "n"),
    ]
    assert records.put_snapshot(Snapshot()) == []


# --- questions to a snapshot ---


def test_versions_of_a_model() -> None:
    other = Model(ModelId("n", "9"), InputType.INTS)
    snapshot = Snapshot(models={MODEL.id: MODEL, other.id: other})
    assert snapshot.versions("m") == ["1"] and snapshot.versions("x") == []


def test_apps_linked_to_a_model() -> None:
    # A link without its application, as 0.4 leaves it behind, counts for nothing.
    snapshot = Snapshot(applications={"app": APP}, links={"app": ("m",), "gone": ("m",)})
    assert snapshot.apps_linked_to("m") == [APP] and snapshot.apps_linked_to("n") == []


def test_snapshots_that_differ_in_the_revision_only() -> None:
    assert Snapshot(1, {"app": APP}).same_configuration(Snapshot(2, {"app": APP}))
    assert not Snapshot(1, {"app": APP}).same_configuration(Snapshot(1))


# --- what Redis may hold: anything ---

KEYS = st.sampled_from([b"app", b"m:1", b"m,1,2", b"CURRENT_MODEL_VERSION:m", b"clipper:revision", b"clipper:workers"])
ANYTHING = st.binary(max_size=30) | st.sampled_from(
    [b"-1", b"0", b"9" * 400, b"nan", b"1e999", b"\xff", b"ints", b"a\nb"]
)
FLAT_HASHES = st.dictionaries(ANYTHING, ANYTHING).map(lambda fields: [part for pair in fields.items() for part in pair])


def spoilt_hashes(hash_: dict[str, str]) -> st.SearchStrategy[list[bytes]]:
    """A good record, of which some fields have other values or are not there."""
    good = {name.encode(): value.encode() for name, value in hash_.items()}
    values = st.dictionaries(st.sampled_from(sorted(good)), ANYTHING | st.none(), min_size=1)
    return values.map(
        lambda changed: [part for pair in (good | changed).items() if pair[1] is not None for part in pair]
    )


def found(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[records.Found]]:
    return st.lists(
        st.tuples(KEYS | st.binary(max_size=20), st.sampled_from([b"", b"it is a list"]), values), max_size=4
    )


GROUPS = st.tuples(
    found(ANYTHING),
    found(spoilt_hashes(APP_HASH) | FLAT_HASHES),
    found(spoilt_hashes(MODEL_HASH) | FLAT_HASHES),
    found(ANYTHING),
    found(st.lists(ANYTHING, max_size=3)),
)


@given(GROUPS)
def test_a_configuration_of_any_bytes_is_read(groups: tuple[list[records.Found], ...]) -> None:
    snapshot = records.read_snapshot(*groups)
    records_read = [snapshot.applications, snapshot.models, snapshot.current_versions, snapshot.links]
    for group, read, database in zip(groups[1:], records_read, (5, 2, 6, 7), strict=True):
        wrong = sum(place.database == database for place in snapshot.faults)
        assert len({key for key, _, _ in group}) <= len(read) + wrong, "each is read, or wrong"
    assert all(reason.isprintable() and len(reason) < 400 for reason in snapshot.faults.values())
    assert all(str(place).isprintable() for place in snapshot.faults)
    for app in snapshot.applications.values():
        assert app.slo_seconds > 0
    assert snapshot.workers is None or snapshot.workers in range(1, 65)
    json.dumps(records.put_snapshot(snapshot)).encode()
    assert snapshot.with_last_good(Snapshot()) == snapshot


@given(found(spoilt_hashes(REPLICA_HASH) | FLAT_HASHES))
def test_replicas_of_any_bytes_are_read(group: list[records.Found]) -> None:
    replicas, faults = records.read_replicas(group)
    assert len({one[0] for one in group}) <= len(replicas) + len(faults)


JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just("tcp://a:1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@given(st.binary() | JSON_TEXTS.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'["a", "tcp://a:1", [["\\ud800", "1"]]]')
@example(b'["a", "tcp://a\\n", []]')
@example(b'["a", 5, []]')
@example(b'["a", "", [[[], "1"]]]')
@example(b"[" + b"9" * 5000 + b"]")
def test_a_summary_of_any_bytes_is_a_frontend_or_wrong(summary: bytes) -> None:
    try:
        frontend = records.Frontend.from_json(summary)
    except RecordError:
        return
    assert f"{frontend.id}{frontend.rpc_address}".isprintable()


def test_summaries_as_redis_makes_them() -> None:
    frontend = records.Frontend.from_json(b'["host:7000:1f","tcp://[::1]:7000",[["m","1"],["n","2"]]]')
    models = frozenset({ModelId("m", "1"), ModelId("n", "2")})
    assert frontend == records.Frontend("host:7000:1f", "tcp://[::1]:7000", models)
    assert records.Frontend.from_json(b'["a","",{}]') == records.Frontend("a", "", frozenset())


# --- what is wrong stays as it was ---

LAST = Snapshot(7, {"app": APP}, {MODEL.id: MODEL}, {"m": "1"}, {"app": ("m",)}, workers=3, epoch="e")
PLACES = [
    records.REVISION_PLACE,
    records.WORKERS_PLACE,
    records.application_place("app"),
    records.model_place(MODEL.id),
    records.current_version_place("m"),
    records.links_place("app"),
]


def test_what_is_wrong_stays_as_it_was() -> None:
    now = Snapshot(epoch="e", faults=dict.fromkeys(PLACES, "it is wrong"))
    assert now.with_last_good(LAST) == LAST
    assert now.with_last_good(Snapshot()) == replace(Snapshot(), epoch="e")


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_is_gone_does_not_stay(place: records.Place) -> None:
    others = {other: "it is wrong" for other in PLACES if other != place}
    assert Snapshot(epoch="e", faults=others).with_last_good(LAST) != LAST
    assert Snapshot(epoch="e").with_last_good(LAST) == Snapshot(epoch="e")


def test_what_is_good_again_counts() -> None:
    mended = replace(APP, default_output="mended")
    wrong = {records.model_place(MODEL.id): "it is wrong"}
    found = Snapshot(8, {"app": mended}, epoch="e", faults=wrong).with_last_good(LAST)
    assert (found.applications, found.models) == ({"app": mended}, {MODEL.id: MODEL})
