"""RPCService as a program: environment, signals, files, and what an author's script sees."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from clipper_common import wire
from clipper_common.datatypes import InputType
from clipper_common.errors import ClipperException
from clipper_containers import rpc
from tests.containers.conftest import Launch
from tests.containers.scripted_frontend import PATIENCE_SECONDS, ScriptedFrontend

pytestmark = pytest.mark.integration

NOOP = ("-m", "clipper_containers.noop_container")
ONE = np.array([1.0]).tobytes()


def seconds_to_exit(program: "subprocess.Popen[str]", code: int = 0) -> float:
    began = time.monotonic()
    assert program.wait(PATIENCE_SECONDS) == code
    return time.monotonic() - began


def test_words_for_input_types() -> None:
    words = ["bytes", "ints", "floats", "doubles", "string"]
    assert [rpc.input_type_to_string(kind) for kind in range(5)] == words
    assert [rpc.string_to_input_type(word) for word in words] == list(range(5))
    with pytest.raises(ClipperException):
        rpc.string_to_input_type("complex")


def test_a_method_that_is_not_overridden() -> None:
    with pytest.raises(NotImplementedError, match="ModelContainerBase has no predict_ints"):
        rpc.ModelContainerBase().predict_ints([])


def test_configuration_without_the_environment() -> None:
    service = rpc.RPCService(read_config=False)
    service.model_path = "/somewhere"
    assert (service.get_model_path(), service.get_input_type(), service.get_event_history()) == (
        "/somewhere",
        "doubles",
        [],
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CLIPPER_MODEL_NAME": ""}, "CLIPPER_MODEL_NAME is not set"),
        ({"CLIPPER_MODEL_VERSION": ""}, "CLIPPER_MODEL_VERSION is not set"),
        ({"CLIPPER_INPUT_TYPE": "complex"}, "CLIPPER_INPUT_TYPE: complex is not a valid input string"),
        ({"CLIPPER_PORT": "rpc"}, "CLIPPER_PORT=rpc is not a port number"),
        ({"CLIPPER_METRIC_PORT": "65536"}, "CLIPPER_METRIC_PORT=65536 is not a port number"),
    ],
)
def test_a_wrong_environment_is_said(environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = {"CLIPPER_MODEL_NAME": "m", "CLIPPER_MODEL_VERSION": "1"}
    for name, value in (complete | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=reason):
        rpc.RPCService()


def test_a_missing_variable_exits_with_1(launch: Launch) -> None:
    program = launch(*NOOP, CLIPPER_MODEL_NAME="")
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == 1
    assert errors == (
        "This model container cannot start. The environment variable CLIPPER_MODEL_NAME is not set."
        " Clipper's container managers set it; by hand, give it a value.\n"
    )


def test_registers_serves_and_leaves_on_sigterm(frontend: ScriptedFrontend, launch: Launch, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.write_text("of a process before")
    program = launch(*NOOP, CLIPPER_READY_FILE=str(ready), CLIPPER_REPLICA_ID="given")
    metadata = frontend.receive_a(wire.Metadata, wire.HeartbeatType.REQUEST_METADATA)
    assert not ready.exists()
    assert metadata.replica_id == "given"
    assert frontend.predict([ONE, ONE]).outputs == [b"0", b"0"]
    assert ready.read_text() == "READY"
    program.send_signal(signal.SIGTERM)
    frontend.answer_drain()
    assert seconds_to_exit(program) < 1
    assert not ready.exists()


def test_leaves_at_once_on_sigint_when_never_registered(frontend: ScriptedFrontend, launch: Launch) -> None:
    program = launch(*NOOP)
    frontend.receive()
    program.send_signal(signal.SIGINT)
    assert seconds_to_exit(program) < 1


def test_replica_ids_and_keys_are_unlike_each_other(frontend: ScriptedFrontend, launch: Launch) -> None:
    ids = set()
    for _ in range(2):
        program = launch(*NOOP)
        metadata = frontend.register()
        ids |= {metadata.replica_id, metadata.key}
        program.kill()
    assert len(ids) == 4
    assert all(identity and len(identity) == 32 for identity in ids)


CUSTOM_CONTAINER = """
import os, signal, sys, time
import numpy, rpc, session
import clipper_containers.rpc

class Custom(rpc.ModelContainerBase):
    def predict_strings(self, inputs):
        if inputs == ["sleep"]:
            open(sys.argv[1], "w").close()
            time.sleep(0.5)
        if inputs == ["sleep long"]:
            open(sys.argv[1], "w").close()
            time.sleep(30)
        if inputs == ["exit"]:
            sys.exit("no more")
        if inputs == ["fork"]:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writer, b"up")
                time.sleep(5)
                os._exit(0)
            os.read(reader, 2)
            os.kill(child, signal.SIGTERM)
            return [str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))]
        same = rpc is clipper_containers.rpc
        history = len(service.get_event_history()) > 3
        return [f"{session.WHOSE} {same} {service.get_input_type()} {history}"] * len(inputs)

service = rpc.RPCService(collect_metrics=False)
service.start(Custom())
"""


@pytest.fixture
def custom_container(tmp_path: Path) -> str:
    (tmp_path / "session.py").write_text("WHOSE = 'the author'\n")
    script = tmp_path / "custom.py"
    script.write_text(CUSTOM_CONTAINER)
    return str(script)


def test_an_authors_script(frontend: ScriptedFrontend, launch: Launch, custom_container: str, tmp_path: Path) -> None:
    """It imports rpc, a module of its own named like one of ours, exits and forks in its model: all as it expects."""
    program = launch(custom_container, str(tmp_path / "computing"), CLIPPER_INPUT_TYPE=" Str ")
    assert frontend.register().input_type is InputType.STRINGS
    assert frontend.predict([b"a"], InputType.STRINGS).outputs == [b"the author True  Str  True"]
    assert frontend.predict([b"exit"], InputType.STRINGS).outputs == [b"SystemExit: no more"]
    assert frontend.predict([b"fork"], InputType.STRINGS).outputs == [str(-signal.SIGTERM).encode()]
    assert program.poll() is None


def test_sigterm_while_computing(
    frontend: ScriptedFrontend, launch: Launch, custom_container: str, tmp_path: Path
) -> None:
    computing = tmp_path / "computing"
    program = launch(custom_container, str(computing), CLIPPER_INPUT_TYPE="strings")
    frontend.register()
    frontend.ask([b"sleep"], InputType.STRINGS)
    _wait_for(computing)
    program.send_signal(signal.SIGTERM)
    assert frontend.receive_a(wire.Response).outputs == [b"the author True strings True"]
    frontend.answer_drain()
    assert seconds_to_exit(program) < 1


def test_what_nobody_waits_for_is_not_computed_to_its_end(
    frontend: ScriptedFrontend, launch: Launch, custom_container: str, tmp_path: Path
) -> None:
    computing = tmp_path / "computing"
    program = launch(custom_container, str(computing), CLIPPER_INPUT_TYPE="strings")
    frontend.register()
    frontend.ask([b"sleep long"], InputType.STRINGS)
    _wait_for(computing)
    program.send_signal(signal.SIGTERM)
    frontend.answer_drain()  # comes while the model computes
    assert seconds_to_exit(program) < 1


def test_a_second_sigterm_ends_it_at_once(
    frontend: ScriptedFrontend, launch: Launch, custom_container: str, tmp_path: Path
) -> None:
    program = launch(custom_container, str(tmp_path / "computing"), CLIPPER_INPUT_TYPE="strings")
    frontend.register()
    frontend.predict([b"a"], InputType.STRINGS)
    program.send_signal(signal.SIGTERM)
    frontend.receive_a(wire.Drain)
    program.send_signal(signal.SIGTERM)
    assert seconds_to_exit(program, -signal.SIGTERM) < 0.5


SETUPS = {
    "ignores": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "thread": "threading.Thread(target=time.sleep, args=(3,)).start()",
    "atexit": "atexit.register(time.sleep, 3)",
    "child": "multiprocessing.get_context('fork').Process(target=time.sleep, args=(3,)).start()",
    "handler": "signal.signal(signal.SIGTERM, lambda *_: print('the model was told', flush=True))",
}
STUBBORN = """
import atexit, multiprocessing, signal, threading, time
import rpc

class Stubborn(rpc.ModelContainerBase):
    def predict_strings(self, inputs):
        {setup}
        return list(inputs)

rpc.RPCService().start(Stubborn())
"""


@pytest.mark.parametrize("setup", SETUPS)
def test_what_a_model_leaves_running_does_not_hold_up_the_end(
    setup: str, frontend: ScriptedFrontend, launch: Launch, tmp_path: Path
) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN.format(setup=SETUPS[setup]))
    program = launch(str(script), CLIPPER_INPUT_TYPE="strings", CLIPPER_EXIT_SECONDS="0.3")
    frontend.register()
    frontend.predict([b"a"], InputType.STRINGS)
    program.send_signal(signal.SIGTERM)
    frontend.answer_drain()
    assert seconds_to_exit(program) < 1.5


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.005)
