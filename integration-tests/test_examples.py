"""The examples run as they are."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("clipper_home")]

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), EXAMPLES / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("quickstart.py")
    example.SLO_MICROS = 5_000_000  # the machine of a test may be busy
    example.main()
    said = capsys.readouterr().out
    assert '"output":6.6,"default":false' in said
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith("  ")}
    assert float(lines["accuracy"][1].rstrip("%")) > 95
    assert lines["prediction"][1:11] == lines["truth"][1:11]
    assert float(lines["latency"][2]) < float(lines["latency"][5])


def test_quickstart_that_is_interrupted() -> None:
    """Ctrl-C stops the cluster too: the fixture finds what would be left."""
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--keep"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as example:
        assert example.stderr
        said = ""
        while "Clipper is running" not in said:
            line = example.stderr.readline()
            assert line, said
            said += line
        example.send_signal(signal.SIGINT)
        rest = example.stderr.read()
    assert example.returncode == 130, said + rest
    assert "Stopped all Clipper cluster" in rest


def test_basic_query(capsys: pytest.CaptureFixture[str]) -> None:
    load("basic_query/example_client.py").main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all('"default":false' in line for line in lines)
    assert "batch_predictions" in lines[5]


def test_image_query(capsys: pytest.CaptureFixture[str]) -> None:
    load("image_query/example_client.py").main()
    said = capsys.readouterr().out
    assert "'output': [640, 480], 'default': False" in said
    assert "'output': [3, 5], 'default': False" in said
    assert "'output': [800, 600], 'default': False" in said
