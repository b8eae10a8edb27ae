"""ClipperConnection over a real management frontend."""

import asyncio
import json
import logging
import math
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipper_admin import ClipperConnection, ClipperException, UnconnectedException, replicas, startup
from clipper_admin.container_manager import ReplicaFailure
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.http_client import ErrorStatus
from clipper_admin.management_client import ManagementClient
from clipper_admin.model_spec import ModelSpec
from clipper_common.constants import LOAD_SECONDS
from clipper_common.datatypes import ModelId
from clipper_common.membership_store import MembershipStore
from clipper_common.records import FrontendReport
from clipper_common.redis_client import RedisClient
from tests.clipper_admin.conftest import Connect
from tests.clipper_admin.fakes import (
    AwayForAWhile,
    CannotStop,
    DiesDuringStart,
    FakeContainerManager,
    FakeQueryFrontend,
    InterruptedWhileWaiting,
    IsForestalled,
    IsOvertaken,
    LacksImage,
    NeverConnects,
)


def deploy(conn: ClipperConnection, version: object = 1, **options: Any) -> None:
    arguments = {"name": "m", "version": version, "input_type": "doubles", "image": "some/image:1"} | options
    conn.deploy_model(**arguments)


# --- the cluster ---


def test_start_clipper(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    conn.connected = False
    conn.start_clipper(cache_size=0, qf_http_timeout_request=7)
    assert cm.called("start_clipper") == [(FrontendOptions(cache_size=0, qf_http_timeout_request=7),)]
    assert conn.connected


def test_flags_of_the_frontends(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    conn.start_clipper(
        query_frontend_flags={"max_body_bytes": 1 << 20, "inflate_bodies": True, "fast_lane": 0},
        mgmt_frontend_flags={"allowed_origins": ["https://a.example.com", "http://b:8080"]},
    )
    ((options,),) = cm.called("start_clipper")
    arguments = options.query_frontend_arguments()
    assert (arguments["max_body_bytes"], arguments["inflate_bodies"], arguments["fast_lane"]) == (1 << 20, 1, 0)
    assert type(arguments["inflate_bodies"]) is int, "older images read numbers only"
    assert options.mgmt_frontend_flags == {"allowed_origins": "https://a.example.com,http://b:8080"}


@pytest.mark.parametrize(
    "argument",
    [
        {"query_frontend_flags": {"port": 1337}},
        {"query_frontend_flags": {"max_body_bytes": "large"}},
        {"query_frontend_flags": {"max_body_bytes": True}},
        {"query_frontend_flags": {"inflate_bodies": "yes"}},
        {"query_frontend_flags": ["--max_body_bytes=1048576"]},
        {"mgmt_frontend_flags": {"allowed_origins": "https://a.example.com"}},
        {"mgmt_frontend_flags": {"allowed_hosts": [""]}},
        {"cache_size": -1},
        {"cache_size": "32"},
        {"cache_size": True},
        {"qf_http_thread_pool_size": 0},
        {"qf_http_timeout_request": 0},
        {"qf_http_timeout_content": 0.5},
        {"num_frontend_replicas": 0},
        {"workers": 0},
        {"workers": 65},
        {"query_frontend_image": ""},
        {"mgmt_frontend_image": None},
        {"frontend_exporter_image": 3},
    ],
)
def test_start_clipper_refuses(argument: dict[str, Any], conn: ClipperConnection, cm: FakeContainerManager) -> None:
    with pytest.raises(ClipperException, match=next(iter(argument))):
        conn.start_clipper(**argument)
    assert not cm.called("start_clipper")


def test_number_of_query_frontends(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    conn.set_num_frontend_replicas(3)
    assert conn.get_num_frontend_replicas() == 3
    for number in (0, 1.5, "2"):
        with pytest.raises(ClipperException, match="num_frontend_replicas"):
            conn.set_num_frontend_replicas(number)  # type: ignore[arg-type]
    assert cm.called("set_num_frontend_replicas") == [(3,)]


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_cluster_that_does_not_answer_is_stopped(
    path: str,
    conn: ClipperConnection,
    cm: FakeContainerManager,
    query_frontend: FakeQueryFrontend,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(startup, "STARTUP_SECONDS", 0.1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    query_frontend.answers[path] = (503, "still starting")
    conn.connected = False
    with pytest.raises(ClipperException, match="(?s)503 and message: .*still starting.*query_frontend.log.*last line"):
        conn.start_clipper()
    assert cm.called("stop_all") == [(False,)]
    assert not conn.connected


def test_a_cluster_that_cannot_be_stopped_again_does_not_hide_why(
    conn: ClipperConnection,
    cm: FakeContainerManager,
    query_frontend: FakeQueryFrontend,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(graceful: bool) -> None:
        raise ClipperException("stopping is broken")

    monkeypatch.setattr(startup, "STARTUP_SECONDS", 0.1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cm, "stop_all", fail)
    query_frontend.answers["/readyz"] = (503, "still starting")
    with pytest.raises(ClipperException, match="still starting"):
        conn.start_clipper()
    assert "stopping is broken" in caplog.text


def test_interrupted_start_stops_the_cluster(
    conn: ClipperConnection, cm: FakeContainerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cm, "get_admin_addr", interrupted)
    conn = ClipperConnection(cm)
    with pytest.raises(KeyboardInterrupt):
        conn.start_clipper()
    assert cm.called("stop_all") == [(False,)]
    assert not conn.connected


def test_connect_waits_for_a_management_frontend_that_is_about_to_answer(
    conn: ClipperConnection, cm: FakeContainerManager, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, address = [f"127.0.0.1:{free_port}"] * 3, cm.get_admin_addr()
    monkeypatch.setattr(cm, "get_admin_addr", lambda: refused.pop() if refused else address)
    conn = ClipperConnection(cm)
    conn.connect()
    assert conn.connected
    assert not refused


def test_connect_to_a_dead_management_frontend(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "CONNECT_SECONDS", 0.1)
    conn = ClipperConnection(FakeContainerManager(f"127.0.0.1:{free_port}", "", 1))
    with pytest.raises(ClipperException, match=f"management frontend at 127.0.0.1:{free_port} could not be reached"):
        conn.connect()
    assert not conn.connected


def test_stop_all_ends_the_connection(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    conn.stop_all(graceful=False)
    assert cm.called("stop_all") == [(False,)]
    with pytest.raises(UnconnectedException):
        conn.get_all_apps()


# --- applications ---


def test_life_of_an_application(conn: ClipperConnection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    conn.register_application("hello-world", "d", "-1.0", 100000)
    assert "[fake-cluster] Application hello-world was successfully registered" in caplog.messages
    assert conn.get_all_apps() == ["hello-world"]
    info = conn.get_app_info("hello-world")
    assert info == {
        "name": "hello-world",
        "input_type": "doubles",
        "default_output": "-1.0",
        "latency_slo_micros": 100000,
        "missing_values": False,
        "linked_models": [],
    }
    assert conn.get_all_apps(verbose=True) == [info]
    conn.unregister_application("hello-world")
    assert conn.get_app_info("hello-world") is None


def test_delete_application_is_an_alias(conn: ClipperConnection, caplog: pytest.LogCaptureFixture) -> None:
    conn.register_application("a", "doubles", "", 1)
    conn.delete_application("a")
    assert conn.get_all_apps() == []
    assert "deprecated" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("", "doubles", "", 1), "name"),
        ((None, "doubles", "", 1), "name"),
        (("a/b", "doubles", "", 1), "a/b"),
        (("a", "complex", "", 1), "input_type='complex'"),
        (("a", 3, "", 1), "input_type=3"),
        (("a", "doubles", -1.0, 1), "default_output=-1.0"),
        (("a", "doubles", "", 0), "slo_micros=0"),
        (("a", "doubles", "", 1.5), "slo_micros=1.5"),
        (("a", "doubles", "", None), "slo_micros=None"),
    ],
)
def test_register_application_refuses(arguments: tuple[Any, ...], named: str, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match=named):
        conn.register_application(*arguments)
    assert conn.get_all_apps() == []


def test_links(conn: ClipperConnection) -> None:
    conn.register_application("a", "doubles", "", 1)
    deploy(conn)
    with pytest.raises(ClipperException, match="No model with name 'other' exists"):
        conn.link_model_to_app("a", "other")
    conn.link_model_to_app("a", "m")
    assert conn.get_linked_models("a") == ["m"]
    conn.unlink_model_from_app("a", "m")
    assert conn.get_linked_models("a") == []
    with pytest.raises(ClipperException, match="Received error status code: 400 and message: .*no-app"):
        conn.get_linked_models("no-app")


def test_links_of_a_selection_policy(conn: ClipperConnection) -> None:
    conn.register_application("a", "doubles", "", 1)
    deploy(conn)
    deploy(conn, 2)
    conn.link_model_to_app("a", "m")
    with pytest.raises(ClipperException, match="A model with name m is already linked to 'a'"):
        conn.link_model_to_app("a", "m", 1)
    assert conn.get_selection_policy("a")["policy"] == "single"
    assert "selection_policy" not in conn.get_app_info("a")  # type: ignore[operator]

    conn.set_selection_policy("a", "split", weights={"m": 1}, sticky_key="uid")
    conn.link_model_to_app("a", "m", 1)
    conn.set_selection_policy("a", "split", weights={"m": 95, "m:1": 5}, sticky_key="uid")
    expected = {"policy": "split", "options": {"weights": {"m": 95, "m:1": 5}, "sticky_key": "uid"}, "generation": 2}
    assert conn.get_selection_policy("a") == expected | {"linked_models": ["m", "m:1"]}
    info = conn.get_app_info("a")
    assert info is not None
    assert (info["selection_policy"], info["linked_models"]) == (expected, conn.get_linked_models("a"))
    conn.delete_selection_state("a")
    assert conn.get_selection_policy("a")["generation"] == 2, "there is no state to delete"

    with pytest.raises(ClipperException, match="'weights' names 'm:1', which is not linked.*Set another"):
        conn.unlink_model_from_app("a", "m", 1)
    conn.set_selection_policy("a", "split", weights={"m": 1})
    conn.unlink_model_from_app("a", "m", 1)
    conn.set_selection_policy("a", "single")
    assert conn.get_linked_models("a") == ["m"]


@pytest.mark.parametrize(
    ("policy", "options", "named"),
    [
        pytest.param("best", {}, "'best' is no selection policy", id="policy"),
        pytest.param("", {}, "policy=''", id="no policy"),
        pytest.param("exp3", {}, "'exp3' is not available in this version", id="not available"),
        pytest.param("single", {"weights": {}}, "'single' has no option 'weights'", id="option"),
        pytest.param("split", {"weights": {"m": float("nan")}}, "weights={'m': nan}", id="nan"),
        pytest.param("split", {"weights": {"m": object()}}, "weights={'m': <object", id="object"),
        pytest.param("split", {"weights": {"m": -1}}, "'weights' must be weights that are 0, or from", id="negative"),
        pytest.param("split", {"weights": {"m": 0}}, "'weights' must be weights of which one", id="all 0"),
        pytest.param("split", {"weights": [1]}, "'weights' must be an object", id="list"),
        pytest.param("split", {"weights": {"x": 1}}, "'weights' names 'x', which is not linked", id="not linked"),
        pytest.param("split", {"sticky_key": "cookie"}, "'sticky_key' must be 'uid', or", id="key"),
    ],
)
def test_set_selection_policy_refuses(
    policy: str, options: dict[str, Any], named: str, conn: ClipperConnection
) -> None:
    conn.register_application("a", "doubles", "", 1)
    deploy(conn)
    conn.link_model_to_app("a", "m")
    with pytest.raises(ClipperException, match=re.escape(named)):
        conn.set_selection_policy("a", policy, **options)
    assert conn.get_selection_policy("a")["generation"] == 0


# --- prediction ---


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([1.5, 2], [1.5, 2]),
        (np.array([1.5, 2.5], dtype=np.float32), [1.5, 2.5]),
        ([np.int64(3)], [3]),
        ((1, 2), [1, 2]),
        ("text", "text"),
        (b"\x00\xff", "AP8="),
        (bytearray(b"\x00"), "AA=="),
    ],
)
def test_predict(given: Any, sent: Any, conn: ClipperConnection, query_frontend: FakeQueryFrontend) -> None:
    answer = {"query_id": 0, "output": 3.5, "default": False}
    query_frontend.answers["/a/predict"] = (200, answer)
    assert conn.predict("a", given) == answer
    assert query_frontend.requests[-1] == ("POST", "/a/predict", {"input": sent})


def test_predict_with_a_version(conn: ClipperConnection, query_frontend: FakeQueryFrontend) -> None:
    query_frontend.answers["/a/predict"] = (200, {})
    conn.predict("a", [1], version=2)
    assert query_frontend.requests[-1][2] == {"input": [1], "version": "2"}


def test_predict_sends_missing_values(conn: ClipperConnection, query_frontend: FakeQueryFrontend) -> None:
    query_frontend.answers["/a/predict"] = (200, {})
    conn.predict("a", [None, -math.inf])
    assert query_frontend.requests[-1] == ("POST", "/a/predict", {"input": [None, -math.inf]})
    conn.predict("a", np.array([1.5], np.longdouble))
    assert query_frontend.requests[-1] == ("POST", "/a/predict", {"input": [1.5]})
    conn.predict("a", memoryview(b"\x00\x01\x02\x03")[::2])
    assert query_frontend.requests[-1] == ("POST", "/a/predict", {"input": "AAI="})
    conn.predict("a", np.array([np.nan]))
    assert math.isnan(query_frontend.requests[-1][2]["input"][0])


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([[1.0], [2.0]], [[1.0], [2.0]]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([b"\x00", bytearray(b"\xff")], ["AA==", "/w=="]),
        (("a", "b"), ["a", "b"]),
    ],
)
def test_predict_of_a_batch(given: Any, sent: Any, conn: ClipperConnection, query_frontend: FakeQueryFrontend) -> None:
    answers = [{"query_id": 0, "output": 1, "default": False}, {"query_id": 1, "output": 2, "default": False}]
    query_frontend.answers["/a/predict"] = (200, {"batch_predictions": answers})
    assert conn.predict("a", input_batch=given, version=3) == answers
    assert query_frontend.requests[-1] == ("POST", "/a/predict", {"input_batch": sent, "version": "3"})


def test_batches_of_one_and_of_none(conn: ClipperConnection, query_frontend: FakeQueryFrontend) -> None:
    answer = {"query_id": 0, "output": 1, "default": False}
    query_frontend.answers["/a/predict"] = (200, answer)
    assert conn.predict("a", input_batch=[[1.0]]) == [answer]
    assert conn.predict("a", input_batch=[]) == []


def test_predict_takes_one_input_or_a_batch(conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match="input=None"):
        conn.predict("a")  # type: ignore[call-overload]
    with pytest.raises(ClipperException, match="both given"):
        conn.predict("a", [1.0], input_batch=[[1.0]])  # type: ignore[call-overload]
    for wrong in ("text", b"bytes", {"a": 1}, 5):
        with pytest.raises(ClipperException, match="input_batch="):
            conn.predict("a", input_batch=wrong)


def test_register_application_with_missing_values(conn: ClipperConnection) -> None:
    conn.register_application("m", "floats", "", 1000, missing_values=True)
    assert conn.get_app_info("m")["missing_values"] is True  # type: ignore[index]
    with pytest.raises(ClipperException, match="missing_values is for the input types floats and doubles"):
        conn.register_application("i", "ints", "", 1000, missing_values=True)


def test_register_with_limits(conn: ClipperConnection) -> None:
    conn.register_application("a", "floats", "", 1000, max_body_bytes=1 << 16)
    assert conn.get_app_info("a")["max_body_bytes"] == 1 << 16  # type: ignore[index]
    conn.register_model("m", 1, "floats", max_output_bytes=1 << 30)
    conn.deploy_model("n", "1", "floats", "image", num_replicas=0, max_output_bytes=1 << 20)
    conn.deploy_model("n", "2", "floats", "image", num_replicas=0)
    for model, version, limit in (("m", 1, 1 << 30), ("n", 1, 1 << 20), ("n", 2, None)):
        assert conn.get_model_info(model, version).get("max_output_bytes") == limit  # type: ignore[union-attr]
    with pytest.raises(ClipperException, match="max_body_bytes=1"):
        conn.register_application("b", "floats", "", 1000, max_body_bytes=1)


def test_predict_error_holds_the_body(conn: ClipperConnection, query_frontend: FakeQueryFrontend) -> None:
    body = {"error": "Json error", "cause": "what was wrong"}
    query_frontend.answers["/a/predict"] = (400, body)
    with pytest.raises(ClipperException) as caught:
        conn.predict("a", [1])
    assert caught.value.msg == f"Received error status code: 400 and message: {json.dumps(body)}"


@pytest.mark.parametrize("value", [[object()], {1}])
def test_predict_refuses_what_json_cannot_hold(value: Any, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match="cannot be sent as JSON"):
        conn.predict("a", value)


def test_inspect_instance(conn: ClipperConnection) -> None:
    assert conn.inspect_instance() == {"counters": []}


# --- deployment ---


def test_deploy_model(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn, version=1, labels=["a", "b"], num_replicas=2, batch_size=7)
    assert cm.called("deploy_model") == [("m", "1", "doubles", "some/image:1", 2)]
    assert conn.get_all_models() == ["m:1"]
    info = conn.get_model_info("m", 1)
    assert info is not None
    assert (info["labels"], info["container_name"], info["is_current_version"]) == (["a", "b"], "some/image:1", True)
    assert conn.get_all_model_replicas() == ["m:1:0", "m:1:1"]
    assert conn.get_model_replica_info("m", 1, 1)["model_id"] == "m:1"  # type: ignore[index]
    assert conn.get_model_replica_info("m", 1, 2) is None
    assert conn.get_num_replicas("m") == 2


def test_a_version_may_hold_dots(conn: ClipperConnection) -> None:
    deploy(conn, version="1.2.3-rc1")
    assert conn.get_current_model_version("m") == "1.2.3-rc1"


def test_deploy_without_making_current(conn: ClipperConnection) -> None:
    deploy(conn, 1)
    deploy(conn, 2, make_current=False)
    assert conn.get_current_model_version("m") == "1"
    conn.set_model_version("m", 2)
    assert conn.get_current_model_version("m") == "2"


def test_zero_replicas_are_registered_only(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn, num_replicas=0)
    assert conn.get_all_models() == ["m:1"]
    assert not cm.called("deploy_model")


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ({"name": "M"}, "name='M'"),
        ({"name": "a_b"}, "name='a_b'"),
        ({"name": 3}, "name=3"),
        ({"name": "a" * 64}, "at most 63"),
        ({"version": "1_0"}, "version='1_0'"),
        ({"version": ""}, "version=''"),
        ({"version": "1."}, "version='1.'"),
        ({"input_type": "complex"}, "input_type='complex'"),
        ({"num_replicas": -1}, "num_replicas=-1"),
        ({"num_replicas": "2"}, "num_replicas='2'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": -2}, "batch_size=-2"),
        ({"batch_policy": "best"}, "batch_policy='best'"),
        ({"batch_policy": "aimd", "batch_size": 3}, "leave out one of the two"),
        ({"batch_delay_micros": -1}, "batch_delay_micros=-1"),
        ({"max_output_bytes": 0}, "max_output_bytes=0"),
        *[({"load_timeout": wrong}, f"load_timeout={wrong!r}") for wrong in (0, -1, nan, inf, True, "900", None)],
        ({"labels": "one"}, "labels='one'"),
        ({"labels": [1]}, "labels"),
        ({"labels": ["a,b"]}, "a,b"),
        ({"image": ""}, "image"),
    ],
)
def test_deploy_model_refuses(
    argument: dict[str, Any], named: str, conn: ClipperConnection, cm: FakeContainerManager
) -> None:
    with pytest.raises(ClipperException, match=named):
        deploy(conn, **argument)
    assert conn.get_all_models() == []
    assert not cm.called("deploy_model")


def test_clashes_are_found_before_anything_is_built(
    conn: ClipperConnection, cm: FakeContainerManager, tmp_path: Path
) -> None:
    deploy(conn)
    conn.register_application("a", "doubles", "", 1)
    conn.link_model_to_app("a", "m")
    with pytest.raises(ClipperException, match="version '1' already exists"):
        conn.build_and_deploy_model("m", 1, "doubles", tmp_path, "base")
    with pytest.raises(ClipperException, match="is not compatible"):
        conn.build_and_deploy_model("m", 2, "strings", tmp_path, "base")
    with pytest.raises(ClipperException, match="num_replicas"):
        conn.build_and_deploy_model("m", 2, "doubles", tmp_path, "base", num_replicas=-1)
    assert not cm.called("build_model")
    assert len(cm.called("deploy_model")) == 1


def test_dead_replica(connect: Connect) -> None:
    conn = connect(DiesDuringStart)
    with pytest.raises(ClipperException, match=r"(?s)m_1-0 exited with code 3.*No module named 'x'"):
        deploy(conn)
    assert_rolled_back(conn)


def test_replica_that_never_connects(connect: Connect) -> None:
    conn = connect(NeverConnects)
    with pytest.raises(ClipperException) as raised:
        deploy(conn, num_replicas=2, load_timeout=0.1)
    assert str(raised.value) == (
        "0 of 2 replicas of m:1 are connected to the query frontend after 0.1 seconds. If the model takes longer to "
        "load, give it more time with load_timeout=<seconds>.\n"
        "Replica m_1-1 still runs. It wrote nothing.\n"
        "Replica m_1-0 still runs. The last that it wrote:\n    loading\n    still loading"
    )
    assert_rolled_back(conn)


def test_a_wait_that_takes_long_is_logged(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replicas, "_REPORT_SECONDS", 0.05)
    caplog.set_level("INFO", logger="clipper_admin")
    with pytest.raises(ClipperException):
        deploy(connect(NeverConnects), load_timeout=0.3)
    assert "0 of 1 replicas of m:1 serve after" in caplog.text
    assert "wrote last: still loading" in caplog.text


def test_the_time_to_load_reaches_the_manager(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn)
    assert cm.load_seconds == LOAD_SECONDS
    deploy(conn, 2, load_timeout=900)
    assert cm.load_seconds == 900
    conn.set_num_replicas("m", 2, load_timeout=901)
    assert cm.load_seconds == 901
    conn.set_model_version("m", 1, num_replicas=3, load_timeout=902)
    assert cm.load_seconds == 902


def test_interrupted_deployment(connect: Connect) -> None:
    conn = connect(InterruptedWhileWaiting)
    with pytest.raises(KeyboardInterrupt):
        deploy(conn)
    assert_rolled_back(conn)


def test_unknown_image(connect: Connect) -> None:
    conn = connect(LacksImage)
    with pytest.raises(ClipperException, match="There is no image 'some/image:1'"):
        deploy(conn)
    assert_rolled_back(conn)


def test_what_somebody_else_deploys_stays(connect: Connect) -> None:
    conn = connect(IsForestalled)
    with pytest.raises(ClipperException, match="Somebody else deploys m"):
        deploy(conn)
    assert conn.cm.called("stop_models") == []  # type: ignore[attr-defined]


def test_registration_that_fails_at_the_end(connect: Connect) -> None:
    conn = connect(IsOvertaken)
    conn.cm.overtake = lambda: conn.register_model("m", 1, "doubles")  # type: ignore[attr-defined]
    with pytest.raises(ClipperException, match="already exists"):
        deploy(conn)
    assert conn.cm.called("stop_models") == [({"m": ["1"]},)]  # type: ignore[attr-defined]


def test_a_deployment_lives_through_an_absence(connect: Connect) -> None:
    conn = connect(AwayForAWhile)
    deploy(conn)
    assert conn.cm.absences == 0  # type: ignore[attr-defined]
    assert conn.get_all_models() == ["m:1"]


def test_first_error_is_told_when_the_roll_back_fails_too(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ClipperException, match="exited with code 3"):
        deploy(connect(CannotStop))
    assert "stopping is broken" in caplog.text


def assert_rolled_back(conn: ClipperConnection) -> None:
    assert conn.cm.called("stop_models") == [({"m": ["1"]},)]  # type: ignore[attr-defined]
    assert conn.get_all_models() == []


def test_replicas_of_an_unregistered_version(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    cm.deploy_model(ModelSpec("m", "1", "doubles", "some/image:1"))
    with pytest.raises(ClipperException, match=r"stop_versioned_models\(\{'m': \['1'\]\}\)"):
        deploy(conn)
    assert cm.get_num_replicas("m", "1") == 1
    conn.stop_versioned_models({"m": ["1"]})
    deploy(conn)


# --- building ---


def test_build_model_needs_no_cluster(tmp_path: Path) -> None:
    cm = FakeContainerManager("127.0.0.1:1", "127.0.0.1:1", 1)
    conn = ClipperConnection(cm)
    assert conn.build_model("m", 1, tmp_path, "base") == "fake-cluster-m:1"
    image = conn.build_model("m", "1.2", str(tmp_path), "base", "quay.io/me", ["numpy==2.0"])
    assert image == "quay.io/me/fake-cluster-m:1.2"
    assert cm.called("build_model")[1] == (image, [], "base", "quay.io/me", ["numpy==2.0"])


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ({"name": "Not/good"}, "name='Not/good'"),
        ({"version": "a b"}, "version='a b'"),
        ({"base_image": ""}, "base_image"),
        ({"model_data_path": "/no/such/folder"}, "model_data_path='/no/such/folder'"),
        ({"pkgs_to_install": "numpy"}, "pkgs_to_install='numpy'"),
        ({"container_registry": 3}, "container_registry=3"),
    ],
)
def test_build_model_refuses(
    argument: dict[str, Any], named: str, conn: ClipperConnection, cm: FakeContainerManager, tmp_path: Path
) -> None:
    arguments = {"name": "m", "version": 1, "model_data_path": tmp_path, "base_image": "base"} | argument
    with pytest.raises(ClipperException, match=named):
        conn.build_model(**arguments)
    assert not cm.called("build_model")


def test_build_and_deploy_model(conn: ClipperConnection, cm: FakeContainerManager, tmp_path: Path) -> None:
    conn.build_and_deploy_model("m", 1, "ints", tmp_path, "base")
    assert cm.called("deploy_model") == [("m", "1", "integers", "fake-cluster-m:1", 1)]


# --- versions and replicas ---


def test_register_model(conn: ClipperConnection) -> None:
    conn.register_model("my_model", 1, "doubles")
    assert conn.get_model_info("my_model", 1)["container_name"] == "NO_CONTAINER"  # type: ignore[index]
    with pytest.raises(ClipperException, match="batch_size=0"):
        conn.register_model("my_model", 2, "doubles", batch_size=0)
    assert conn.get_model_info("my_model", 2) is None


def test_batching_is_set_at_deployment_and_later(conn: ClipperConnection) -> None:
    def batching(version: int) -> list[Any]:
        info = conn.get_model_info("m", version)
        assert info is not None
        return [info["batch_policy"], info["batch_size"], info["batch_delay_micros"], info["batch_wait"]]

    deploy(conn, 1, batch_policy="quantile", batch_delay_micros=500)
    assert batching(1) == ["quantile", -1, 500, True]
    conn.register_model("m", 2, "doubles", batch_size=8)
    assert batching(2) == ["fixed", 8, 0, True]
    conn.set_batching("m", batch_policy="aimd")  # of the current version
    conn.set_batching("m", 1, batch_size=4, batch_delay_micros=0)
    assert (batching(2), batching(1)) == (["aimd", -1, 0, True], ["fixed", 4, 0, True])
    conn.set_batching("m", 1, batch_size=-1, batch_wait=False)
    assert batching(1) == ["quantile", -1, 0, False]
    deploy(conn, 3, batch_wait=False)
    assert batching(3) == ["learned", -1, 0, False]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch_policy": "best"}, "batch_policy='best'. It should be one of learned, aimd, quantile, fixed"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_delay_micros": -1}, "batch_delay_micros=-1"),
        ({"batch_delay_micros": 0.5}, "batch_delay_micros=0.5"),
        ({"batch_policy": "aimd", "batch_size": 3}, "leave out one of the two"),
        ({"batch_policy": "fixed"}, "needs a positive batch_size"),
        ({"version": 9}, "version '9' does not exist"),
    ],
)
def test_set_batching_refuses(conn: ClipperConnection, arguments: dict[str, Any], named: str) -> None:
    deploy(conn, 1)
    before = conn.get_model_info("m", 1)
    with pytest.raises(ClipperException, match=named):
        conn.set_batching("m", **arguments)
    assert conn.get_model_info("m", 1) == before


def test_rollback_scales_first(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn, 1, num_replicas=0)
    deploy(conn, 2)
    conn.set_model_version("m", 1, num_replicas=3)
    assert conn.get_current_model_version("m") == "1"
    assert cm.called("set_num_replicas") == [("m", "1", "doubles", "some/image:1", 3)]
    with pytest.raises(ClipperException, match="non-existent version '9'"):
        conn.set_model_version("m", 9)


def test_rollback_to_what_does_not_start(connect: Connect) -> None:
    conn = connect(DiesDuringStart)
    deploy(conn, 1, num_replicas=0)
    deploy(conn, 2, num_replicas=0)
    with pytest.raises(ClipperException, match="exited with code 3"):
        conn.set_model_version("m", 1, num_replicas=1)
    assert conn.get_current_model_version("m") == "2"


def test_set_num_replicas(conn: ClipperConnection) -> None:
    deploy(conn)
    for number in (3, 1, 0):
        conn.set_num_replicas("m", number)
        assert conn.get_num_replicas("m", 1) == number
        assert len(conn.get_all_model_replicas()) == number


def report(redis_port: int, *reached: ModelId) -> None:
    """Say as a query frontend which model versions it reaches."""

    async def run() -> None:
        redis_client = RedisClient("127.0.0.1", redis_port)
        says = FrontendReport("some-frontend", 10**6, "tcp://some:7000", reached=frozenset(reached))
        await MembershipStore(redis_client).report(says)
        await redis_client.close()

    asyncio.run(run())


def test_deploying_waits_until_every_query_frontend_reaches_a_replica(conn: ClipperConnection, redis_port: int) -> None:
    report(redis_port)
    with ThreadPoolExecutor() as pool:
        deploying = pool.submit(deploy, conn)
        with pytest.raises(TimeoutError):
            deploying.result(0.5)
        report(redis_port, ModelId("m", "1"))
        deploying.result(10)
    conn.set_num_replicas("m", 0)


def test_a_query_frontend_that_reaches_no_replica_is_named(
    conn: ClipperConnection, redis_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replicas, "_REACH_SECONDS", 0.1)
    report(redis_port)
    with caplog.at_level(logging.WARNING):
        deploy(conn)
    assert "these query frontends reach no replica of m:1, and answer with defaults: some-frontend." in caplog.text


def test_an_older_management_frontend_is_not_asked_who_reaches_replicas(query_frontend: FakeQueryFrontend) -> None:
    older = ManagementClient(lambda: query_frontend.address)
    assert older.frontends_without_replica("m", "1") == []
    query_frontend.answers["/admin/get_frontends_without_replica"] = (503, "Redis is away")
    with pytest.raises(ClipperException, match="Redis is away"):
        older.frontends_without_replica("m", "1")


def test_a_redis_that_is_away_for_a_while_is_waited_for(
    conn: ClipperConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    count = ManagementClient.count_replicas

    def count_at_times(self: ManagementClient, name: str, version: str) -> int:
        nonlocal asked
        asked += 1
        if 1 < asked < 4:  # the first is asked before anything is started
            raise ErrorStatus(503, "Redis does not answer")
        return count(self, name, version)

    monkeypatch.setattr(ManagementClient, "count_replicas", count_at_times)
    deploy(conn)
    assert asked >= 4


@pytest.mark.parametrize("status", [500, 503])
def test_a_redis_that_stays_away_is_told(conn: ClipperConnection, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    answers = iter([0])

    def count(*_: object) -> int:
        for number in answers:
            return number
        raise ErrorStatus(status, "Redis does not answer")

    monkeypatch.setattr(ManagementClient, "count_replicas", count)
    with pytest.raises(ClipperException, match="Redis does not answer"):
        deploy(conn, load_timeout=0.1)


def test_deaths_of_the_past_do_not_count(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn)
    cm.failures = [ReplicaFailure("m_1-0", "exited with code 1", "")]
    conn.set_num_replicas("m", 2)


def test_new_replica_that_dies_leaves_the_others(connect: Connect) -> None:
    conn = connect(DiesDuringStart)
    deploy(conn, num_replicas=0)
    with pytest.raises(ClipperException, match="exited with code 3"):
        conn.set_num_replicas("m", 2)
    assert not conn.cm.called("stop_models")  # type: ignore[attr-defined]


def test_set_num_replicas_refuses(conn: ClipperConnection) -> None:
    conn.register_model("m", 1, "doubles")
    with pytest.raises(ClipperException, match="Cannot resize the replica set for containerless model m:1"):
        conn.set_num_replicas("m", 2)
    with pytest.raises(ClipperException, match="num_replicas=-1"):
        conn.set_num_replicas("m", -1)
    with pytest.raises(ClipperException, match="m:7"):
        conn.set_num_replicas("m", 1, version=7)
    with pytest.raises(ClipperException, match="'nobody' has no current version"):
        conn.set_num_replicas("nobody", 1)


# --- stopping ---


def test_stop_models(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn, 1)
    deploy(conn, 2)
    deploy(conn, 1, name="other")
    conn.stop_models(["m", "nobody"])
    assert cm.called("stop_models") == [({"m": ["1", "2"]},)]
    assert conn.get_all_models() == ["other:1"]
    conn.stop_models("other")
    assert conn.get_all_models() == []
    with pytest.raises(ClipperException, match="model_names=5"):
        conn.stop_models(5)  # type: ignore[arg-type]


def test_models_are_unregistered_before_they_stop(
    conn: ClipperConnection, cm: FakeContainerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(conn)
    seen: list[list[str]] = []
    monkeypatch.setattr(cm, "stop_models", lambda models: seen.append(conn.get_all_models()))
    conn.stop_models(["m"])
    assert seen == [[]]


def test_stop_versioned_models(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn, 1)
    deploy(conn, 2)
    with pytest.raises(ClipperException, match="'m' and version '9' does not exist"):
        conn.stop_versioned_models({"m": [1, 9]})
    assert not cm.called("stop_models")
    conn.stop_versioned_models({"m": [2]})
    assert conn.get_all_models() == ["m:1"]
    with pytest.raises(ClipperException, match="'m' has no current version"):
        conn.get_current_model_version("m")


@pytest.mark.parametrize("version", ["1", 1, ["1"]])
def test_stop_versioned_models_takes_one_version(version: Any, conn: ClipperConnection) -> None:
    deploy(conn, 1)
    deploy(conn, 2)
    conn.stop_versioned_models({"m": version})
    assert conn.get_all_models() == ["m:2"]


@pytest.mark.parametrize("models", [["m"], {"m": b"1"}, {"m": None}, {3: ["1"]}, None])
def test_stop_versioned_models_refuses(models: Any, conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match="Invalid value"):
        conn.stop_versioned_models(models)


def test_stop_inactive_model_versions(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    for version in (1, 2, 3):
        deploy(conn, version)
    conn.set_model_version("m", 2)
    conn.stop_inactive_model_versions("m")
    assert cm.called("stop_models") == [({"m": ["1", "3"]},)]
    assert conn.get_all_models() == ["m:2"]


def test_a_linked_version_is_not_inactive(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    conn.register_application("a", "doubles", "", 1)
    for version in (1, 2, 3):
        deploy(conn, version)
    conn.link_model_to_app("a", "m")
    conn.set_selection_policy("a", "split")
    conn.link_model_to_app("a", "m", 1)
    conn.stop_inactive_model_versions("m")
    assert cm.called("stop_models") == [({"m": ["2"]},)]


def test_roll_back_to_a_version_that_was_stopped(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    for version in (1, 2):
        deploy(conn, version)
    conn.set_model_version("m", 2)
    conn.stop_inactive_model_versions(["m"], unregister=False)
    assert cm.called("stop_models") == [({"m": ["1"]},)]
    assert conn.get_num_replicas("m", 1) == 0
    conn.set_model_version("m", 1, num_replicas=1)
    assert conn.get_current_model_version("m") == "1" and conn.get_num_replicas("m") == 1


def test_stop_all_model_containers_without_connection(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    deploy(conn)
    ClipperConnection(cm).stop_all_model_containers()
    assert cm.called("stop_all_model_containers") == [()]
    assert conn.get_all_models() == []


def test_stop_all_model_containers_with_dead_frontends(free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    cm = FakeContainerManager(f"127.0.0.1:{free_port}", "", 1)
    ClipperConnection(cm).stop_all_model_containers()
    assert cm.called("stop_all_model_containers") == [()]
    assert "could not be unregistered" in caplog.text


def test_logs(conn: ClipperConnection, tmp_path: Path) -> None:
    (path,) = conn.get_clipper_logs(str(tmp_path / "logs"))
    assert Path(path).read_text().endswith("last line\n")


def test_addresses(conn: ClipperConnection, query_frontend: FakeQueryFrontend) -> None:
    assert conn.get_query_addr() == query_frontend.address
    assert conn.get_metric_addr() == "localhost:1390"
