"""Tests of the contract of container managers with ClipperConnection, with real programs."""

import functools
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3
from load import Load

from clipper_admin import ClipperConnection, ClipperException, ContainerManager, images
from clipper_admin.deployers import python as python_deployer
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

NewManager = Callable[..., ContainerManager]
NewCluster = Callable[..., ClipperConnection]

SLO_MICROS = 2_000_000


def summing() -> Any:
    return lambda inputs: [str(sum(x)) for x in inputs]


def endpoint(conn: ClipperConnection, name: str, func: Any = None, **options: Any) -> None:
    python_deployer.create_endpoint(conn, name, "doubles", func or summing(), slo_micros=SLO_MICROS, **options)


def post(address: str, body: bytes, **headers: str) -> int:
    """Return the status of the answer."""
    return urllib3.request("POST", f"http://{address}", body=body, headers=headers, timeout=30).status


# --- clusters ---


def test_a_cluster_starts_once(conn: ClipperConnection, new_manager: NewManager) -> None:
    with pytest.raises(ClipperException, match="already exists"):
        ClipperConnection(new_manager("shared")).start_clipper()
    conn.connect()


def test_connecting_to_nothing(new_manager: NewManager) -> None:
    conn = ClipperConnection(new_manager("nowhere"))
    with pytest.raises(ClipperException, match="nowhere"):
        conn.connect()
    assert not conn.connected


def test_clusters_stand_side_by_side(conn: ClipperConnection, new_cluster: NewCluster) -> None:
    other = new_cluster("other")
    endpoint(conn, "in-shared")
    endpoint(other, "in-other")
    assert "in-shared" not in other.get_all_apps()
    assert other.predict("in-other", [1.0, 2.0])["output"] == 3
    other.stop_all()
    assert conn.predict("in-shared", [1.0, 2.0])["output"] == 3


def test_stop_all_is_idempotent(new_cluster: NewCluster, new_manager: NewManager) -> None:
    conn = new_cluster("twice")
    endpoint(conn, "a")
    ClipperConnection(new_manager("twice")).stop_all()
    conn.stop_all()
    with pytest.raises(ClipperException):
        ClipperConnection(new_manager("twice")).connect()


def test_a_stopped_cluster_can_be_started_again(new_cluster: NewCluster) -> None:
    for _ in range(2):
        conn = new_cluster("again")
        assert conn.get_all_apps() == []
        endpoint(conn, "a")
        conn.stop_all(graceful=False)


def test_a_cluster_outlives_the_interpreter(conn: ClipperConnection) -> None:
    endpoint(conn, "outliving")
    manager = type(conn.cm).__name__
    code = f"""
from clipper_admin import ClipperConnection, {manager}
conn = ClipperConnection({manager}({conn.cm.cluster_name!r}))
conn.connect()
conn.set_num_replicas("outliving", 2)
print(conn.predict("outliving", [1.0, 2.0]))
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert "'output': 3.0" in said
    assert conn.get_num_replicas("outliving") == 2
    assert conn.predict("outliving", [3.0, 2.0])["output"] == 5


# --- query frontends ---


def test_query_frontends_come_and_go_under_load(conn: ClipperConnection) -> None:
    endpoint(conn, "scaled-out", lambda inputs: ["answered" for _ in inputs], num_replicas=2)
    load = Load(conn, "scaled-out")
    with load.running():
        for number in (3, 2, 1):
            conn.set_num_frontend_replicas(number)
            assert conn.get_num_frontend_replicas() == number
            load.wait_for("answered", 200)
    assert not load.mishaps


def test_a_cluster_of_several_query_frontends(new_manager: NewManager) -> None:
    conn = ClipperConnection(new_manager("several"))
    conn.start_clipper(
        num_frontend_replicas=2,
        workers=2,
        query_frontend_flags={"max_body_bytes": 65536},
        mgmt_frontend_flags={"allowed_origins": ["https://dashboard.example.com"]},
    )
    endpoint(conn, "a")
    assert post(f"{conn.get_query_addr()}/a/predict", b" " * 70_000) == 413
    applications = f"{conn.cm.get_admin_addr()}/admin/get_all_applications"
    assert post(applications, b'{"verbose": false}', Origin="https://dashboard.example.com") == 200
    assert post(applications, b'{"verbose": false}', Origin="https://other.example.com") == 403
    assert {conn.predict("a", [float(number), 1.0])["output"] for number in range(20)} == set(range(1, 21))
    assert len(conn.get_all_model_replicas()) == 1, "one replica, however many query frontends it serves"
    other = ClipperConnection(new_manager("several"))
    other.connect()
    assert other.get_num_frontend_replicas() == 2
    other.set_num_frontend_replicas(1)
    assert conn.get_num_frontend_replicas() == 1
    assert conn.predict("a", [1.0, 2.0])["output"] == 3
    conn.stop_all()


# --- deployment ---


def test_model_that_cannot_be_loaded(conn: ClipperConnection) -> None:
    endpoint(conn, "fragile")

    class Bomb:
        def __reduce__(self) -> Any:
            return exec, ("raise RuntimeError('cannot be loaded here')",)

    bomb = Bomb()
    started = time.monotonic()
    with pytest.raises(ClipperException, match="cannot be loaded here"):
        python_deployer.deploy_python_closure(conn, "fragile", 2, "doubles", lambda inputs: [bomb])
    assert time.monotonic() - started < 15
    assert conn.get_num_replicas("fragile", 2) == 0
    assert conn.get_current_model_version("fragile") == "1"
    assert conn.predict("fragile", [1.0, 2.0])["output"] == 3
    python_deployer.deploy_python_closure(conn, "fragile", 2, "doubles", summing())


def test_unknown_images(conn: ClipperConnection, tmp_path: Path) -> None:
    with pytest.raises(ClipperException, match="no/such:image"):
        conn.deploy_model("imageless", 1, "doubles", "no/such:image")
    with pytest.raises(ClipperException, match="no/such:base"):
        conn.build_model("imageless", 1, tmp_path, "no/such:base")
    assert conn.get_num_replicas("imageless", 1) == 0


def test_building_needs_no_cluster(conn: ClipperConnection, new_manager: NewManager, tmp_path: Path) -> None:
    base = images.image_name(images.NOOP_CONTAINER)
    image = ClipperConnection(new_manager("shared")).build_model("built", "1.0", tmp_path, base)
    assert image.endswith("built:1.0")
    conn.deploy_model("built", "1.0", "doubles", image)
    assert conn.get_all_models(verbose=True)[-1]["container_name"]


def test_failing_function_gives_a_default_with_its_reason(conn: ClipperConnection) -> None:
    endpoint(conn, "failing", lambda inputs: [str(1 / int(x[0])) for x in inputs], default_output="sorry")
    answer = conn.predict("failing", [0.0])
    assert (answer["output"], answer["default"]) == ("sorry", True)
    assert answer["default_explanation"].startswith("The model raised ZeroDivisionError: division by zero")
    assert conn.predict("failing", [2.0])["output"] == 0.5


def test_batching_changes_live(conn: ClipperConnection) -> None:
    endpoint(conn, "batched", lambda inputs: [str(len(inputs))] * len(inputs))
    for change, shown in [
        ({"batch_size": 2}, {"policy": "fixed", "limit_max": "2"}),
        ({"batch_policy": "aimd", "batch_delay_micros": 1000}, {"policy": "aimd", "delay_micros": "1000"}),
        ({"batch_policy": "learned", "batch_delay_micros": 0}, {"policy": "learned", "delay_micros": "0"}),
    ]:
        conn.set_batching("batched", **change)
        gauges = conn.inspect_instance()["gauges"]
        found = next(entry["model:batched:1:batching"] for entry in gauges if "model:batched:1:batching" in entry)
        assert found.items() >= (shown | {"replicas": "1"}).items()
        assert conn.predict("batched", [float(len(shown)), 1.0])["default"] is False
    info = conn.get_model_info("batched", 1)
    assert info is not None
    assert (info["batch_policy"], info["batch_size"]) == ("learned", -1)


def test_a_canary_gets_its_share(conn: ClipperConnection) -> None:
    for version in (1, 2):
        python_deployer.deploy_python_closure(
            conn, "canary", version, "doubles", functools.partial(answer_all, version), make_current=version == 1
        )
    conn.register_application("canary", "doubles", "default", SLO_MICROS)
    conn.link_model_to_app("canary", "canary")
    with pytest.raises(ClipperException, match="A model with name canary is already linked to 'canary'"):
        conn.link_model_to_app("canary", "canary", 2)
    conn.set_selection_policy("canary", "split", weights={"canary": 1})
    conn.link_model_to_app("canary", "canary", 2)

    def outputs(number: int) -> Counter[int]:
        answers = conn.predict("canary", input_batch=[[float(each)] for each in range(number)])
        assert not any(answer["default"] for answer in answers)
        return Counter(answer["output"] for answer in answers)

    assert outputs(100) == {1: 100}, "a link without a weight is given nothing"
    conn.set_selection_policy("canary", "split", weights={"canary": 80, "canary:2": 20})
    found = outputs(1000)
    assert found.keys() == {1, 2} and 136 < found[2] < 264, "five standard deviations around 200"
    counters = {
        name: int(value["count"]) for each in conn.inspect_instance()["counters"] for name, value in each.items()
    }
    counted = {link: counters[f"app:canary:arm:{link}:num_predictions"] for link in ("canary", "canary:2")}
    assert counted == {"canary": 100 + found[1], "canary:2": found[2]}
    conn.set_selection_policy("canary", "split", weights={"canary:2": 1})
    assert outputs(100) == {2: 100}
    conn.set_selection_policy("canary", "split", weights={"canary": 1})
    conn.unlink_model_from_app("canary", "canary", 2)
    conn.set_selection_policy("canary", "single")
    assert outputs(100) == {1: 100}
    assert not any("app:canary:arm:" in name for each in conn.inspect_instance()["counters"] for name in each)


def answer_all(output: int, inputs: Any) -> list[str]:
    return [str(output)] * len(inputs)


def test_functions_may_report_metrics(conn: ClipperConnection) -> None:
    def reporting(inputs: Any) -> list[str]:
        from clipper_admin import metrics

        metrics.add_metric("inputs_of_the_reporting_model", "Counter", "how many inputs it saw")
        metrics.report_metric("inputs_of_the_reporting_model", len(inputs))
        return ["" for _ in inputs]

    endpoint(conn, "reporting", reporting)
    conn.predict("reporting", [1.0])
    wait_for_metrics(conn, "inputs_of_the_reporting_model_total", "app_reporting_num_predictions")


def wait_for_metrics(conn: ClipperConnection, *names: str) -> None:
    """Prometheus, or a program that serves all metrics in its format, is at this address."""

    def are_there() -> bool:
        text = "".join(get(conn, path) for path in ("/metrics", "/federate?match[]={__name__=~%22.%2B%22}"))
        return all(name in text for name in names)

    wait_for(are_there, f"there are the metrics {names}")


def get(conn: ClipperConnection, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{conn.get_metric_addr()}{path}", timeout=10) as answer:
            return str(answer.read(), "utf-8")
    except urllib.error.HTTPError:
        return ""


# --- replicas ---


def test_replicas_with_limits(conn: ClipperConnection) -> None:
    endpoint(conn, "limited", resources={"memory": "512m", "cpus": 1})
    assert conn.predict("limited", [1.0, 2.0])["output"] == 3


def test_scaling(conn: ClipperConnection) -> None:
    endpoint(conn, "scaled", num_replicas=2)
    for number in (1, 3, 0, 1):
        conn.set_num_replicas("scaled", number)
        assert conn.get_num_replicas("scaled", 1) == number
        assert count_connected(conn, "scaled:1:") == number
    assert conn.predict("scaled", [1.0, 2.0])["output"] == 3


def test_replica_info(conn: ClipperConnection) -> None:
    endpoint(conn, "single")
    (replica,) = (info for info in conn.get_all_model_replicas(verbose=True) if info["model_name"] == "single")
    assert conn.get_model_replica_info("single", 1, replica["model_replica_id"]) == replica
    assert conn.get_model_replica_info("single", 1, replica["model_replica_id"] + 1000) is None


def count_connected(conn: ClipperConnection, prefix: str) -> int:
    return sum(name.startswith(prefix) for name in conn.get_all_model_replicas())


# --- stopping ---


def test_stopped_models_answer_with_the_default(conn: ClipperConnection) -> None:
    endpoint(conn, "stopped")
    python_deployer.deploy_python_closure(conn, "stopped", 2, "doubles", summing())
    conn.stop_inactive_model_versions(["stopped"])
    assert conn.get_model_info("stopped", 1) is None
    assert conn.predict("stopped", [1.0, 2.0])["output"] == 3
    conn.stop_versioned_models({"stopped": [2]})
    assert conn.predict("stopped", [3.0, 2.0])["default_explanation"] == "No connected models found for query"
    assert count_connected(conn, "stopped:") == 0
    python_deployer.deploy_python_closure(conn, "stopped", 2, "doubles", lambda inputs: ["9" for _ in inputs])
    assert conn.predict("stopped", [1.0, 2.0])["output"] == 9
    conn.stop_models(["stopped"])
    assert conn.get_num_replicas("stopped", 2) == 0


def test_stop_all_model_containers_without_connect(new_cluster: NewCluster, new_manager: NewManager) -> None:
    conn = new_cluster("modelless")
    endpoint(conn, "a")
    ClipperConnection(new_manager("modelless")).stop_all_model_containers()
    assert conn.get_all_models() == []
    assert conn.get_num_replicas("a", 1) == 0
    assert conn.predict("a", [1.0])["default_explanation"] == "No connected models found for query"
    conn.stop_all()


def test_logs_of_the_stopped_are_kept(conn: ClipperConnection, tmp_path: Path) -> None:
    endpoint(conn, "talkative", lambda inputs: [print("a remark of the model") or "" for _ in inputs])
    conn.predict("talkative", [1.0])
    conn.stop_models(["talkative"])
    texts = [Path(path).read_text() for path in conn.get_clipper_logs(str(tmp_path))]
    assert any("a remark of the model" in text for text in texts)


# --- errors ---


@pytest.mark.parametrize(
    ("method", "arguments", "named"),
    [
        ("register_application", ("a/b", "doubles", "", 1), "a/b"),
        ("register_application", ("a", "complex", "", 1), "complex"),
        ("register_application", ("a", "doubles", 1, 1), "default_output"),
        ("register_application", ("a", "doubles", "", 0), "slo_micros"),
        ("register_application", ("a", "doubles", "", 2**31), "slo_micros"),
        ("unregister_application", ("no-app",), "no-app"),
        ("delete_application", ("no-app",), "no-app"),
        ("link_model_to_app", ("no-app", "no-model"), "no-app"),
        ("link_model_to_app", ("errors", "no-model"), "no-model"),
        ("unlink_model_from_app", ("errors", "no-model"), "no-model"),
        ("get_linked_models", ("no-app",), "no-app"),
        ("get_app_info", (None,), "name=None"),
        ("register_model", ("a:b", 1, "doubles"), "a:b"),
        ("register_model", ("a", "1,2", "doubles"), "1,2"),
        ("register_model", ("errors", 1, "doubles"), "already exists"),
        ("register_model", ("errors", 2, "strings"), "not compatible"),
        ("deploy_model", ("errors", 1, "doubles", "image"), "already exists"),
        ("deploy_model", ("errors", 2, "strings", "image"), "not compatible"),
        ("deploy_model", ("Errors", 2, "doubles", "image"), "Errors"),
        ("build_model", ("errors", 2, "/no/such/folder", "base"), "/no/such/folder"),
        ("build_model", ("errors", 2, None, "base"), "model_data_path"),
        ("get_clipper_logs", (None,), "logging_dir"),
        ("get_clipper_logs", ("/dev/null/logs",), "/dev/null/logs"),
        ("register_model", ("errors", 2, "doubles", None, None, 2**40), "batch_size"),
        ("register_application", ("n" * 300, "doubles", "", 1), "255 characters"),
        ("build_and_deploy_model", ("errors", 1, "doubles", "/no/such/folder", "base"), "already exists"),
        ("set_model_version", ("errors", 9), "'9'"),
        ("set_model_version", ("no-model", 1), "no-model"),
        ("set_num_replicas", ("errors", -1), "num_replicas"),
        ("set_num_replicas", ("errors", 1, 9), "errors:9"),
        ("set_num_replicas", ("no-model", 1), "no-model"),
        ("get_num_replicas", ("no-model",), "no-model"),
        ("get_current_model_version", ("no-model",), "no-model"),
        ("get_model_replica_info", ("errors", 1, "zero"), "replica_id"),
        ("stop_models", (3,), "model_names"),
        ("stop_versioned_models", ({"errors": [9]},), "'9'"),
        ("stop_inactive_model_versions", (3,), "model_names"),
        ("set_num_frontend_replicas", (0,), "num_frontend_replicas"),
        ("predict", ("no-app", [1.0]), "no-app"),
        ("predict", ("errors", "text"), "String"),
        ("predict", ("errors", [1.0], 9), "9"),
        ("test_predict_function", ({}, len, "doubles"), "input_batch"),
        ("test_predict_function", ({"input": [1.0]}, exit, "doubles"), "SystemExit"),
    ],
)
def test_wrong_arguments(conn: ClipperConnection, method: str, arguments: tuple[Any, ...], named: str) -> None:
    if conn.get_app_info("errors") is None:
        endpoint(conn, "errors")
    with pytest.raises(ClipperException, match=named):
        getattr(conn, method)(*arguments)
    assert conn.predict("errors", [1.0, 2.0])["output"] == 3
