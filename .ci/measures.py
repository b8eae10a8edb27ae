"""Prints the shape of the code at some commits as a table: ``python .ci/measures.py COMMIT ...``.

Files, lines and functions are those of the programs, without tests and benchmarks. A function's lines are all from
``def`` to its end. The floors of `query_frontend` are the longest chain of its rooms, each of which imports the next.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PROGRAMS = ("clipper_common/", "query_frontend/", "management_frontend/", "clipper_admin/", "containers/python/")
TESTS = ("tests/", "integration-tests/")
MOST_LINES = 400
_AIOHTTP = ("base_protocol", "web_protocol", "web_server", "web_request", "streams", "client_proto", "http_writer")
_OURS_TOO = {"_close", "_connections", "_limit", "_loop", "_transport", "_wait", "_write"}
"""Names that aiohttp uses, and our own classes for something else."""


def sources(commit: str) -> dict[str, str]:
    """The text of each Python and Cython file at a commit, by its path."""
    listed = _git("ls-tree", "-r", "--name-only", commit).splitlines()
    return {path: _git("show", f"{commit}:{path}") for path in listed if path.endswith((".py", ".pxd"))}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def measures(files: Mapping[str, str]) -> dict[str, object]:
    programs = {path: text for path, text in files.items() if path.endswith(".py") and path.startswith(PROGRAMS)}
    lengths = sorted(length for text in programs.values() for length in _function_lengths(text))
    long = sorted(path for path, text in programs.items() if _lines(text) > MOST_LINES)
    modules, packages = _rooms(programs, 99), _rooms(programs, 1)
    return {
        "files": len(programs),
        "lines": sum(map(_lines, programs.values())),
        "function lines, median": statistics.median(lengths),
        "function lines, 90th percentile": lengths[int(0.9 * len(lengths))],
        f"files above {MOST_LINES} lines": f"{len(long)}: {', '.join(long)}",
        "query_frontend: rooms on floors": f"{len(packages)} on {_floors(packages)}",
        "query_frontend: modules on floors": f"{len(modules)} on {_floors(modules)}",
        "private attributes of aiohttp that are touched": _private_attributes(programs),
        "lines of .pxd": sum(_lines(text) for path, text in files.items() if path.endswith(".pxd")),
        "lines of tests": sum(_lines(text) for path, text in files.items() if path.startswith(TESTS)),
    }


def _lines(text: str) -> int:
    return len(text.splitlines())


def _function_lengths(text: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def _rooms(programs: Mapping[str, str], depth: int) -> dict[str, set[str]]:
    """Return what each module of `query_frontend`, or each of its packages (`depth` 1), imports of the others."""
    modules = {path.removesuffix(".py").replace("/", "."): text for path, text in programs.items()}
    ours = {name: text for name, text in modules.items() if name.startswith("query_frontend.") and "__" not in name}

    def room(module: str) -> str:
        return ".".join(module.split(".")[: depth + 1])

    rooms: dict[str, set[str]] = {room(name): set() for name in ours}
    for name, text in ours.items():
        for module in _imported(text):
            if module in ours and room(module) != room(name):
                rooms[room(name)].add(room(module))
    return rooms


def _imported(text: str) -> Iterator[str]:
    tree = ast.parse(text)
    for_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    left_out = {id(inner) for node in for_types for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in left_out:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _floors(rooms: Mapping[str, set[str]]) -> int:
    @cache
    def height(room: str) -> int:
        return 1 + max(map(height, rooms[room]), default=0)

    return max(map(height, rooms))


def _private_attributes(programs: Mapping[str, str]) -> int:
    """How many private attributes of aiohttp's objects are named in files that serve or subclass with aiohttp."""
    import aiohttp

    folder = Path(aiohttp.__file__).parent
    texts = [(folder / f"{each}.py").read_text() for each in _AIOHTTP]
    theirs = {name for text in texts for name in re.findall(r"self\.(_[a-z]\w*)", text)}
    ours = [text for path, text in programs.items() if "aiohttp" in text and not path.startswith("clipper_admin/")]
    return len({name for text in ours for name in re.findall(r"\.(_[a-z]\w*)", text)} & theirs - _OURS_TOO)


def main(commits: list[str]) -> None:
    columns = [measures(sources(commit)) for commit in commits]
    print("|  |", " | ".join(commits), "|")
    print("|---|", "---|" * len(commits), sep="")
    for name in columns[0]:
        print("|", name, "|", " | ".join(str(column[name]) for column in columns), "|")


if __name__ == "__main__":
    main(sys.argv[1:] or ["HEAD"])
