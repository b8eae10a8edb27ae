"""Records and their form in Redis, which is Clipper 0.4's."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipper_common import changes, records
from clipper_common.changes import Write
from clipper_common.constants import MAX_INT32
from clipper_common.datatypes import BatchPolicy, InputType, Link, ModelId, is_model_text, is_plain_text
from clipper_common.errors import RecordError
from clipper_common.records import Application, Model, Replica, Selection
from clipper_common.snapshot import Snapshot

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
    ours = {"registration": "r", "batch_policy": "learned", "batch_delay_micros": "0", "batch_wait": "true"}
    assert MODEL.to_hash() == MODEL_HASH | ours
    assert REPLICA.to_hash() == REPLICA_HASH


def test_batches_wait_unless_the_record_says_otherwise() -> None:
    assert Model.from_hash(MODEL_HASH).batch_wait
    model = replace(MODEL, batch_wait=False)
    assert model.to_hash() == MODEL.to_hash() | {"batch_wait": "false"}
    assert Model.from_hash(model.to_hash()) == model
    assert MODEL.with_batching_of(model) == model


def test_limits_are_fields_that_may_be_absent() -> None:
    app = replace(APP, max_body_bytes=1 << 16)
    assert app.to_hash() == APP_HASH | {"max_body_bytes": "65536"}
    assert Application.from_hash("app", app.to_hash()) == app
    model = replace(MODEL, max_output_bytes=1 << 30)
    assert model.to_hash() == MODEL.to_hash() | {"max_output_bytes": "1073741824"}
    assert Model.from_hash(model.to_hash()) == model
    for wrong in ("0", "65535", "1073741825", "much"):
        with pytest.raises(RecordError, match="max_body_bytes"):
            Application.from_hash("app", APP_HASH | {"max_body_bytes": wrong})
        with pytest.raises(RecordError, match="max_output_bytes"):
            Model.from_hash(MODEL_HASH | {"max_output_bytes": wrong})


SELECTION = Selection("split", {"weights": {"m": 9, "n:2": 1}, "by": "\u00e9"}, 3, (Link("m"), Link("n", "2")))
SELECTION_TEXT = SELECTION.to_json()


def test_a_selection_is_a_field_that_may_be_absent() -> None:
    assert json.loads(SELECTION_TEXT) == {
        "policy": "split",
        "options": {"weights": {"m": 9, "n:2": 1}, "by": "\u00e9"},
        "generation": 3,
        "links": ["m", "n:2"],
    }
    app = replace(APP, selection=SELECTION)
    assert app.to_hash() == APP_HASH | {"selection": SELECTION_TEXT}
    assert Application.from_hash("app", app.to_hash()) == app
    later = json.dumps(json.loads(SELECTION_TEXT) | {"policy": "of a later version", "more": 1})
    read = Application.from_hash("app", APP_HASH | {"selection": later}).selection
    assert read == replace(SELECTION, policy="of a later version")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="list"),
        pytest.param("[" * 100_000, id="deep"),
        *(
            pytest.param(json.dumps(json.loads(SELECTION_TEXT) | {key: value}), id=f"{key}={value}")
            for key, values in {
                "policy": [None, "", 1, "a\nb"],
                "options": [None, []],
                "generation": [None, -1, True, 1.5, "3"],
                "links": [None, "m", [1], [""], ["m:"], [":1"], ["m:1:2"]],
            }.items()
            for value in values
        ),
    ],
)
def test_an_application_with_a_wrong_selection_is_wrong(wrong: str) -> None:
    with pytest.raises(RecordError, match="application 'app' has"):
        Application.from_hash("app", APP_HASH | {"selection": wrong})


def test_fields_of_later_versions_are_ignored() -> None:
    """So the versions of the frontends of a cluster may differ while it is updated."""
    assert Application.from_hash("app", APP_HASH | {"of_a_later_version": "{"}) == APP


def test_links_are_those_of_the_selection_if_it_has_any() -> None:
    links = {"app": ("m",), "other": ("o",)}
    other = replace(APP, name="other", selection=Selection("single", generation=2))
    snapshot = Snapshot(applications={"app": replace(APP, selection=SELECTION), "other": other}, links=links)
    assert snapshot.links_of("app") == (Link("m"), Link("n", "2"))
    assert snapshot.links_of("other") == (Link("o"),)
    assert [app.name for app in snapshot.apps_linked_to("n")] == ["app"]
    assert [app.name for app in snapshot.apps_linked_to("o")] == ["other"]


def test_a_program_that_knows_no_selections_sees_the_first_model() -> None:
    writes = changes.put_selection("app", SELECTION, linked=("m", "x"), wanted=("m",))
    assert [write.command for write in writes] == [
        ("HSET", "app", "selection", SELECTION_TEXT),
        ("SREM", "app", "x"),
    ]


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
    assert changes.put_application(APP) == [
        Write(5, ("HSET", "app", *flat(APP_HASH))),
        Write(1, ("SET", "app:0:0", '{"y_hat":"-1"}')),
    ]
    assert changes.delete_application("app") == [
        Write(5, ("DEL", "app")),
        Write(7, ("DEL", "app")),
        Write(1, ("DEL", "app:0:0")),
    ]
    assert changes.put_link("app", "m") == (7, ("SADD", "app", "m"))
    assert changes.delete_link("app", "m") == (7, ("SREM", "app", "m"))
    assert changes.put_model(MODEL) == (2, ("HSET", "m:1", *flat(MODEL.to_hash())))
    assert changes.delete_model(model) == (2, ("DEL", "m:1"))
    assert changes.put_current_version(model) == (6, ("SET", "CURRENT_MODEL_VERSION:m", "1"))
    assert changes.delete_current_version("m") == (6, ("DEL", "CURRENT_MODEL_VERSION:m"))


def test_a_snapshot_as_writes() -> None:
    snapshot = Snapshot(3, {"app": APP}, {MODEL.id: MODEL}, {"m": "1"}, {"app": ("m", "n")})
    assert changes.put_snapshot(snapshot) == [
        *changes.put_application(APP),
        changes.put_model(MODEL),
        changes.put_current_version(MODEL.id),
        changes.put_link("app", "m"),
        changes.put_link("app", "n"),
    ]
    assert changes.put_snapshot(Snapshot()) == []


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
