"""The routes, texts and codes of facts sections 2.2 to 2.7, against a real frontend and real containers."""

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipper_common import changes
from clipper_common.constants import MAX_BODY_BYTES
from clipper_common.datatypes import InputType
from clipper_common.records import Application
from tests.query_frontend.conftest import Frontend, http, running_container, running_frontend
from tests.query_frontend.http.test_schemas import FIELDS, JSON_VALUES

pytestmark = pytest.mark.integration

KINDS = {"ints": "ints", "floats": "floats", "doubles": "doubles", "strings": "strings", "bytes": "bytes"}


@pytest.fixture(scope="module")
def serving(redis_port_of_module: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    """A frontend with an application for each input type, each with a real sum container behind it."""
    log = tmp_path_factory.mktemp("frontend") / "log"
    with running_frontend(redis_port_of_module, log) as frontend:
        containers = [running_container(frontend, "sum_container", f"sum-{kind}:1", kind) for kind in KINDS]
        for container in containers:
            container.__enter__()
        for kind in KINDS:
            frontend.serve(kind, f"sum-{kind}:1", kind, slo_ms=5000)
        frontend.configure(*changes.put_application(Application("bare", InputType.DOUBLES, "[1, 2]", 1000)))
        frontend.wait_for_replicas(len(KINDS))
        yield frontend
        for container in containers:
            container.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("app", "value", "output"),
    [
        ("ints", [1, 2, 3], 6),
        ("floats", [0.5, 1], 1.5),
        ("doubles", [1.1, 2.2], 3.3000000000000003),
        ("strings", "four", 4),
        ("bytes", base64.b64encode(bytes([1, 2])).decode(), 3),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_every_input_type_is_answered(serving: Frontend, app: str, value: object, output: object, slash: str) -> None:
    reply = serving.post(f"/{app}/predict{slash}", {"input": value})
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["X-Clipper-Model"] == f"sum-{app}:1"
    assert list(reply.json) == ["query_id", "output", "default"]
    assert reply.json["output"] == output
    assert reply.json["default"] is False


def test_a_batch_keeps_its_order_and_a_batch_of_one_is_unwrapped(serving: Frontend) -> None:
    many = serving.predict("doubles", input_batch=[[1], [2], [3]])["batch_predictions"]
    assert [entry["output"] for entry in many] == [1.0, 2.0, 3.0]
    ids = [entry["query_id"] for entry in many]
    assert ids == list(range(ids[0], ids[0] + 3))
    assert serving.predict("doubles", input_batch=[[4]])["output"] == 4.0
    assert serving.predict("doubles", input_batch=[]) == {"batch_predictions": []}


@pytest.mark.parametrize(
    ("body", "error", "cause"),
    [
        (b"", "Json error", "Error parsing JSON: JSON parse error: "),
        (b'{"input": [1', "Json error", "Error parsing JSON: JSON parse error: "),
        (b"{}", "Json error", "Error parsing JSON: JSON object does not have required keys input or input_batch."),
        (b"[]", "Json error", "JSON schema invalid"),
        (
            b'{"input": "1"}',
            "Json error",
            "Error parsing JSON: Type mismatch! JSON key input expected type Arraybut found type String. Expected",
        ),
        (b'{"input": ["1"]}', "Json error", "Error parsing JSON: Array input of type String is not of type double."),
        (b'{"input": []}', "Json error", "Error parsing JSON: JSON key input holds an empty input"),
        (
            b'{"input": [1], "version": "9"}',
            "Query processing error",
            "Requested version: 9 does not exist for model: sum-doubles",
        ),
    ],
)
def test_bad_requests(serving: Frontend, body: bytes, error: str, cause: str) -> None:
    reply = serving.post("/doubles/predict", body)
    assert reply.status == 400
    assert list(reply.json) == ["error", "cause"]
    assert reply.json["error"] == error
    assert reply.json["cause"].startswith(cause)


def test_one_bad_input_refuses_the_batch_before_anything_is_predicted(serving: Frontend) -> None:
    before = serving.metric("counters", "model:sum-doubles:1:num_predictions")
    assert serving.post("/doubles/predict", {"input_batch": [[91.5], ["x"]]}).status == 400
    assert serving.metric("counters", "model:sum-doubles:1:num_predictions") == before


def test_a_version_may_be_asked_for(serving: Frontend) -> None:
    assert serving.predict("doubles", input=[2], version="1")["output"] == 2.0


def test_a_version_of_an_application_without_a_model_is_refused(serving: Frontend) -> None:
    reply = serving.post("/bare/predict", {"input": [1], "version": "1"})
    assert (reply.status, reply.json["error"]) == (400, "Query processing error")


def test_without_a_model_the_default_comes_at_once_with_its_reason(serving: Frontend) -> None:
    reply = serving.post("/bare/predict", {"input": [1.0]})
    assert reply.status == 200
    assert "X-Clipper-Model" not in reply.headers
    answer = reply.json
    assert answer.pop("query_id") >= 0
    assert answer == {
        "output": [1, 2],
        "default": True,
        "default_explanation": "No connected models found for query",
    }


@pytest.mark.parametrize(
    "path", ["/", "/nothing/here", "/unknown/predict", "/doubles", "/doubles/predict/x", "/%00/predict"]
)
def test_unknown_routes_are_404_json(serving: Frontend, path: str) -> None:
    reply = serving.post(path, {"input": [1]})
    assert reply.status == 404
    assert set(reply.json) == {"error", "cause"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/doubles/predict"), ("PUT", "/doubles/update"), ("POST", "/metrics")]
)
def test_wrong_methods_are_405_json(serving: Frontend, method: str, path: str) -> None:
    reply = http(method, serving.url + path, b"{}")
    assert reply.status == 405
    assert set(reply.json) == {"error", "cause"}
    assert reply.headers["Allow"]


@pytest.mark.parametrize(("uid", "received"), [(0, 1), (5, 0)])
def test_feedback_is_acknowledged(serving: Frontend, uid: int, received: int) -> None:
    reply = serving.post("/doubles/update/", {"uid": uid, "input": [1.0], "label": 1.0})
    assert (reply.status, reply.body.decode()) == (200, f"Feedback received? {received}")


def test_bad_feedback_is_refused_in_plain_text(serving: Frontend) -> None:
    reply = serving.post("/doubles/update", {"uid": 0, "input": [1.0]})
    assert reply.status == 400
    assert reply.body.decode().startswith("Error parsing JSON: JSON object does not have required key: label. Expected")


def test_health_and_metrics(serving: Frontend) -> None:
    assert http("GET", serving.url + "/livez").status == 200
    assert http("GET", serving.url + "/readyz").status == 200
    metrics = http("GET", serving.url + "/metrics")
    assert metrics.headers["Content-Type"].startswith("application/json")
    assert set(metrics.json) == {"counters", "ratio_counters", "meters", "histograms", "gauges"}


def test_percent_encoding_and_query_strings_are_understood(serving: Frontend) -> None:
    assert serving.post("/%64oubles/predict?x=1", {"input": [1]}).json["output"] == 1.0


def test_a_body_that_is_too_large_is_413(serving: Frontend) -> None:
    head = b"POST /doubles/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", serving.port), 5) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_web_pages_ask_for_predictions_as_ever(serving: Frontend) -> None:
    """What they send changes nothing here. Whether they may read the answer is for a proxy to say."""
    marks = {"Origin": "http://page.example.com", "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    reply = serving.post("/doubles/predict", {"input": [1]}, **marks)
    assert (reply.status, reply.json["output"]) == (200, 1.0)
    assert not [name for name in reply.headers if name.lower().startswith("access-control-")]
    assert http("OPTIONS", serving.url + "/doubles/predict", headers=marks).status == 405


@pytest.mark.parametrize(
    ("encoding", "status"),
    [("gzip", 415), ("GZIP", 415), ("deflate", 415), ("br", 415), ("zstd", 415), ("identity, gzip", 415), ("x", 415)]
    + [("identity", 200), ("Identity", 200), ("", 200), ("utf-8", 200)],
)
def test_a_body_is_not_inflated(serving: Frontend, encoding: str, status: int) -> None:
    body = b'{"input": [1]}'
    reply = serving.post("/doubles/predict", body, **{"Content-Encoding": encoding})
    assert reply.status == status
    if status == 415:
        assert reply.json["error"] == "Unsupported Media Type"
        assert f"the Content-Encoding '{encoding}'" in reply.json["cause"]
        assert reply.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("header", "size", "status"),
    [("Content-Encoding: gzip", 1 << 20, b"415"), ("X: 1", MAX_BODY_BYTES + 1, b"413")],
)
def test_a_connection_whose_body_was_refused_before_it_came_is_closed(
    serving: Frontend, header: str, size: int, status: bytes
) -> None:
    head = f"POST /doubles/predict HTTP/1.1\r\nHost: x\r\n{header}\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", serving.port), 5) as connection:
        connection.sendall(head.encode())
        answer = http_answer(connection)
        assert answer.split()[1] == status
        assert b"\r\nConnection: close\r\n" in answer
        connection.sendall(bytes(size))
        assert connection.recv(100) == b""


def test_a_refused_body_that_came_with_its_head_costs_no_connection(serving: Frontend) -> None:
    head = b"POST /doubles/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n"
    with socket.create_connection(("127.0.0.1", serving.port), 5) as connection:
        connection.sendall(head + b'Content-Encoding: gzip\r\n\r\n{"input": [1]}')
        assert http_answer(connection).startswith(b"HTTP/1.1 415")
        connection.sendall(head + b'\r\n{"input": [1]}')
        assert http_answer(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (b"POST /doubles/predict HTTP/1.1\r\nHost: x\r\nX: %b" % (b"a" * 9000), "Got more than 8190 bytes"),
        (b"POST /%b HTTP/1.1\r\nHost: x" % (b"a" * 9000), "Got more than 8190 bytes"),
        (b"POST / HTTP/1.1\r\nHost: x%b" % (b"\r\nX: 1" * 200), "Too many headers received"),
        (b"POST / HTTP/1.1\r\nX: 1", "Missing 'Host' header in request."),
        (b"POST / HTTP/1.1\r\nHost: x\r\nX: \xff\x00", "Invalid header value char"),
    ],
)
def test_a_head_that_is_malformed_is_400_json(serving: Frontend, head: bytes, cause: str) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), 5) as connection:
        connection.sendall(head + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400 Bad Request\r\nContent-Type: application/json\r\n")
    assert json.loads(body)["error"] == "Bad Request"
    assert json.loads(body)["cause"].startswith(cause)


def http_answer(connection: socket.socket) -> bytes:
    """The next answer, which ends with JSON and has no brace before it."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(4096)
    return answer


bodies = st.binary(max_size=40) | (FIELDS | JSON_VALUES).map(lambda value: json.dumps(value).encode())


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies, st.sampled_from([*KINDS, "bare"]), st.sampled_from(["predict", "update"]))
def test_no_body_gives_a_5xx_or_a_hang(serving: Frontend, body: bytes, app: str, route: str) -> None:
    reply = serving.post(f"/{app}/{route}", body)
    assert reply.status in (200, 400)


def test_a_bad_flag_is_refused(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "query_frontend", "--prediction_cache_size=-1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "--prediction_cache_size" in done.stderr
