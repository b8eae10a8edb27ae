"""Writes the constraints files: the releases with which Clipper was last tested, one file for each version of Python.

Run by `make constraints`. A file holds all that setup.py's extras, the build and the frameworks of the Dockerfiles
bring along; the frameworks themselves are left out, since their versions stand in the Dockerfiles. MXNet needs a numpy
of its time, which nothing else would want, so it has a file of its own.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE / "constraints"
PYTHON_VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
FRAMEWORKS: Final = ("PyTorch", "Onnx", "TensorFlow", "PySpark")
"""Frameworks that can share an environment. One without a release for a version of Python is left out of its file."""
TO_MAKE_MODELS: Final = ("lightgbm", "onnx", "onnxscript", "xgboost-cpu")
"""Further packages that the tests of frameworks need."""


def frameworks_in(dockerfile: str) -> list[str]:
    """Return the pinned requirements in a Dockerfile, with the default values of its arguments."""
    text = (HERE / dockerfile).read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
    steps = re.findall(r"^RUN (?:.*\n)*?.*\bpip install (.*)$", text, re.MULTILINE)
    words = re.sub(r"\$\{(\w+)\}", lambda match: defaults.get(match[1], ""), " ".join(steps))
    return sorted(set(re.findall(r'"([\w.-]+==[^"]+)"', words)))


def compile_constraints(python_version: str, extras: str, requirements: list[str], file: Path) -> bool:
    """Resolve the requirements, and those of these extras, into `file`. Returns whether they can be resolved."""
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in requirements if "==" in requirement]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--upgrade", "--no-annotate", "--no-header"]
    command += ["--python-version", python_version, *extras.split(), "--output-file", str(file)]
    command += [part for name in names if name != "numpy" for part in ("--no-emit-package", name)]
    command += [str(HERE.parent / "setup.py"), "-"]
    result = subprocess.run(command, input="\n".join(requirements), text=True, stderr=subprocess.PIPE)
    if result.returncode:
        print(f"Python {python_version} without {requirements[-1]}: {result.stderr.strip()}", file=sys.stderr)
    return result.returncode == 0


def main() -> None:
    """Write all files."""
    build = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["build-system"]["requires"]
    for version in PYTHON_VERSIONS:
        chosen = ["pip", *build, *TO_MAKE_MODELS]
        if not compile_constraints(version, "--all-extras", chosen, FOLDER / f"{version}.txt"):
            sys.exit(1)
        for framework in FRAMEWORKS:
            more = [*chosen, *frameworks_in(f"{framework}ContainerDockerfile")]
            if compile_constraints(version, "--all-extras", more, FOLDER / f"{version}.txt"):
                chosen = more
    mxnet = ["pip", *build, *frameworks_in("MXNetContainerDockerfile")]
    compile_constraints("3.11", "--extra=notebooks", mxnet, FOLDER / "3.11-mxnet.txt")


if __name__ == "__main__":
    main()
