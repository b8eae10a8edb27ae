"""Building images with buildx: which command is run, and what is made of its output."""

import json
import logging
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipper_admin import ClipperException
from clipper_admin.docker import buildx
from clipper_admin.docker.engine import Engine
from clipper_admin.docker.image_builder import ImageBuilder

BUILT = """\
#0 building with "default" instance using docker driver

#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 64B done
#1 DONE 0.0s

#5 [1/2] FROM docker.io/library/base:1
#5 CACHED

#6 [2/2] COPY model /model/
#6 DONE 0.1s
"""
FAILED = """\
#5 [1/2] FROM docker.io/library/base:1
#5 irrelevant

#6 [stage-0 2/2] RUN ["python", "-m", "pip", "install", "nothing"]
#6 0.412 ERROR: No matching distribution found for nothing
#6 ERROR: process "python -m pip" did not complete successfully: exit code: 1
ERROR: failed to solve: process "python -m pip" did not complete successfully: exit code: 1
"""
PROGRAM = """#!{python}
import json, sys, time
arguments = sys.argv[1:]
if arguments == ["buildx", "version"]:
    sys.exit({missing})
if arguments == ["context", "show"]:
    print("laptop")
    sys.exit(0)
with open({folder!r} + "/arguments", "w") as file:
    json.dump(arguments, file)
with open({folder!r} + "/context", "wb") as file:
    file.write(sys.stdin.buffer.read())
print({output!r}, end="", flush=True)
time.sleep({sleep})
sys.exit({code})
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a `docker` on the path that does as it is told."""
    monkeypatch.delenv("DOCKER_BUILDKIT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(output: str = BUILT, code: int = 0, missing: int = 0, sleep: float = 0.0) -> None:
        program = tmp_path / "docker"
        values = {"python": sys.executable, "folder": str(tmp_path), "output": output, "code": code}
        program.write_text(PROGRAM.format(**values, missing=missing, sleep=sleep))
        program.chmod(0o755)

    return make


def build(folder: Path) -> None:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "weights").write_bytes(b"1 2 3")
    image = SimpleNamespace(id="sha256:1", tags=["a:1"], attrs={"Config": {"User": ""}})
    engine = Engine(logging.getLogger("clipper_admin"))
    engine.__dict__["client"] = SimpleNamespace(images=SimpleNamespace(get=lambda name: image))
    ImageBuilder(engine, logging.getLogger("clipper_admin")).build("a:1", model, "base:1", [])


def test_the_builder_of_the_engine_gets_the_context(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    install()
    build(tmp_path)
    arguments = json.loads((tmp_path / "arguments").read_text())
    assert arguments == ["buildx", "build", "--load", "--builder=laptop", "--progress=plain", "--tag=a:1", "-"]
    with tarfile.open(tmp_path / "context") as archive:
        assert archive.getnames() == ["Dockerfile", "model", "model/weights"]
    assert "Step 1/2: FROM docker.io/library/base:1" in caplog.messages
    assert "Step 2/2: COPY model /model/" in caplog.messages


def test_the_failing_step_is_shown_and_no_other(install: Install, tmp_path: Path) -> None:
    install(FAILED, code=1)
    with pytest.raises(ClipperException) as caught:
        build(tmp_path)
    text = str(caught.value)
    assert text.startswith("Building image 'a:1' failed: failed to solve: process \"python -m pip\" did not complete")
    assert "DOCKER_BUILDKIT=0 in the environment builds without buildx" in text
    assert "No matching distribution found for nothing" in text
    assert "irrelevant" not in text


def test_a_failure_without_a_reason_is_one(install: Install, tmp_path: Path) -> None:
    install("", code=3)
    with pytest.raises(ClipperException, match="'docker buildx' ended with code 3"):
        build(tmp_path)


def test_a_build_that_hangs_is_ended(install: Install) -> None:
    install("#5 [1/2] FROM base", sleep=600)
    with (Path(__file__)).open("rb") as context:
        *_, last = buildx.build(buildx.command(), "a:1", context, 1.0)
    assert "wrote nothing for 1 seconds" in last["error"]


def test_the_classic_builder_serves_where_there_is_no_buildx(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert buildx.command() == buildx.CLASSIC, "there is no docker command at all"
    install(missing=1)
    assert buildx.command() == buildx.CLASSIC
    install()
    assert buildx.command() == ("docker", "buildx", "build", "--load", "--builder=laptop")
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    assert buildx.command() == buildx.CLASSIC
