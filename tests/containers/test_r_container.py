"""The R container as a program, before a scripted frontend."""

import contextlib
import json
import re
import signal
import struct
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from clipper_common import __version__, constants, wire
from clipper_common.datatypes import InputType, ModelId
from clipper_containers.metrics import ContainerMetrics
from tests.containers.r_support import PACKAGE, R, r
from tests.containers.scripted_frontend import PATIENCE_SECONDS, ScriptedFrontend

__all__ = ["r"]  # a fixture that is not of this file

pytestmark = pytest.mark.integration

MODELS = {
    "raw": ("as.raw(c(1, 255))", "function(inputs) lapply(inputs, function(x) sum(as.integer(x)))"),
    "integer": ("1:3", "function(inputs) lapply(inputs, function(x) if (x[1] == 13L) stop('unlucky') else sum(x))"),
    "numeric": ("c(1.5, 2)", "function(inputs) lapply(inputs, function(x) x / 3)"),
    "string": ('"text"', "function(inputs) lapply(inputs, function(x) paste0(toupper(x), nchar(x)))"),
    "data_frame": (
        "iris[1:2, ]",
        "function(inputs) lapply(inputs, function(x) list(rows = nrow(x), kind = levels(x$Species)[x$Species[1]]))",
    ),
    "matrix": ("diag(2)", "function(inputs) lapply(inputs, function(x) c(dim(x), is.double(x), sum(diag(x))))"),
    "array": ("array(1:8, c(2, 2, 2))", "function(inputs) lapply(inputs, function(x) c(dim(x), x[2, 1, 2]))"),
    "list": ("list(a = 1:4, b = 'x')", "function(inputs) lapply(inputs, function(x) paste(names(x), collapse = ''))"),
    "vector": ("1", "function(inputs) sapply(inputs, sum)"),
    "miscounting": ("1", "function(inputs) if (inputs[[1]][1] == 0) list() else inputs"),
    "slow": (
        "1",
        "function(inputs) { if (inputs[[1]][1] > 1) { Sys.sleep(1); cat('computed') }; lapply(inputs, sum) }",
    ),
}
"""The sample input and the function of each model."""


@pytest.fixture(scope="module")
def models(r: R, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each model."""
    folder = tmp_path_factory.mktemp("models")
    r.must_run("\n".join(f'save_model("{name}", {fn}, {sample})' for name, (sample, fn) in MODELS.items()), folder)
    return folder


Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve(r: R, models: Path, frontend: ScriptedFrontend) -> Iterator[Serve]:
    """Start a replica, as a container manager does: ``serve("integer", "ints")``."""
    programs: list[subprocess.Popen[str]] = []

    def start(model: str, input_type: str, **environment: str) -> "subprocess.Popen[str]":
        ours = {
            "CLIPPER_MODEL_NAME": "m",
            "CLIPPER_MODEL_VERSION": "1.0",
            "CLIPPER_MODEL_PATH": str(models / model),
            "CLIPPER_INPUT_TYPE": input_type,
            "CLIPPER_PORT": str(frontend.port),
            "CLIPPER_METRIC_PORT": "0",
        }
        shell = ["sh", str(r.library / "Rclipper/serve.sh"), "Rscript", "--vanilla", "-e", "Rclipper::serve_model()"]
        env, pipe = r.environment(**ours | environment), subprocess.PIPE
        programs.append(subprocess.Popen(shell, env=env, text=True, stdout=pipe, stderr=pipe))
        return programs[-1]

    yield start
    for program in programs:
        program.terminate()
        let_go(program, frontend)
        program.communicate(timeout=PATIENCE_SECONDS)


def let_go(program: "subprocess.Popen[str]", frontend: ScriptedFrontend) -> None:
    """Answer its goodbye. It says none if it has not read yet that it is registered."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while program.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if isinstance(frontend.receive(0.1), wire.Drain):
                frontend.send(wire.encode_drain_reply())


def ints(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def doubles(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


FLOWER = {"Sepal.Length": 5.1, "Sepal.Width": 3, "Petal.Length": 1.4, "Petal.Width": 0.2, "Species": "virginica"}


@pytest.mark.parametrize(
    ("model", "kind", "inputs", "outputs"),
    [
        ("raw", InputType.BYTES, [b"\x01\xff", b"\x00"], ["[256]", "[0]"]),
        ("integer", InputType.INTS, [ints(1, -2, 3), ints(2**31 - 1)], ["[2]", "[2147483647]"]),
        ("numeric", InputType.DOUBLES, [doubles(1, -3), doubles(1e-9)], ["[0.333333333333333,-1]", None]),
        ("string", InputType.STRINGS, ["hé".encode(), b""], ["HÉ2", "0"]),
        ("data_frame", InputType.STRINGS, [as_json([FLOWER] * 3)], ['{"rows":[3],"kind":["virginica"]}']),
        ("matrix", InputType.STRINGS, [as_json([[1, 2], [3, 5]]), as_json([[7]])], ["[2,2,1,6]", "[1,1,1,7]"]),
        ("array", InputType.STRINGS, [as_json([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])], ["[2,2,2,6]"]),
        ("list", InputType.STRINGS, [as_json({"a": [1], "c": {"d": 2}}), as_json([1])], ["ac", ""]),
        ("vector", InputType.DOUBLES, [doubles(1, 2), doubles(5)], ["[3]", "[5]"]),
    ],
)
def test_each_kind_of_input(
    serve: Serve,
    frontend: ScriptedFrontend,
    model: str,
    kind: InputType,
    inputs: list[bytes],
    outputs: list[str | None],
) -> None:
    serve(model, kind.canonical_name)
    metadata = frontend.register()
    assert metadata.model_id == ModelId("m", "1.0")
    assert (metadata.input_type, metadata.rpc_version) == (kind, wire.RPC_VERSION_4)
    response = frontend.predict(inputs, kind)
    assert not any(response.failed)
    for said, expected in zip(response.outputs, outputs, strict=True):
        if expected is None:
            assert float(json.loads(said)[0]) == pytest.approx(1e-9 / 3)
        else:
            assert said.decode() == expected


def test_batches_of_any_size(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve("integer", "ints")
    frontend.register()
    for size in (1, 2, 7, constants.MAX_BATCH_SIZE):
        response = frontend.predict([ints(i, i) for i in range(100, 100 + size)], InputType.INTS)
        assert response.outputs == [f"[{2 * i}]".encode() for i in range(100, 100 + size)]
    assert frontend.predict([], InputType.INTS).outputs == []


def test_a_bad_input_fails_alone(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve("integer", "ints")
    frontend.register()
    response = frontend.predict([ints(1), ints(13), ints(3)], InputType.INTS)
    assert response.failed == [False, True, False]
    assert response.outputs == [b"[1]", b"Error: unlucky", b"[3]"]


def test_an_input_that_is_not_what_the_sample_says(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve("data_frame", "strings")
    frontend.register()
    short = {name: value for name, value in FLOWER.items() if name != "Species"}
    response = frontend.predict([b"{", as_json([1, 2]), as_json([FLOWER]), as_json([short])], InputType.STRINGS)
    assert response.failed == [True, True, False, True]
    assert response.outputs[0].startswith(b"Error: the input is not JSON: ")
    assert response.outputs[1] == b"Error: the input is not the JSON of a data frame"
    assert response.outputs[3] == b"Error: the data frame has no column Species"


def test_an_input_type_that_the_model_does_not_take(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve("integer", "ints")
    frontend.register()
    response = frontend.predict([doubles(1)], InputType.DOUBLES)
    assert response.outputs == [b"Error: this model takes ints, and was sent something else"]


def test_wrong_number_of_outputs(serve: Serve, frontend: ScriptedFrontend) -> None:
    program = serve("miscounting", "doubles")
    frontend.register()
    response = frontend.predict([doubles(0), doubles(1)])
    assert response.outputs == [b"Error: the function returned 0 outputs for 1 inputs", b"[1]"]
    assert program.poll() is None


def test_stopping_finishes_the_batch(serve: Serve, frontend: ScriptedFrontend, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = serve("slow", "doubles", CLIPPER_READY_FILE=str(ready), CLIPPER_REPLICA_ID="replica-a")
    assert frontend.register().replica_id == "replica-a"
    frontend.predict([doubles(1)])
    assert ready.read_text() == "READY"
    frontend.ask([doubles(2)])
    time.sleep(0.3)  # in the midst of it
    program.send_signal(signal.SIGTERM)
    assert frontend.receive_a(wire.Response).outputs == [b"[2]"]
    frontend.answer_drain()
    said, logged = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == 0, logged
    assert said == "computed"
    assert not ready.exists()


def test_stopping_without_a_frontend(r: R, serve: Serve, frontend: ScriptedFrontend, free_port: int) -> None:
    program = serve("vector", "doubles", CLIPPER_PORT=str(free_port))
    assert program.stderr
    assert "Serving m:1.0" in program.stderr.readline()
    program.terminate()
    assert program.wait(PATIENCE_SECONDS) == 0


def test_a_silent_frontend_is_left_for_a_new_connection(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve("vector", "doubles", CLIPPER_REPLICA_ID="replica-a")
    frontend.register()
    first = frontend.peer
    deadline = time.monotonic() + PATIENCE_SECONDS
    while frontend.peer == first:
        assert time.monotonic() < deadline
        frontend.receive()
    assert frontend.register().replica_id == "replica-a"


def test_a_refusal_is_logged(serve: Serve, frontend: ScriptedFrontend) -> None:
    program = serve("vector", "doubles")
    frontend.receive_a(wire.Metadata, wire.HeartbeatType.REQUEST_METADATA)
    frontend.send(wire.encode_refused("the model takes strings"))
    assert program.stderr
    assert any("refuses this replica: the model takes strings" in line for line in program.stderr)
    program.terminate()
    assert program.wait(PATIENCE_SECONDS) == 0


def test_nonsense_is_dropped(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve("vector", "doubles")
    frontend.register()
    frontend.send([b"", b"\4\0\0\0"])
    frontend.send([b"", b"\4\0\0\0", b"\1\0\0\0", b"\0\0\0\0", b"\0\0\0\0", b"\0" * 8, b"\0" * 24])
    assert frontend.predict([doubles(4)]).outputs == [b"[4]"]


def test_metrics_are_those_of_other_containers(serve: Serve, frontend: ScriptedFrontend, free_port: int) -> None:
    serve("integer", "ints", CLIPPER_METRIC_PORT=str(free_port))
    frontend.register()
    frontend.predict([ints(1), ints(13)], InputType.INTS)
    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    registry = CollectorRegistry()
    registry.register(ContainerMetrics())
    assert series(text) == series(generate_latest(registry).decode())
    for line in ("clipper_mc_pred_total 1.0", "clipper_mc_inputs_total 2.0", "clipper_mc_errors_total 1.0"):
        assert f"\n{line}\n" in text
    with pytest.raises(urllib.request.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{free_port}/else", timeout=5)


def series(text: str) -> list[str]:
    """All but the values."""
    return sorted(line if line.startswith("# ") else line.rpartition(" ")[0] for line in text.splitlines())


def test_a_taken_metric_port_is_no_reason_to_die(serve: Serve, frontend: ScriptedFrontend) -> None:
    serve("vector", "doubles", CLIPPER_METRIC_PORT=str(frontend.port))
    frontend.register()
    assert frontend.predict([doubles(4)]).outputs == [b"[4]"]


@pytest.mark.parametrize(
    ("environment", "code", "reason"),
    [
        ({"CLIPPER_MODEL_NAME": ""}, 1, "CLIPPER_MODEL_NAME is not set"),
        ({"CLIPPER_PORT": "rpc"}, 1, "CLIPPER_PORT=rpc is not a port number"),
        ({"CLIPPER_INPUT_TYPE": "doubles"}, 1, 'built for inputs of type "ints", and deployed for "doubles"'),
        ({"CLIPPER_MODEL_PATH": "/absent"}, constants.EXIT_MODEL_NOT_LOADED, "There is no R model in '/absent'"),
    ],
)
def test_what_makes_no_sense(serve: Serve, environment: dict[str, str], code: int, reason: str) -> None:
    program = serve("integer", "ints", **environment)
    _, logged = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == code
    assert reason in logged


def test_constants_are_those_of_clipper() -> None:
    description = (PACKAGE / "DESCRIPTION").read_text()
    assert f"\nVersion: {__version__}\n" in description
    source = "\n".join(path.read_text() for path in (PACKAGE / "R").glob("*.R"))
    assert f"HEARTBEAT_SECONDS <- {constants.HEARTBEAT_SECONDS:.0f}\n" in source
    assert f"DRAIN_SECONDS <- {constants.DRAIN_SECONDS - 1:.0f}\n" in source
    assert f"EXIT_MODEL_NOT_LOADED <- {constants.EXIT_MODEL_NOT_LOADED}L\n" in source
    wire_types = ", ".join(f"{name} = {int(kind)}L" for name, kind in TYPES.items())
    assert f"wire_types <- c({wire_types})\n" in source
    for word in re.findall(r"(\w+) = c\(((?:\"\w+\"(?:, )?)+)\)", source):
        if word[0] in TYPES:
            assert {InputType.parse(text) for text in re.findall(r"\w+", word[1])} == {TYPES[word[0]]}


TYPES = {kind.name.lower(): kind for kind in InputType}
