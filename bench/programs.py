"""Starts programs for a benchmark, says what CPU time they took, and stops them by their process id."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from clipper_admin.process.ports import find_port

HOST: Final = "127.0.0.1"
ROOT: Final = Path(__file__).resolve().parent.parent

_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 15.0
_LEAVE_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.02
_TAIL_BYTES: Final = 2000
DISTURBED: Final = 0.15
"""The number of cores used by other programs from which on a run is not valid."""


class ProgramFailed(Exception):
    """A program of the benchmark did not do what it was started for."""


class Program:
    """A process that runs until it is stopped. What it prints goes to a file without a name."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path = ROOT) -> None:
        self.name = " ".join(argv)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises `ProgramFailed`, with its last words, when it does not run any more."""
        if self._process.poll() is not None:
            raise ProgramFailed(f"{self.name} ended with {self._process.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return self._log.read().decode(errors="replace")

    @property
    def family(self) -> list[psutil.Process]:
        """Itself, and what it started."""
        return _family(self.pid)

    def cpu_seconds(self) -> float:
        """User and system time, with that of its children."""
        return sum(_cpu_seconds(process) for process in _family(self.pid))

    def memory_bytes(self) -> int:
        """Resident, with that of its children."""
        return sum(process.memory_info().rss for process in _family(self.pid))

    def stop(self) -> None:
        """Stop it, and whatever it started and left behind."""
        family = _family(self.pid)
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, left = psutil.wait_procs(family, _LEAVE_SECONDS)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    ended_children = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + ended_children)


class Bystanders:
    """Measures how much CPU time programs outside the benchmark take from now on."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def cores(self, servers_seconds: float) -> float:
        """Return the number of cores that they used on average, if the servers took this much CPU time meanwhile."""
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own) - servers_seconds
        return others / (time.monotonic() - self._started)


def _busy_seconds() -> float:
    """CPU time of all programs of the machine. (What the kernel does for the network is nobody's.)"""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _own_seconds() -> float:
    """Return the CPU seconds of this process, and of load generators that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def python(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module."""
    return [sys.executable, "-m", module, *arguments]


def options(values: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def free_port() -> int:
    """Return a port that the system gives to no outgoing connection, of which load generators open many."""
    return find_port(0)


def wait_until(
    what: str, is_so: Callable[[], object], programs: Iterable[Program] = (), seconds: float = _START_SECONDS
) -> None:
    """Poll until `is_so()`; give up when a program died or after a while."""
    deadline = time.monotonic() + seconds
    needed = list(programs)
    while not is_so():
        for program in needed:
            program.check()
        if time.monotonic() > deadline:
            raise ProgramFailed(f"{what}: not so after {seconds:g} seconds")
        time.sleep(_POLL_SECONDS)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((HOST, port), 1.0).close()
        return True
    return False


def http(port: int, path: str, body: bytes | None = None, seconds: float = 10.0) -> tuple[int, bytes]:
    """Status and body of a GET, or of a POST where there is a body. Raises `OSError` when nobody answers."""
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def end_cleanly_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
