"""Virtual environments in which frameworks are tested and measured: those that clash are kept apart.

Each gets what the Dockerfiles of its frameworks install, so that versions stand in one place, and what the notebooks
use. It is made when it is first needed, and kept in the checkout. Run as a program, this makes all of them, beside the
tests that need none.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clipper_admin import images

ROOT = Path(__file__).parents[1]
INSTALL_SECONDS = 900.0
SDK_OF_0_4 = "clipper_admin==0.4.1"
GROUPS: dict[str, list[str]] = {
    "pytorch": ["pytorch", "onnx"],
    "tensorflow": ["tensorflow", "keras"],
    "mxnet": ["mxnet"],
    "pyspark": ["pyspark"],
}
"""Environments, and the frameworks in each."""
FURTHER: dict[str, list[str]] = {
    "pytorch": ["onnx", "onnxscript"],
    "python": ["scikit-learn", "xgboost-cpu", "lightgbm"],
}
"""Further packages that an environment needs to make models."""


def environment_of(framework: str) -> Path:
    """The interpreter of the environment that has `framework`."""
    return environment(next(group for group, members in GROUPS.items() if framework in members))


def environment(group: str) -> Path:
    """The interpreter of an environment that has the SDK and what the Dockerfiles of the group install.

    What is added to that changes none of its versions: MXNet works with one numpy only.
    """
    folder = ROOT / f".venv-{images.RUNNING_PYTHON}-{group}"
    steps = [step for name in GROUPS.get(group, []) for step in _pip_steps(images.FRAMEWORKS[name].dockerfile)]
    steps.append("pip freeze --all > $VIRTUAL_ENV/installed")
    further = " ".join(FURTHER.get(group, []))
    steps.append(f"pip install --constraint $VIRTUAL_ENV/installed --editable {ROOT}[notebooks] {further}")
    constraints = ROOT / images.CONSTRAINTS / images.constraints_file(group, folder=ROOT / images.CONSTRAINTS)
    pinned = constraints.read_text() if constraints.is_file() else ""
    made_of = "\n".join([*steps, (ROOT / "setup.py").read_text(), pinned])
    stamp = folder / "made-of"
    with _alone(folder):
        if not stamp.is_file() or stamp.read_text() != made_of:
            _make(folder, steps, constraints if pinned else None)
            stamp.write_text(made_of)
    return folder / "bin" / "python"


def environment_of_0_4() -> Path | None:
    """The interpreter of an environment that has the SDK of Clipper 0.4, if this machine has the Python 3.7 for it."""
    pythons = [Path(found) for found in [shutil.which("python3.7")] if found]
    pythons += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.7.*/bin/python3.7"))
    working = (python for python in pythons if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0)
    python = next(working, None)
    if python is None:
        return None
    folder = ROOT / ".venv-3.7-sdk-of-0.4"
    stamp = folder / "made-of"
    with _alone(folder):
        if not stamp.is_file() or stamp.read_text() != SDK_OF_0_4:
            _make(folder, [f"pip install --quiet {SDK_OF_0_4}"], None, python)
            stamp.write_text(SDK_OF_0_4)
    return folder / "bin" / "python"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the environment, so that no other process makes it meanwhile."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path, steps: list[str], constraints: Path | None, python: Path = Path(sys.executable)) -> None:
    _run([str(python), "-m", "venv", str(folder)], os.environ)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    active = {"VIRTUAL_ENV": str(folder), "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    active["PIP_COMPILE"] = "0"  # most of a framework is never imported; the rest is compiled when it is
    if constraints:
        active["PIP_CONSTRAINT"] = str(constraints)  # as Docker has it while it builds the image
    for step in steps:
        _run(["sh", "-c", step], os.environ | active)


def _pip_steps(dockerfile: str) -> list[str]:
    """The installations of packages in a Dockerfile, with the default values of its arguments."""
    text = (ROOT / "dockerfiles" / dockerfile).read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
    steps = re.findall(r"^RUN (pip install .*)$", text, re.MULTILINE)
    return [re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], step) for step in steps]


def _run(command: list[str], environ: Mapping[str, str]) -> None:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
        env=environ,
    )
    assert result.returncode == 0, f"{command}: {result.stdout[-4000:]}"


if __name__ == "__main__":
    for group in dict.fromkeys([*GROUPS, *FURTHER]):
        environment(group)
