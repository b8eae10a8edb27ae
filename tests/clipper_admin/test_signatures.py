"""The SDK has the methods and arguments of Clipper 0.4, in its order; what is new comes last."""

import importlib
import inspect
import pydoc
import re
import subprocess
import sys
from typing import Any

import pytest

from clipper_admin import ClipperConnection, ClipperException, UnconnectedException, __registry__, __version__
from clipper_admin.container_manager import ContainerManager
from tests.clipper_admin.fakes import FakeContainerManager


def image(name: str) -> str:
    return f"{__registry__}/{name}:{__version__}"


REQUIRED = inspect.Parameter.empty
KEYWORDS = "options"
"""Any number of keyword arguments."""

CONNECTION: dict[str, dict[str, Any]] = {
    "start_clipper": {
        "query_frontend_image": image("query_frontend"),
        "mgmt_frontend_image": image("management_frontend"),
        "frontend_exporter_image": image("frontend-exporter"),
        "cache_size": 33554432,
        "qf_http_thread_pool_size": 1,
        "qf_http_timeout_request": 75,  # 5 in Clipper 0.4: see docs/differences.md
        "qf_http_timeout_content": 300,
        "num_frontend_replicas": 1,
        "workers": 1,
        "query_frontend_flags": None,
        "mgmt_frontend_flags": None,
    },
    "connect": {},
    "register_application": {
        **dict.fromkeys(["name", "input_type", "default_output", "slo_micros"], REQUIRED),
        "missing_values": False,
        "max_body_bytes": None,
    },
    "unregister_application": {"name": REQUIRED},
    "delete_application": {"name": REQUIRED},
    "link_model_to_app": {"app_name": REQUIRED, "model_name": REQUIRED},
    "unlink_model_from_app": {"app_name": REQUIRED, "model_name": REQUIRED},
    "build_and_deploy_model": {
        **dict.fromkeys(["name", "version", "input_type", "model_data_path", "base_image"], REQUIRED),
        "labels": None,
        "container_registry": None,
        "num_replicas": 1,
        "batch_size": -1,
        "pkgs_to_install": None,
    },
    "build_model": {
        **dict.fromkeys(["name", "version", "model_data_path", "base_image"], REQUIRED),
        "container_registry": None,
        "pkgs_to_install": None,
    },
    "deploy_model": {
        **dict.fromkeys(["name", "version", "input_type", "image"], REQUIRED),
        "labels": None,
        "num_replicas": 1,
        "batch_size": -1,
    },
    "register_model": {
        **dict.fromkeys(["name", "version", "input_type"], REQUIRED),
        "image": None,
        "labels": None,
        "batch_size": -1,
    },
    "get_current_model_version": {"name": REQUIRED},
    "get_num_replicas": {"name": REQUIRED, "version": None},
    "set_num_replicas": {"name": REQUIRED, "num_replicas": REQUIRED, "version": None},
    "get_all_apps": {"verbose": False},
    "get_app_info": {"name": REQUIRED},
    "get_linked_models": {"app_name": REQUIRED},
    "get_all_models": {"verbose": False},
    "get_model_info": {"name": REQUIRED, "version": REQUIRED},
    "get_all_model_replicas": {"verbose": False},
    "get_model_replica_info": {"name": REQUIRED, "version": REQUIRED, "replica_id": REQUIRED},
    "get_clipper_logs": {"logging_dir": "clipper_logs/"},
    "inspect_instance": {},
    "set_model_version": {"name": REQUIRED, "version": REQUIRED, "num_replicas": None},
    "get_query_addr": {},
    "get_metric_addr": {},
    "stop_models": {"model_names": REQUIRED},
    "stop_versioned_models": {"model_versions_dict": REQUIRED},
    "stop_inactive_model_versions": {"model_names": REQUIRED},
    "stop_all_model_containers": {},
    "stop_all": {"graceful": True},
    "test_predict_function": {"query": REQUIRED, "func": REQUIRED, "input_type": REQUIRED},
}
NEW_METHODS: dict[str, dict[str, Any]] = {
    "get_num_frontend_replicas": {},
    "set_num_frontend_replicas": {"num_frontend_replicas": REQUIRED},
    "predict": {"app": REQUIRED, "input": None, "version": None, "input_batch": None},
    "set_selection_policy": dict.fromkeys(["app_name", "policy", KEYWORDS], REQUIRED),
    "get_selection_policy": {"app_name": REQUIRED},
    "delete_selection_state": {"app_name": REQUIRED},
    "set_batching": {
        "name": REQUIRED,
        "version": None,
        "batch_policy": None,
        "batch_size": None,
        "batch_delay_micros": None,
        "batch_wait": None,
    },
}
WITHOUT_CONNECTION = {
    "start_clipper",
    "connect",
    "build_model",
    "stop_all_model_containers",
    "stop_all",
    "test_predict_function",
}

DEPLOY_TAIL = {
    "base_image": "default",
    "labels": None,
    "registry": None,
    "num_replicas": 1,
    "batch_size": -1,
    "pkgs_to_install": None,
}
ENDPOINT_TAIL = {
    "default_output": "None",
    "version": 1,
    "slo_micros": 3000000,
    "labels": None,
    "registry": None,
    "base_image": "default",
    "num_replicas": 1,
    "batch_size": -1,
    "pkgs_to_install": None,
}
MODELS = {
    "python": ("create_endpoint", "deploy_python_closure", ["func"]),
    "pyspark": ("create_endpoint", "deploy_pyspark_model", ["func", "pyspark_model", "sc"]),
    "pytorch": ("create_endpoint", "deploy_pytorch_model", ["func", "pytorch_model"]),
    "tensorflow": ("create_endpoint", "deploy_tensorflow_model", ["func", "tf_sess_or_saved_model_path"]),
    "mxnet": ("create_endpoint", "deploy_mxnet_model", ["func", "mxnet_model", "mxnet_data_shapes"]),
    "keras": ("create_endpoint", "deploy_keras_model", ["func", "model_path_or_object"]),
    "onnx": ("create_pytorch_endpoint", "deploy_pytorch_model", ["inputs", "func", "pytorch_model"]),
}
"""Each deployer's two functions, and what they are given of the model."""
NEW_OF_DEPLOYMENT = {"make_current": True, "resources": None, "gpus": None}
NEW_OF_BATCHING = {"batch_policy": None, "batch_delay_micros": 0}
NEW_OF_LOADING = {"load_timeout": 300}
NEW_OF_OUTPUTS = {"max_output_bytes": None}
NEW_OF_WAITING = {"batch_wait": True}
NEW_OF_FUNCTIONS = {"inputs": "array", "outputs": "json"}
NEW_OF_ONE: dict[str, dict[str, Any]] = {
    "stop_inactive_model_versions": {"unregister": True},
    "test_predict_function": NEW_OF_FUNCTIONS,
    "link_model_to_app": {"version": None},
    "unlink_model_from_app": {"version": None},
}
DEPLOYS = {"deploy_model", "build_and_deploy_model"}


def of_onnx(tail: dict[str, Any]) -> dict[str, Any]:
    """Its tail in 0.4: there is no image by default, and the backend stands after the replicas."""
    place = list(tail).index("batch_size")
    items = list(tail.items())
    return dict([*items[:place], ("onnx_backend", "caffe2"), *items[place:]]) | {"base_image": None}


def parameters(function: Any) -> list[tuple[str, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.default) for parameter in found if parameter.name != "self"]


@pytest.mark.parametrize("name", CONNECTION | NEW_METHODS)
def test_connection(name: str) -> None:
    expected = (CONNECTION | NEW_METHODS)[name] | (NEW_OF_DEPLOYMENT if name in DEPLOYS else {})
    expected |= NEW_OF_BATCHING if name in DEPLOYS | {"register_model"} else {}
    expected |= NEW_OF_ONE.get(name, {})
    expected |= NEW_OF_LOADING if name in DEPLOYS | {"set_num_replicas", "set_model_version"} else {}
    expected |= NEW_OF_OUTPUTS | NEW_OF_WAITING if name in DEPLOYS | {"register_model"} else {}
    assert parameters(getattr(ClipperConnection, name)) == list(expected.items())


def test_connection_has_no_other_public_method() -> None:
    public = {name for name, _ in inspect.getmembers(ClipperConnection, inspect.isfunction) if name[0] != "_"}
    assert public == set(CONNECTION | NEW_METHODS)


@pytest.mark.parametrize("deployer", MODELS)
def test_deployer(deployer: str) -> None:
    module = importlib.import_module(f"clipper_admin.deployers.{deployer}")
    create, deploy, model = MODELS[deployer]
    change = of_onnx if deployer == "onnx" else dict
    head = dict.fromkeys(["clipper_conn", "name", "input_type", *model], REQUIRED)
    new = NEW_OF_DEPLOYMENT | NEW_OF_BATCHING | NEW_OF_LOADING
    new |= {"outputs": "json"} if deployer == "onnx" else NEW_OF_FUNCTIONS
    limits = {"missing_values": False} | NEW_OF_OUTPUTS | {"max_body_bytes": None}
    expected = head | change(ENDPOINT_TAIL) | new | limits | NEW_OF_WAITING
    assert parameters(getattr(module, create)) == list(expected.items())
    head = dict.fromkeys(["clipper_conn", "name", "version", "input_type", *model], REQUIRED)
    expected = head | change(DEPLOY_TAIL) | new | NEW_OF_OUTPUTS | NEW_OF_WAITING
    assert parameters(getattr(module, deploy)) == list(expected.items())


@pytest.mark.parametrize("deployer", MODELS)
def test_each_deployer_says_what_it_does(deployer: str) -> None:
    module = importlib.import_module(f"clipper_admin.deployers.{deployer}")
    for name in MODELS[deployer][:2]:
        function = getattr(module, name)
        text = pydoc.render_doc(function, renderer=pydoc.plaintext)
        assert not re.search(r"{\w+}", text)
        for argument, _ in parameters(function):
            assert re.search(rf"^ +([a-z_]+, )*{argument}(, [a-z_]+)*( :.*)?$", text, re.MULTILINE), argument


def test_importing_a_deployer_imports_no_framework() -> None:
    modules = ", ".join(f"clipper_admin.deployers.{deployer}" for deployer in MODELS)
    frameworks = ["torch", "tensorflow", "keras", "onnx", "onnxruntime", "mxnet", "pyspark", "numpy"]
    code = f"import sys, {modules}; print([name for name in {frameworks} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", sorted((CONNECTION.keys() | NEW_METHODS.keys()) - WITHOUT_CONNECTION))
def test_unconnected(name: str) -> None:
    conn = ClipperConnection(FakeContainerManager("127.0.0.1:1", "127.0.0.1:1", 1))
    arguments = (CONNECTION | NEW_METHODS)[name].items()
    required = [argument for argument, default in arguments if default is REQUIRED and argument != KEYWORDS]
    with pytest.raises(UnconnectedException, match="start_clipper"):
        getattr(conn, name)(*required)


def test_a_manager_must_be_whole() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ContainerManager("incomplete")  # type: ignore[abstract]


def test_exceptions_have_their_text() -> None:
    assert ClipperException("what went wrong").msg == "what went wrong"
    assert issubclass(UnconnectedException, ClipperException)
    assert "connect()" in UnconnectedException().message


@pytest.mark.parametrize("name", CONNECTION | NEW_METHODS)
def test_each_method_says_what_it_does(name: str) -> None:
    text = inspect.getdoc(getattr(ClipperConnection, name)) or ""
    assert text
    for argument, _ in parameters(getattr(ClipperConnection, name)):
        assert argument in text or "for the parameters" in text or "old name" in text
