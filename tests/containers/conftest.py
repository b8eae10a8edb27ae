"""A scripted frontend, a session in a thread and container programs; all are ended with the test."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import clipper_containers
from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from clipper_containers.prediction import Predict, Predictor
from clipper_containers.session import Session
from clipper_containers.stopping import StopRequest
from tests.containers.scripted_frontend import PATIENCE_SECONDS, ScriptedFrontend

TOPLEVEL = Path(clipper_containers.__path__[0]) / "toplevel"
MODEL = ModelId("m", "1")


@pytest.fixture
def frontend() -> Iterator[ScriptedFrontend]:
    with ScriptedFrontend() as frontend:
        yield frontend


class SessionThread:
    """A session that serves `predict` in a thread of the test."""

    def __init__(self, port: int, predict: Predict, input_type: InputType) -> None:
        self.stop = StopRequest()
        self.registrations = 0
        metadata = wire.Metadata(MODEL, input_type, wire.RPC_VERSION_4, "replica-a")
        answer = Predictor(predict, input_type).answer
        self.session = Session(f"tcp://127.0.0.1:{port}", metadata, answer, self.stop, self._count)
        self._thread = threading.Thread(target=self.session.run)
        self._thread.start()

    def _count(self) -> None:
        self.registrations += 1

    def has_ended(self, seconds: float = PATIENCE_SECONDS) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        self.stop.request()
        assert self.has_ended()
        self.stop.close()


Serve = Callable[..., SessionThread]


@pytest.fixture
def serve(frontend: ScriptedFrontend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a session with the scripted frontend: ``serve(predict, input_type)``."""
    threads: list[SessionThread] = []

    def start(predict: Predict, input_type: InputType = InputType.DOUBLES) -> SessionThread:
        threads.append(SessionThread(frontend.port, predict, input_type))
        return threads[-1]

    yield start
    monkeypatch.setattr("clipper_containers.session._DRAIN_SECONDS", 0)
    for thread in threads:
        thread.close()


Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(frontend: ScriptedFrontend) -> Iterator[Launch]:
    """Start a container program: ``launch("-m", "clipper_containers.noop_container", CLIPPER_INPUT_TYPE="ints")``."""
    programs: list[subprocess.Popen[str]] = []
    ours: Mapping[str, str] = {
        "CLIPPER_MODEL_NAME": "m",
        "CLIPPER_MODEL_VERSION": "1",
        "CLIPPER_PORT": str(frontend.port),
        "CLIPPER_METRIC_PORT": "0",
        "PYTHONPATH": str(TOPLEVEL),
    }

    def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLIPPER_")}
        command, pipe = [sys.executable, *arguments], subprocess.PIPE
        env = inherited | ours | environment
        programs.append(subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=pipe))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.communicate()
