"""The Python deployer over a container manager that starts nothing."""

import threading
from pathlib import Path
from typing import Any

import pytest

from clipper_admin import ClipperConnection, ClipperException, images
from clipper_admin.deployers import python as python_deployer
from clipper_admin.deployers.deployer_utils import deploy_function
from clipper_common import modeldir
from tests.clipper_admin.conftest import Connect
from tests.clipper_admin.fakes import DiesDuringStart, FakeContainerManager

FILES = [modeldir.FUNCTION_FILE, modeldir.VERSIONS_FILE]


def feature_sum(xs: Any) -> list[str]:
    return [str(sum(x)) for x in xs]


def test_deploy_python_closure(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    python_deployer.deploy_python_closure(conn, name="sum", version=1, input_type="doubles", func=feature_sum)
    base = images.PYTHON.name()
    assert cm.called("build_model") == [("fake-cluster-sum:1", FILES, base, None, [])]
    assert cm.called("deploy_model") == [("sum", "1", "doubles", "fake-cluster-sum:1", 1)]
    assert not cm.model_data_path.exists()


def test_arguments_are_passed_on(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    python_deployer.deploy_python_closure(
        conn, "sum", "1.0", "ints", feature_sum, "my/base:2", ["label"], "quay.io", 2, 8, ["pandas"], make_current=False
    )
    image = "quay.io/fake-cluster-sum:1.0"
    assert cm.called("build_model") == [(image, FILES, "my/base:2", "quay.io", ["pandas"])]
    assert cm.called("deploy_model") == [("sum", "1.0", "integers", image, 2)]
    info = conn.get_model_info("sum", "1.0")
    assert info is not None
    assert (info["labels"], info["is_current_version"]) == (["label"], False)


def test_create_endpoint(conn: ClipperConnection) -> None:
    python_deployer.create_endpoint(conn, "sum", "doubles", feature_sum)
    info = conn.get_app_info("sum")
    assert info is not None
    assert (info["default_output"], info["latency_slo_micros"], info["linked_models"]) == ("None", 3000000, ["sum"])


def test_failed_endpoint_can_be_made_again(connect: Connect) -> None:
    conn = connect(DiesDuringStart)
    with pytest.raises(ClipperException, match="exited with code 3"):
        python_deployer.create_endpoint(conn, "sum", "doubles", feature_sum)
    assert conn.get_all_apps() == []
    python_deployer.create_endpoint(conn, "sum", "doubles", feature_sum, num_replicas=0)


def test_taken_endpoint_is_left_alone(conn: ClipperConnection) -> None:
    conn.register_application("sum", "doubles", "", 1)
    with pytest.raises(ClipperException, match="already exists"):
        python_deployer.create_endpoint(conn, "sum", "doubles", feature_sum)
    assert conn.get_all_apps() == ["sum"]


def test_function_that_cannot_be_pickled(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    lock = threading.Lock()

    def locked(xs: Any) -> list[str]:
        with lock:
            return feature_sum(xs)

    with pytest.raises(ClipperException, match="locked' cannot be pickled because of 'lock'"):
        python_deployer.deploy_python_closure(conn, "locked", 1, "doubles", locked)
    with pytest.raises(ClipperException, match="func='sum'"):
        python_deployer.deploy_python_closure(conn, "locked", 1, "doubles", "sum")  # type: ignore[arg-type]
    assert not cm.called("build_model")


def test_a_deployer_may_add_files(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    def save_model(folder: Path) -> set[str]:
        (folder / "weights").touch()
        return {"numpy"}

    deploy_function(conn, "m", 1, "doubles", feature_sum, images.PYTHON, save_model, ["inputs"])
    assert cm.called("build_model")[0][1] == [*FILES, "weights"]
