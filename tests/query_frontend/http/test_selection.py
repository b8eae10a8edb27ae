"""Tests of which model answers under the policy `split`, and of what answers and metrics say of it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from clipper_common import changes
from clipper_common.datatypes import InputType, Link, ModelId
from clipper_common.records import Application, Model, Selection
from query_frontend.http.fast_path import header_of
from tests.query_frontend.conftest import Frontend, Reply, running_container, running_frontend

pytestmark = pytest.mark.integration

PROGRAM: Final = '''
import os
import rpc


class Version(rpc.ModelContainerBase):
    """Answers with its version."""

    def predict_doubles(self, inputs):
        return [os.environ["CLIPPER_MODEL_VERSION"]] * len(inputs)


rpc.RPCService(collect_metrics=False).start(Version())
'''
LINKS: Final = (Link("m"), Link("m", "2"))
NO_MODELS: Final = "No connected models found for query"


def application(*links: Link, policy: str = "split", **options: Any) -> Application:
    return Application("app", InputType.DOUBLES, "-1", 5_000_000, selection=Selection(policy, options, 1, links))


@pytest.fixture(scope="module")
def server(redis_port_of_module: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    """A frontend with the versions 1 and 2 of a model, of which 1 is current, and 3, which has no replica."""
    folder = tmp_path_factory.mktemp("selection")
    program = folder / "version.py"
    program.write_text(PROGRAM)
    with ExitStack() as stack:
        frontend = stack.enter_context(running_frontend(redis_port_of_module, folder / "frontend.log"))
        frontend.serve("plain", "m:1")
        for version in "23":
            frontend.configure(changes.put_model(Model(ModelId("m", version), InputType.DOUBLES)))
        for version in "12":
            stack.enter_context(running_container(frontend, program, f"m:{version}", "doubles"))
        frontend.wait_for_replicas(2)
        yield frontend


@pytest.fixture
def split(server: Frontend) -> Frontend:
    """The application as it was never used."""
    server.configure(*changes.delete_application("app"))
    server.configure(*changes.put_application(application(*LINKS, weights={"m": 3, "m:2": 1})))
    return server


def ask(frontend: Frontend, *headers: tuple[str, str], **fields: Any) -> Reply:
    reply = frontend.post("/app/predict", {"input": [1.0]} | fields, **dict(headers))
    assert reply.status == 200, reply
    return reply


def counts(frontend: Frontend, link: str) -> tuple[int, int] | None:
    found = [frontend.metric("counters", f"app:app:arm:{link}:num_{what}") for what in ("predictions", "defaults")]
    return None if None in found else (int(found[0]["count"]), int(found[1]["count"]))  # type: ignore[index]


def test_queries_are_split_by_weight_and_counted(split: Frontend) -> None:
    names = Counter(ask(split, input=[float(number)]).headers["X-Clipper-Model"] for number in range(400))
    assert names.keys() == {"m:1", "m:2"} and 240 < names["m:1"] < 360, "five standard deviations around 300"
    assert (counts(split, "m"), counts(split, "m:2")) == ((names["m:1"], 0), (names["m:2"], 0))
    total = split.metric("counters", "app:app:num_predictions")
    assert total is not None and total["count"] == "400"


def test_each_input_of_a_batch_is_given_to_a_model(split: Frontend) -> None:
    reply = split.post("/app/predict", {"input_batch": [[float(number)] for number in range(1000)]})
    outputs = Counter(answer["output"] for answer in reply.json["batch_predictions"])
    assert outputs.keys() == {1, 2} and 650 < outputs[1] < 850
    assert "X-Clipper-Model" not in reply.headers, "two answered"
    assert (counts(split, "m"), counts(split, "m:2")) == ((outputs[1], 0), (outputs[2], 0))


def test_cached_outputs_are_those_of_the_model_that_was_chosen(split: Frontend) -> None:
    for _ in range(60):
        reply = ask(split, input=[7.0])
        assert reply.headers["X-Clipper-Model"] == f"m:{reply.json['output']}"


@pytest.mark.parametrize("sticky_key", ["header:X-User", "uid"])
def test_a_sticky_key_always_gets_the_same_model(split: Frontend, sticky_key: str) -> None:
    split.configure(*changes.put_application(application(*LINKS, sticky_key=sticky_key)))

    def models(user: str) -> set[Any]:
        headers, fields = ([("X-User", user)], {}) if sticky_key != "uid" else ([], {"uid": user})
        one = ask(split, *headers, **fields)
        explained = ask(split, *headers, explain=True, **fields)
        batch = split.post("/app/predict", {"input_batch": [[1.0]] * 100} | fields, **dict(headers))
        outputs = {answer["output"] for answer in batch.json["batch_predictions"]}
        names = {reply.headers["X-Clipper-Model"] for reply in (one, explained, batch)}
        return names | {f"m:{output}" for output in outputs}

    found = [models(str(user)) for user in range(12)]
    assert {len(names) for names in found} == {1} and len(set.union(*found)) == 2


def test_a_large_body_has_its_sticky_key(split: Frontend) -> None:
    split.configure(*changes.put_application(application(*LINKS, sticky_key="uid")))
    values = [float(number) for number in range(20_000)]
    for user in range(6):
        name = ask(split, uid=user).headers["X-Clipper-Model"]
        for body in ({"input": values, "uid": user}, {"uid": user, "input": values}):
            assert split.post("/app/predict", body).headers["X-Clipper-Model"] == name


def test_a_uid_of_a_wrong_type_is_refused_where_it_is_the_key(split: Frontend) -> None:
    assert ask(split, uid=[1]).json["default"] is False
    split.configure(*changes.put_application(application(*LINKS, sticky_key="uid")))
    reply = split.post("/app/predict", {"input": [1.0], "uid": [1]})
    assert reply.status == 400 and "JSON key uid expected type int64 or String" in reply.json["cause"]


def test_answers_are_explained(split: Frontend) -> None:
    plain = ask(split).json
    assert plain.keys() == {"query_id", "output", "default"}
    by_header = ask(split, ("X-Clipper-Explain", "true")).json
    for answer in (ask(split, explain=True).json, by_header):
        assert answer.keys() == plain.keys() | {"explanation"}
        assert answer["explanation"]["policy"] == "split"
        (asked,) = answer["explanation"]["models"]
        assert asked["latency_micros"] >= 0
        weight, link = (0.75, "m") if answer["output"] == 1 else (0.25, "m:2")
        assert (asked["link"], asked["model"], asked["weight"]) == (link, f"m:{answer['output']}", weight)
    batch = split.post("/app/predict", {"input_batch": [[1.0]] * 50, "explain": True}).json["batch_predictions"]
    assert all(one["explanation"]["models"][0]["model"] == f"m:{one['output']}" for one in batch)
    (asked,) = ask(split, version="2", explain=True).json["explanation"]["models"]
    assert (asked["link"], asked["model"], asked["weight"]) == (None, "m:2", None)


def test_a_model_without_a_replica_is_answered_for_by_nobody_else(split: Frontend) -> None:
    links = (*LINKS, Link("m", "3"), Link("gone"))
    split.configure(*changes.put_application(application(*links, weights={"m:3": 1})))
    answer = ask(split, explain=True).json
    assert (answer["default"], answer["default_explanation"]) == (True, NO_MODELS)
    assert answer["explanation"]["models"][0]["model"] == "m:3"
    assert "X-Clipper-Model" not in ask(split).headers
    split.configure(*changes.put_application(application(*links, weights={"gone": 1})))
    answer = ask(split, explain=True).json
    assert (answer["default_explanation"], answer["explanation"]["models"][0]["model"]) == (NO_MODELS, None)
    assert (counts(split, "m:3"), counts(split, "gone")) == ((2, 2), (1, 1))


def test_changes_are_followed_and_counters_go_with_their_links(split: Frontend) -> None:
    split.configure(*changes.put_application(application(*LINKS, weights={"m": 1})))
    assert {ask(split).json["output"] for _ in range(20)} == {1}
    split.configure(changes.put_current_version(ModelId("m", "2")))
    assert {ask(split).json["output"] for _ in range(20)} == {2}, "the link follows the current version"
    split.configure(changes.put_current_version(ModelId("m", "1")))
    split.configure(*changes.put_application(application(LINKS[0])))
    assert (counts(split, "m"), counts(split, "m:2")) == ((40, 0), None)
    split.configure(*changes.put_application(application(policy="single")), changes.put_link("app", "m"))
    assert ask(split, explain=True).json.keys() == {"query_id", "output", "default"}
    assert counts(split, "m") is None


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(application(Link("m", "2"), LINKS[0], policy="of a later version"), id="policy"),
        pytest.param(application(Link("m", "2"), LINKS[0], weights={"m": 1}, later=True), id="option"),
    ],
)
def test_the_first_link_answers_under_a_policy_of_a_later_version(split: Frontend, unknown: Application) -> None:
    split.configure(*changes.put_application(unknown))
    assert {ask(split, explain=True).json["output"] for _ in range(20)} == {2}
    assert "application app is served as with the selection policy 'single'" in split.log.read_text()


def test_a_version_can_be_asked_for(split: Frontend) -> None:
    assert {ask(split, version="2").json["output"] for _ in range(10)} == {2}
    assert (counts(split, "m"), counts(split, "m:2")) == ((0, 0), (0, 0)), "the policy did not choose"
    reply = split.post("/app/predict", {"input": [1.0], "version": "9"})
    assert reply.json["cause"] == "Requested version: 9 does not exist for model: m"


def test_a_uid_of_any_length_is_a_key(split: Frontend) -> None:
    split.configure(*changes.put_application(application(*LINKS, sticky_key="uid")))
    for user in ("x" * 1024, "y" * 1025, "z" * 40_000, "a" * (1 << 20)):
        names = {ask(split, uid=user).headers["X-Clipper-Model"] for _ in range(5)}
        assert len(names) == 1


@pytest.mark.parametrize("value", [b"a", b"  a\t", b"a" + b" " * 8000 + b"b", b""])
def test_the_value_of_a_header_has_no_blanks_around_it(value: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nX-User-2: other\r\nx-user:" + value + b"\r\nHost: h\r\n\r\n"
    assert header_of(head, "X-User") == value.strip()
    assert header_of(head, "X-None") == header_of(head, "") == b""
