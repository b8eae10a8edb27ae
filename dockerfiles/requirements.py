"""Prints a requirements file for pip: what the images of a group install, or what compiling the query path takes.

The names stand here, their ranges in setup.py and pyproject.toml beside it, and the releases with which all was last
tested in the constraints files, of which there may be one for this version of Python.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

GROUPS = {
    "frontends": {
        *("aiohttp", "hiredis", "orjson", "prometheus_client", "pybase64", "pysimdjson", "redis", "uvloop"),
    },
    "containers": {"cloudpickle", "numpy", "prometheus_client", "pyzmq"},
}
BUILD = "build"


def requirements(group: str, setup: str) -> list[str]:
    """The requirements in setup.py's `install_requires` that the group needs."""
    calls = [node for node in ast.walk(ast.parse(setup)) if isinstance(node, ast.keyword)]
    declared = next(ast.literal_eval(call.value) for call in calls if call.arg == "install_requires")
    by_name = {re.split(r"[^\w.-]", requirement)[0]: requirement for requirement in declared}
    return [by_name[name] for name in sorted(GROUPS[group])]


def build_requirements(pyproject: str) -> list[str]:
    """The requirements of a build."""
    found: list[str] = tomllib.loads(pyproject)["build-system"]["requires"]
    return found


def constraints(folder: Path, version: tuple[int, int]) -> list[str]:
    """The line that names the constraints file for a version of Python, if there is one."""
    file = folder / "constraints" / f"{version[0]}.{version[1]}.txt"
    return [f"--constraint {file}"] if file.is_file() else []


def main(group: str, folder: Path) -> None:
    """Print the requirements file; `folder` holds what it is made from."""
    if group == BUILD:
        found = build_requirements((folder / "pyproject.toml").read_text())
    else:
        found = requirements(group, (folder / "setup.py").read_text())
    print(*constraints(folder, sys.version_info[:2]), *found, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(__file__).parent)
