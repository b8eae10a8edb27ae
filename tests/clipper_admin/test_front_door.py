"""Tests of the names that `import clipper_admin` provides, and of the modules that it imports."""

import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import clipper_admin
import clipper_admin.clipper_admin as connection_module

HEAVY = {"aiohttp", "docker", "kubernetes", "numpy", "prometheus_client", "redis", "tqdm", "zmq"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)


def test_all_is_what_there_is() -> None:
    own = {
        name
        for name, value in vars(clipper_admin).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name not in IMPORTED_TOOLS
    }
    assert own <= set(clipper_admin.__all__)
    for name in clipper_admin.__all__:
        assert getattr(clipper_admin, name) is not None


IMPORTED_TOOLS = {"Any", "TYPE_CHECKING", "import_module"}


def test_all_names_of_clipper_0_4_are_there() -> None:
    names = "ClipperConnection ClipperException UnconnectedException __version__ __registry__ deployers"
    assert set(names.split()) <= set(clipper_admin.__all__)
    assert connection_module.DEFAULT_LABEL == []
    assert connection_module.DEFAULT_PREDICTION_CACHE_SIZE_BYTES == 33554432


def test_unknown_name() -> None:
    assert not hasattr(clipper_admin, "NoSuchContainerManager")


def test_import_is_light() -> None:
    modules = run("import sys, clipper_admin.metrics; from clipper_admin.deployers import python; print(*sys.modules)")
    loaded = {name.partition(".")[0] for name in modules.stdout.split()}
    assert not loaded & HEAVY


CONNECT = """
import logging
from clipper_admin import ClipperConnection
from tests.clipper_admin.fakes import FakeContainerManager
{before}
conn = ClipperConnection(FakeContainerManager("", "", 1))
ClipperConnection(FakeContainerManager("", "", 1))
{after}
conn.logger.info("a message")
"""


def test_messages_are_shown() -> None:
    lines = run(CONNECT.format(before="", after="")).stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("[fake-cluster] a message")
    assert " INFO     [<string>:" in lines[0]


def test_logging_of_the_user_is_respected() -> None:
    before = "logging.basicConfig(format='mine: %(message)s', level=logging.INFO)"
    assert run(CONNECT.format(before=before, after="")).stderr == "mine: [fake-cluster] a message\n"
    quiet = "logging.basicConfig(level=logging.ERROR)"
    assert run(CONNECT.format(before=quiet, after="")).stderr == ""


def test_logging_that_is_set_up_later_doubles_nothing() -> None:
    after = "logging.basicConfig(format='mine: %(message)s', level=logging.INFO)"
    assert run(CONNECT.format(before="", after=after)).stderr == "mine: [fake-cluster] a message\n"


@pytest.mark.parametrize("file", ["VERSION.txt", "decorators.py"])
def test_files_of_the_old_package_among_ours_are_named(file: str, tmp_path: Path) -> None:
    for package in ("clipper_admin", "clipper_common"):
        shutil.copytree(Path(__file__).parents[2] / package, tmp_path / package)
    (tmp_path / "clipper_admin" / file).write_text("0.4.1")
    ran = subprocess.run([sys.executable, "-c", "import clipper_admin"], cwd=tmp_path, capture_output=True, text=True)
    assert f"files of clipper_admin 0.4.1 ({file})" in ran.stderr
    assert "pip uninstall clipper_admin" in ran.stderr
