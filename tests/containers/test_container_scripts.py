"""The containers that we ship, as programs."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from clipper_common.constants import EXIT_MODEL_NOT_LOADED
from clipper_common.datatypes import InputType
from clipper_common.modeldir import FUNCTION_FILE, save_function
from tests.containers.conftest import Launch
from tests.containers.scripted_frontend import PATIENCE_SECONDS, ScriptedFrontend

CLOSURE = ("-m", "clipper_containers.python_closure_container")


def test_python_closure(frontend: ScriptedFrontend, launch: Launch, tmp_path: Path) -> None:
    factor = 3
    save_function(lambda inputs: [factor * x.sum() for x in inputs], tmp_path)
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
            "It needs a package that is not installed here: deploy it with pkgs_to_install=['no_such_package'].",
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
