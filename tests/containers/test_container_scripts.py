"""Tests of Clipper's containers as programs."""

import json
import pickle
import platform
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from clipper_admin.images import FRAMEWORKS
from clipper_common.constants import EXIT_MODEL_NOT_LOADED
from clipper_common.datatypes import InputType
from clipper_common.modeldir import FUNCTION_FILE, VERSIONS_FILE
from tests.containers.conftest import Launch
from tests.containers.scripted_frontend import PATIENCE_SECONDS, ScriptedFrontend

CLOSURE = ("-m", "clipper_containers.python_closure_container")


def test_python_closure(frontend: ScriptedFrontend, launch: Launch, tmp_path: Path) -> None:
    factor = 3
    (tmp_path / FUNCTION_FILE).write_bytes(cloudpickle.dumps(lambda inputs: [factor * x.sum() for x in inputs]))
    launch(*CLOSURE, CLIPPER_MODEL_PATH=str(tmp_path))
    frontend.register()
    response = frontend.predict([np.float64([1, 2]).tobytes(), np.float64([0.1]).tobytes()])
    assert response.outputs == [b"9.0", b"0.30000000000000004"]


class Unloadable:
    """Its pickle imports what is not there."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__, ("no_such_package.module",)


@pytest.mark.parametrize(
    ("pickled", "last_line"),
    [
        (
            pickle.dumps(Unloadable()),
            "It needs the module 'no_such_package', which is not here. If a package has it, name that in "
            "pkgs_to_install; if it is a file of your own, write an import statement for it",
        ),
        (b"garbage", "Could not load the model in "),
    ],
)
def test_a_function_that_cannot_be_loaded(pickled: bytes, last_line: str, launch: Launch, tmp_path: Path) -> None:
    (tmp_path / FUNCTION_FILE).write_bytes(pickled)
    program = launch(*CLOSURE, CLIPPER_MODEL_PATH=str(tmp_path))
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == EXIT_MODEL_NOT_LOADED
    assert errors.startswith("Traceback")
    assert last_line in errors.splitlines()[-1]


HERE = platform.python_version()


@pytest.mark.parametrize(
    ("python", "packages", "exact", "last_line"),
    [
        ("2.7.18", {}, [], f"It was saved by Python 2.7.18, and this is Python {HERE}"),
        (HERE, {"numpy": ["numpy", "0.9.1"]}, ["numpy"], "deploy it with pkgs_to_install=['numpy==0.9.1']."),
        (HERE, {"nothing_": ["no-thing", "3.4"]}, [], "deploy it with pkgs_to_install=['no-thing==3.4']."),
        (
            HERE,
            {"numpy": ["numpy", "0.9.1"]},
            [],
            "Perhaps the versions do not fit: deploy it with pkgs_to_install=['nu",
        ),
    ],
)
def test_a_model_that_was_saved_elsewhere(
    python: str, packages: dict[str, list[str]], exact: list[str], last_line: str, launch: Launch, tmp_path: Path
) -> None:
    named = {module: {"name": name, "version": version} for module, (name, version) in packages.items()}
    (tmp_path / VERSIONS_FILE).write_text(json.dumps({"python": python, "packages": named, "exact": exact}))
    (tmp_path / FUNCTION_FILE).write_bytes(b"garbage")
    program = launch(*CLOSURE, CLIPPER_MODEL_PATH=str(tmp_path))
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == EXIT_MODEL_NOT_LOADED
    assert last_line in errors.splitlines()[-1]


def test_other_versions_are_told(frontend: ScriptedFrontend, launch: Launch, tmp_path: Path) -> None:
    packages = {"numpy": {"name": "numpy", "version": "0.9.1"}}
    (tmp_path / VERSIONS_FILE).write_text(json.dumps({"python": HERE, "packages": packages, "exact": []}))
    (tmp_path / FUNCTION_FILE).write_bytes(cloudpickle.dumps(lambda inputs: [x.sum() for x in inputs]))
    program = launch(*CLOSURE, CLIPPER_MODEL_PATH=str(tmp_path))
    frontend.register()
    assert frontend.predict([np.float64([1]).tobytes()]).outputs == [b"1.0"]
    program.terminate()
    frontend.answer_drain()
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert f"saved with numpy==0.9.1; here is {np.__version__}" in errors


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_that_is_missing(framework: str, launch: Launch, tmp_path: Path) -> None:
    """In an environment without packages but ours: what is missing is named."""
    image = FRAMEWORKS[framework]
    packages = ["torch", "onnxruntime", "tensorflow", "keras", "mxnet", "pyspark"]
    hide = f"import sys; sys.modules.update(dict.fromkeys({packages}))"
    run = f"import runpy; runpy.run_module('clipper_containers.{image.module}', run_name='__main__')"
    program = launch("-c", f"{hide}; {run}", CLIPPER_MODEL_PATH=str(tmp_path))
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == EXIT_MODEL_NOT_LOADED
    package = (*image.packages, "onnxruntime")[0]
    assert f"It needs the module '{package}', which is not here" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "inputs", "sums"),
    [
        ("ints", [np.int32([2**31 - 1, 1]).tobytes()], [b"2147483648"]),
        ("strings", ["héé".encode(), b""], [b"3", b"0"]),
    ],
)
def test_sum(kind: str, inputs: list[bytes], sums: list[bytes], frontend: ScriptedFrontend, launch: Launch) -> None:
    launch("-m", "clipper_containers.sum_container", CLIPPER_INPUT_TYPE=kind)
    frontend.register()
    assert frontend.predict(inputs, InputType.parse(kind)).outputs == sums
