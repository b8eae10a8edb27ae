"""Prints what the images of a group install, for pip: the names stand here, their versions in setup.py beside it."""

import ast
import re
import sys
from pathlib import Path

GROUPS = {
    "frontends": {"aiohttp", "orjson", "prometheus_client", "pysimdjson", "pyzmq", "redis", "uvloop"},
    "containers": {"cloudpickle", "numpy", "prometheus_client", "pyzmq"},
}


def requirements(group: str, setup: str) -> list[str]:
    """Those of setup.py's `install_requires` that the group needs."""
    calls = [node for node in ast.walk(ast.parse(setup)) if isinstance(node, ast.keyword)]
    declared = next(ast.literal_eval(call.value) for call in calls if call.arg == "install_requires")
    by_name = {re.split(r"[^\w.-]", requirement)[0]: requirement for requirement in declared}
    return [by_name[name] for name in sorted(GROUPS[group])]


if __name__ == "__main__":
    print(*requirements(sys.argv[1], Path(__file__).with_name("setup.py").read_text()), sep="\n")
