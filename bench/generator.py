"""Builds and runs `generator.c`, the load generator behind `open_loop` and `soak`.

It is written in C because the machine is shared: a generator in Python takes as much of it as the servers do. And it is
our own because of what the usual ones do at a constant rate: see bench/README.md.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import orjson

from bench.programs import ROOT, ProgramFailed
from bench.workloads import write_body

_SOURCE: Final = ROOT / "bench" / "generator.c"
_PROGRAM: Final = ROOT / "bench" / ".build" / "generator"
_RECORD: Final = np.dtype(
    [("due", "f8"), ("latency", "f4"), ("lateness", "f4"), ("outcome", "i4"), ("reason", "i4")]
)  # `struct record` of the source


@dataclass(frozen=True)
class Records:
    """The results of all queries, in the order in which they were due."""

    started: float
    """On the system's monotonic clock."""
    ended: float
    """Seconds after that."""
    cpu_seconds: float
    """CPU time of the generator."""
    surplus: int
    """The number of answers without a query."""
    reasons: dict[str, int]
    """The number of each reason for a default or an error; with ``outputs``, also of each right output."""
    due: Any
    """Seconds after the start."""
    latency: Any
    """Seconds since it was due; -1 without an answer."""
    lateness: Any
    """Seconds by which it was sent later than due."""
    outcome: Any
    reason: Any
    """The index of the reason in `reasons`; -1 without one."""


class Running:
    """A generator at work. A context manager."""

    def __init__(self, port: int, path: str, body: bytes, connections: int, due: Any = None, **options: object) -> None:
        """Prepare an open loop with times at which queries are `due`, otherwise a closed loop of `queries` queries."""
        self._folder = tempfile.TemporaryDirectory()
        file = write_body(Path(self._folder.name), body)
        self._output = Path(self._folder.name) / "output"
        flags = {"port": port, "path": path, "body": file, "connections": connections, **options}
        argv = [
            str(_built()),
            *(f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()),
        ]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                argv + ["--open-loop"] * (due is not None), stdin=subprocess.PIPE, stdout=output
            )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            if due is not None:
                stdin.write(np.asarray(due, dtype="f8").tobytes())

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """Send no further queries."""
        self._process.terminate()

    def result(self, seconds: float) -> Records:
        """Wait for the end, `seconds` at most."""
        if self._process.wait(seconds):
            raise ProgramFailed(f"the load generator ended with {self._process.returncode}")
        with self._output.open("rb") as output:
            head = orjson.loads(output.readline())
            records = np.fromfile(output, _RECORD)
        fields: Any = {name: np.ascontiguousarray(records[name]) for name in _RECORD.names or ()}
        return Records(**head, **fields)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.has_ended:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def can_run() -> bool:
    """Return whether the program is built, or there is a compiler to build it."""
    return _is_built() or _compiler() is not None


def _is_built() -> bool:
    return _PROGRAM.exists() and _PROGRAM.stat().st_mtime >= _SOURCE.stat().st_mtime


def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")


def _built() -> Path:
    """The program, compiled when its source is newer."""
    if _is_built():
        return _PROGRAM
    compiler = _compiler()
    if not compiler:
        raise ProgramFailed("the load generator needs a C compiler: apt-get install gcc libc6-dev")
    _PROGRAM.parent.mkdir(exist_ok=True)
    new = _PROGRAM.with_suffix(f".{os.getpid()}")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(new), str(_SOURCE)], check=True)
    return new.rename(_PROGRAM)
