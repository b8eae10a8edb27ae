"""The Python deployer over a container manager that starts nothing."""

import threading
import types
from pathlib import Path
from typing import Any

import pytest

from clipper_admin import ClipperConnection, ClipperException, images
from clipper_admin.deployers import keras as keras_deployer
from clipper_admin.deployers import mxnet as mxnet_deployer
from clipper_admin.deployers import onnx as onnx_deployer
from clipper_admin.deployers import pyspark as pyspark_deployer
from clipper_admin.deployers import python as python_deployer
from clipper_admin.deployers import tensorflow as tensorflow_deployer
from clipper_admin.deployers.deployer_utils import deploy_function, save_pickle
from clipper_common import modeldir
from tests.clipper_admin.conftest import Connect
from tests.clipper_admin.fakes import DiesDuringStart, FakeContainerManager

FILES = [modeldir.FUNCTION_FILE, modeldir.SETTINGS_FILE, modeldir.VERSIONS_FILE]


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


def test_limits_of_an_endpoint(conn: ClipperConnection) -> None:
    python_deployer.create_endpoint(
        conn, "sum", "doubles", feature_sum, max_output_bytes=1 << 20, max_body_bytes=1 << 26
    )
    app, model = conn.get_app_info("sum"), conn.get_model_info("sum", 1)
    assert app is not None and model is not None
    assert (app["max_body_bytes"], model["max_output_bytes"]) == (1 << 26, 1 << 20)


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


class Hostile:
    """Cannot be pickled, and not be looked at."""

    lock: Any = None

    def __reduce__(self) -> str:
        raise RuntimeError("not to be pickled")

    @property
    def __dict__(self) -> Any:
        raise RuntimeError("not to be looked at")


def test_a_model_that_cannot_be_pickled_is_explained(tmp_path: Path) -> None:
    model = types.SimpleNamespace(layers=[{"lock": threading.Lock()}])
    with pytest.raises(ClipperException, match=r"model. It cannot be pickled because of '\['lock'\]' \(a _thr"):
        save_pickle(model, "model", tmp_path / "model")
    with pytest.raises(ClipperException, match="model. It cannot be pickled: RuntimeError: not to be pickled"):
        save_pickle(Hostile(), "model", tmp_path / "model")


# --- frameworks: what is known and done without them; integration-tests have the real ones ---


def with_model(model: Any, xs: Any) -> Any:
    return xs


def with_spark(spark: Any, model: Any, xs: Any) -> Any:
    return xs


@pytest.mark.parametrize("file", ["saved_model.pb", "model.ckpt.meta"])
def test_a_tensorflow_folder(conn: ClipperConnection, cm: FakeContainerManager, tmp_path: Path, file: str) -> None:
    (tmp_path / file).touch()
    tensorflow_deployer.deploy_tensorflow_model(conn, "m", 1, "floats", with_model, tmp_path)
    base = images.TENSORFLOW.name()
    assert cm.called("build_model") == [("fake-cluster-m:1", sorted([*FILES, "tfmodel"]), base, None, [])]


def test_a_folder_that_is_no_model(conn: ClipperConnection, tmp_path: Path) -> None:
    with pytest.raises(ClipperException, match=r"saved_model.pb\) or a checkpoint"):
        tensorflow_deployer.deploy_tensorflow_model(conn, "m", 1, "floats", with_model, str(tmp_path))
    with pytest.raises(ClipperException, match=r"a file, .h5 or .keras; the TensorFlow deployer takes folders"):
        keras_deployer.deploy_keras_model(conn, "m", 1, "floats", with_model, tmp_path)


@pytest.mark.parametrize(
    ("content", "name"), [(b"\x89HDF", "keras_model.h5"), (b"PK\x05\x06" + bytes(18), "keras_model.keras")]
)
def test_a_keras_file(
    conn: ClipperConnection, cm: FakeContainerManager, tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / "any.name").write_bytes(content)
    keras_deployer.deploy_keras_model(conn, "m", 1, "floats", with_model, tmp_path / "any.name")
    assert cm.called("build_model")[0][1] == sorted([*FILES, "keras_classes.pkl", name])


def test_a_module_of_mxnet(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    class Module:
        def save_checkpoint(self, prefix: str, epoch: int) -> None:
            Path(f"{prefix}-{epoch:04d}.params").touch()

    mxnet_deployer.deploy_mxnet_model(conn, "m", 1, "floats", with_model, Module(), [("data", (50, 4))])
    files = ["mxnet_model-0000.params", "mxnet_model_metadata.json"]
    assert cm.called("build_model")[0][1] == sorted([*FILES, *files])
    with pytest.raises(ClipperException, match="mxnet_data_shapes. It should be a list of .name, shape."):
        mxnet_deployer.deploy_mxnet_model(conn, "n", 1, "floats", with_model, Module(), ["data"])
    with pytest.raises(ClipperException, match="mxnet_model. The module cannot be saved: AttributeError"):
        mxnet_deployer.deploy_mxnet_model(conn, "n", 1, "floats", with_model, object(), [("data", (50, 4))])


def test_models_of_spark(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    saved: list[Any] = []

    class Model:
        def save(self, *arguments: Any) -> None:
            saved.append(arguments)

    pyspark_deployer.deploy_pyspark_model(conn, "ml", 1, "floats", with_spark, Model(), "context")
    assert cm.called("build_model")[0][1] == sorted([*FILES, "metadata.json"])
    Model.__module__ = "pyspark.mllib.classification"
    pyspark_deployer.deploy_pyspark_model(conn, "mllib", 1, "floats", with_spark, Model(), "context")
    assert [len(arguments) for arguments in saved] == [1, 2]
    assert saved[1][0] == "context"
    assert all(arguments[-1].startswith("file:///") for arguments in saved)


def test_backends_of_onnx(conn: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match="onnx_backend='tensorrt'. It should be one of caffe2, onnxruntime"):
        onnx_deployer.create_pytorch_endpoint(conn, "m", "floats", None, with_model, None, onnx_backend="tensorrt")
    assert conn.get_all_apps() == []


def test_the_versions_of_a_framework_are_noted(
    conn: ClipperConnection, cm: FakeContainerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[modeldir.Versions] = []
    monkeypatch.setattr(modeldir, "save_versions", lambda versions, folder: noted.append(versions))
    numpy = images.PYTORCH._replace(packages=("numpy",))
    deploy_function(conn, "m", 1, "doubles", feature_sum, numpy, lambda folder: {"sklearn"}, ["inputs"])
    assert noted[0].exact == ("numpy",)
    assert noted[0].packages.keys() == {"numpy", "sklearn"}


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (lambda xs, model, more: xs, "missing a required argument: 'more'"),
        (lambda: [], "too many positional arguments"),
        (lambda *, model, xs: xs, "too many positional arguments"),
    ],
)
def test_a_function_of_the_wrong_arity(conn: ClipperConnection, func: Any, reason: str) -> None:
    with pytest.raises(ClipperException, match=rf"will be called as func\(session, inputs\): {reason}"):
        tensorflow_deployer.deploy_tensorflow_model(conn, "m", 1, "floats", func, "/no/matter")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("quay.io/me/tf27-container:0.4.1", "models of tensorflow that Python 2.7 saved"),
        (images.KERAS.name(), f"models of keras that Python {images.RUNNING_PYTHON} saved"),
        ("", "It should be a text"),
    ],
)
def test_a_base_image_that_cannot_serve(conn: ClipperConnection, image: str, reason: str) -> None:
    with pytest.raises(ClipperException, match=f"base_image='{image}'. .*{reason}"):
        tensorflow_deployer.deploy_tensorflow_model(conn, "m", 1, "floats", with_model, "/no/matter", image)
    with pytest.raises(ClipperException, match="There is no such file"):
        name = images.TENSORFLOW.name()
        tensorflow_deployer.deploy_tensorflow_model(conn, "m", 1, "floats", with_model, "/no/matter", name)


# --- what a function uses and nobody defines ---


def test_a_name_that_nobody_defines(conn: ClipperConnection, cm: FakeContainerManager) -> None:
    def misspelt(xs: Any) -> Any:
        return [modle.predict(x) for x in xs]  # type: ignore[name-defined]  # noqa: F821

    line = misspelt.__code__.co_firstlineno + 1
    with pytest.raises(
        ClipperException, match=rf"'modle' \(.*test_deployers.py, line {line}\).*every query would fail"
    ):
        python_deployer.deploy_python_closure(conn, "m", 1, "doubles", misspelt)
    assert not cm.called("build_model")


def test_a_name_in_a_branch_is_logged(conn: ClipperConnection, caplog: pytest.LogCaptureFixture) -> None:
    def branching(xs: Any) -> Any:
        return modle if len(xs) > 5 else xs  # type: ignore[name-defined]  # noqa: F821

    python_deployer.deploy_python_closure(conn, "m", 1, "doubles", branching)
    assert "uses the name 'modle'" in caplog.text and "queries that reach this line will fail" in caplog.text


def test_modules_that_are_not_installed(conn: ClipperConnection) -> None:
    def importing(xs: Any) -> Any:
        import no_such_module

        return no_such_module.predict(xs)

    with pytest.raises(ClipperException, match="imports the module 'no_such_module'.*which is not installed"):
        python_deployer.deploy_python_closure(conn, "m", 1, "doubles", importing)
    python_deployer.deploy_python_closure(conn, "m", 1, "doubles", importing, pkgs_to_install=["no-such-package"])
    python_deployer.deploy_python_closure(conn, "m", 2, "doubles", importing, base_image="my/base:2")
