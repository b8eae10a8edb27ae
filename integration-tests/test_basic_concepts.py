"""The tutorial "Basic Concepts", claim by claim."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from load import Load

from clipper_admin import ClipperConnection
from clipper_admin.deployers import python as python_deployer

pytestmark = pytest.mark.integration

SLO_MICROS = 2_000_000


def answering(text: str) -> Any:
    """A model that says the same to all."""
    return lambda inputs: [f'"{text}"' for _ in inputs]


def url(conn: ClipperConnection, app: str) -> str:
    return f"http://{conn.get_query_addr()}/{app}/predict"


# --- a cluster ---


def test_connecting_to_a_cluster(conn: ClipperConnection) -> None:
    another = ClipperConnection(type(conn.cm)(conn.cm.cluster_name))
    another.connect()
    assert another.get_query_addr() == conn.get_query_addr()


# --- input types ---


def describing() -> Any:
    """A model that says what it was given. (A function of this module's own would stay behind in this module.)"""

    def describe(inputs: Any) -> list[str]:
        return [f"{getattr(x, 'dtype', type(x).__name__)} {x if isinstance(x, str) else x.tolist()}" for x in inputs]

    return describe


@pytest.mark.parametrize(
    ("input_type", "sent", "seen"),
    [
        ("ints", [1, -2], "int32 [1, -2]"),
        ("floats", [1.5, 2], "float32 [1.5, 2.0]"),
        ("doubles", [1.1, 2.2], "float64 [1.1, 2.2]"),
        ("bytes", base64.b64encode(b"\x01\xff").decode(), "int8 [1, -1]"),
        ("strings", 'He said: {"a": "Grüezi"}', 'str He said: {"a": "Grüezi"}'),
    ],
)
def test_input_types(input_type: str, sent: Any, seen: str, conn: ClipperConnection) -> None:
    name = f"type-{input_type}"
    python_deployer.create_endpoint(conn, name, input_type, describing(), slo_micros=SLO_MICROS)
    answer = requests.post(url(conn, name), json={"input": sent}, timeout=30)
    assert (answer.status_code, answer.json()["default"], answer.json()["output"]) == (200, False, seen)
    wrong = [1.0] if input_type in ("bytes", "strings") else "text"
    answer = requests.post(url(conn, name), json={"input": wrong}, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (400, "Json error")


# --- applications, links, versions ---


def test_life_of_a_model(conn: ClipperConnection) -> None:
    conn.register_application("greeter", "strings", "nothing to say", SLO_MICROS)
    assert conn.predict("greeter", "hi")["default_explanation"] == "No connected models found for query"

    python_deployer.deploy_python_closure(conn, "greeting", "1.0.0", "strings", answering("first"))
    conn.link_model_to_app("greeter", "greeting")
    assert conn.predict("greeter", "hi")["output"] == "first"

    # "When a new version of a model is deployed, Clipper will automatically start routing requests to the new version."
    python_deployer.deploy_python_closure(conn, "greeting", "1.1.0", "strings", answering("second"))
    assert conn.predict("greeter", "hi")["output"] == "second"
    assert conn.predict("greeter", "hi", version="1.0.0")["output"] == "first"

    # "You can roll back to any previous version."
    conn.set_model_version("greeting", "1.0.0")
    assert conn.get_current_model_version("greeting") == "1.0.0"
    assert conn.predict("greeter", "hi")["output"] == "first"

    # "This allows multiple applications to route queries to the same model."
    conn.register_application("greeter-too", "strings", "", SLO_MICROS)
    conn.link_model_to_app("greeter-too", "greeting")
    assert conn.predict("greeter-too", "hi")["output"] == "first"


def test_deadline_is_kept(conn: ClipperConnection) -> None:
    def slow(inputs: Any) -> list[str]:
        import time

        time.sleep(1)
        return ["late"] * len(inputs)

    python_deployer.create_endpoint(conn, "slow", "doubles", slow, default_output="too slow", slo_micros=50_000)
    answer = conn.predict("slow", [1.0])
    assert (answer["output"], answer["default"]) == ("too slow", True)
    assert answer["default_explanation"] == "Failed to retrieve a prediction response within the specified latency SLO"


# --- under load ---


def test_changes_under_load_go_unnoticed(conn: ClipperConnection) -> None:
    python_deployer.create_endpoint(conn, "loaded", "doubles", answering("one"), slo_micros=SLO_MICROS)
    load = Load(conn, "loaded")
    with load.running():
        load.wait_for("one")
        python_deployer.deploy_python_closure(conn, "loaded", 2, "doubles", answering("two"))
        load.wait_for("two")
        conn.set_model_version("loaded", 1)
        load.wait_for("one")
        conn.set_num_replicas("loaded", 3)
        load.wait_for("one", 100)
        conn.set_num_replicas("loaded", 1)
        load.wait_for("one", 100)
        conn.set_model_version("loaded", 2, num_replicas=2)
        load.wait_for("two")
        conn.stop_inactive_model_versions(["loaded"])
        load.wait_for("two")
    assert load.mishaps == []
    assert set(load.outputs) == {"one", "two"}


def test_replicas(conn: ClipperConnection) -> None:
    python_deployer.create_endpoint(conn, "replicated", "doubles", answering("x"), slo_micros=SLO_MICROS)
    for number in (3, 1):
        conn.set_num_replicas("replicated", number)
        assert conn.get_num_replicas("replicated") == number
        connected = [name for name in conn.get_all_model_replicas() if name.startswith("replicated:1:")]
        assert len(connected) == number


# --- inspection ---


def test_inspection(conn: ClipperConnection, tmp_path: Path) -> None:
    python_deployer.create_endpoint(conn, "inspected", "doubles", answering("x"), slo_micros=SLO_MICROS)
    conn.predict("inspected", [1.0])
    assert "inspected" in conn.get_all_apps()
    assert "inspected:1" in conn.get_all_models()
    counters = {name: value for entry in conn.inspect_instance()["counters"] for name, value in entry.items()}
    assert counters["app:inspected:num_predictions"]["count"] in (1, "1")
    paths = [Path(path) for path in conn.get_clipper_logs(str(tmp_path / "logs"))]
    assert all(path.is_file() for path in paths)
    assert any("inspected" in path.name for path in paths)


def test_stopping(new_cluster: Callable[..., ClipperConnection]) -> None:
    conn = new_cluster("to-be-stopped")
    python_deployer.create_endpoint(conn, "a", "doubles", answering("x"), slo_micros=SLO_MICROS)
    endpoint = url(conn, "a")
    conn.stop_all()
    with pytest.raises(requests.ConnectionError):
        requests.post(endpoint, json={"input": [1.0]}, timeout=30)
