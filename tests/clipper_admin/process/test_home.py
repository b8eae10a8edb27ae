"""Tests that an unusable folder for the files of clusters is named by a ClipperException."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clipper_admin import ClipperConnection, ClipperException, ProcessContainerManager
from clipper_admin.process import bundles, state

Make = Callable[[Path], Path]


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def under_a_file(folder: Path) -> Path:
    return a_file(folder) / "home"


def not_writable(folder: Path) -> Path:
    return Path("/proc/clipper")  # a folder in which root, too, can make nothing


def with_a_long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


def manager() -> ProcessContainerManager:
    return ProcessContainerManager("homeless", *[0] * 3, redis_port=0, prometheus_port=0)


@pytest.mark.parametrize("make", [a_file, under_a_file, not_writable, with_a_long_name])
def test_a_home_that_cannot_be(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make(tmp_path)
    monkeypatch.setenv("CLIPPER_HOME", str(home))
    model = tmp_path / "model"
    model.mkdir()
    for call in (
        lambda: ClipperConnection(manager()).start_clipper(),
        lambda: ClipperConnection(manager()).build_model("m", 1, model, "clipper/noop-container"),
        lambda: bundles.build_shared("shared:1", model, ["true"]),
    ):
        with pytest.raises(ClipperException, match=r"(?s)cannot be kept in .*CLIPPER_HOME") as raised:
            call()
        assert str(home) in str(raised.value)


def test_a_relative_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPPER_HOME", "clusters")
    with pytest.raises(ClipperException, match=f"absolute path, such as '{os.getcwd()}/clusters'"):
        manager()


def test_a_home_in_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLIPPER_HOME", "~/here")
    assert state.home() == tmp_path / "here"


def test_logs_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIPPER_HOME", str(tmp_path / "home"))
    cm = manager()
    monkeypatch.setattr(cm, "_cluster", lambda: None)
    with pytest.raises(ClipperException, match=r"cannot be written to /proc/logs: .*logging_dir="):
        cm.get_logs("/proc/logs")
