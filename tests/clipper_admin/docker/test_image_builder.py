"""Tests of build contexts, and of the progress that is shown for an engine's events."""

import hashlib
import logging
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipper_admin import ClipperException
from clipper_admin.docker.engine import Engine
from clipper_admin.docker.image_builder import ImageBuilder, dockerfile, write_context


def context_of(folder: Path) -> tuple[str, dict[str, tarfile.TarInfo], dict[str, bytes]]:
    with write_context(folder, "FROM x\n") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            entries = {entry.name: entry for entry in archive.getmembers()}
            files = {name: archive.extractfile(entry) for name, entry in entries.items() if entry.isfile()}
            return digest, entries, {name: content.read() for name, content in files.items() if content}


def model(folder: Path) -> Path:
    (folder / "inner").mkdir(parents=True, mode=0o700)
    (folder / "func.pkl").write_bytes(b"pickle")
    (folder / "inner" / "run.sh").write_bytes(b"#!/bin/sh")
    (folder / "inner" / "run.sh").chmod(0o700)
    (folder / "latest").symlink_to("inner/run.sh")
    return folder


def test_contexts_are_reproducible_and_name_no_host_path(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one"), model(tmp_path / "two")
    os.utime(two / "func.pkl", (1, 1))
    (two / "func.pkl").chmod(0o600)
    digest, entries, files = context_of(one)
    assert context_of(two)[0] == digest
    assert list(entries) == [
        "Dockerfile",
        "model",
        "model/func.pkl",
        "model/inner",
        "model/inner/run.sh",
        "model/latest",
    ]
    assert files["Dockerfile"] == b"FROM x\n"
    assert files["model/func.pkl"] == b"pickle"
    assert entries["model/latest"].linkname == "inner/run.sh"
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) for entry in entries.values()} == {
        (0, 0, 0, "", "")
    }
    assert {name: oct(entries[name].mode) for name in ("model", "model/func.pkl", "model/inner/run.sh")} == {
        "model": "0o755",
        "model/func.pkl": "0o644",
        "model/inner/run.sh": "0o755",
    }


def test_links_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"weights")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").symlink_to("../outside")
    assert context_of(folder)[2]["model/weights"] == b"weights"
    (folder / "everything").symlink_to("..")
    with pytest.raises(ClipperException, match="everything.*link"):
        context_of(folder)


def test_packages_pass_through_no_shell() -> None:
    text = dockerfile("base", ['a; rm -rf "/"', "b\nRUN c"], user="10001")
    lines = text.splitlines()
    assert lines[0] == "FROM base"
    assert lines[1] == "USER 0"
    assert lines[2].startswith('RUN ["python", "-m", "pip", "install", ')
    assert lines[2].endswith(', "a; rm -rf \\"/\\"", "b\\nRUN c"]')
    assert lines[3:] == ["USER 10001", "COPY model /model/"]
    assert dockerfile("base", [], "10001") == "FROM base\nCOPY model /model/\n"


@pytest.fixture(autouse=True)
def classic_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")


class FakeApi:
    def __init__(self, events: Sequence[dict[str, Any]]) -> None:
        self._events = events
        self.calls: list[dict[str, Any]] = []

    def build(self, **arguments: Any) -> Sequence[dict[str, Any]]:
        self.calls.append(arguments)
        return self._events

    def push(self, image: str, **arguments: Any) -> Sequence[dict[str, Any]]:
        self.calls.append({"image": image, **arguments})
        return self._events


def builder(*events: dict[str, Any]) -> tuple[ImageBuilder, FakeApi]:
    image = SimpleNamespace(id="sha256:1", tags=["a:1"], attrs={"Config": {"User": ""}})
    api = FakeApi(events)
    engine = Engine(logging.getLogger("clipper_admin"))
    engine.__dict__["client"] = SimpleNamespace(api=api, images=SimpleNamespace(get=lambda name: image))
    return ImageBuilder(engine, logging.getLogger("clipper_admin")), api


def test_steps_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    made, api = builder(
        {"stream": "Step 1/2 : FROM base"}, {"stream": "\n"}, {"stream": "Step 2/2 : COPY model /model/"}
    )
    made.build("a:1", tmp_path, "base:1", [])
    assert "Step 1/2: FROM base" in caplog.messages
    assert "Step 2/2: COPY model /model/" in caplog.messages
    assert api.calls[0]["tag"] == "a:1"
    assert api.calls[0]["forcerm"] and api.calls[0]["rm"]


def test_the_failing_step_is_shown_and_no_other(tmp_path: Path) -> None:
    made, _ = builder(
        {"stream": "Step 1/2 : FROM base"},
        {"stream": "irrelevant\n"},
        {"stream": "Step 2/2 : RUN pip\n"},
        {"stream": "\x1b[91mERROR: no such package\n\x1b[0m"},
        {"error": "returned a non-zero code: 1"},
    )
    with pytest.raises(ClipperException) as caught:
        made.build("a:1", tmp_path, "base:1", [])
    assert str(caught.value) == (
        "Building image 'a:1' failed: returned a non-zero code: 1\nStep 2/2 : RUN pip\nERROR: no such package"
    )


@pytest.mark.parametrize("base", ["", "a b", "a\nRUN x", "--platform=x a", "$(x)"])
def test_base_images_that_are_no_names(base: str, tmp_path: Path) -> None:
    made, api = builder()
    with pytest.raises(ClipperException, match="base_image"):
        made.build("a:1", tmp_path, base, [])
    assert api.calls == []


def test_errors_inside_the_stream_of_a_push() -> None:
    made, _ = builder({"id": "layer", "status": "Pushing"}, {"error": "denied: no rights"})
    with pytest.raises(ClipperException, match="(?s)denied: no rights.*docker login"):
        made.push("r/a:1")


def test_a_push() -> None:
    made, api = builder({"id": "layer", "status": "Pushing"}, {"id": "layer", "status": "Pushed"}, {"aux": {}})
    made.push("r/a:1")
    assert api.calls == [{"image": "r/a:1", "stream": True, "decode": True}]
