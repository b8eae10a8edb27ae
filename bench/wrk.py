"""Runs wrk, a closed-loop HTTP load generator: each connection sends its next request when it has its answer."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from bench.programs import HOST, ROOT, ProgramFailed
from bench.workloads import FIRST_NUMBER, write_body

_SCRIPT: Final = ROOT / "bench" / "wrk.lua"
_GRACE_SECONDS: Final = 30.0


class Measurement(NamedTuple):
    requests: int
    seconds: float
    p50_millis: float
    p99_millis: float
    bad_status: int
    failed: int
    """Could not connect, read or write, or took longer than two seconds."""


def is_installed() -> bool:
    return shutil.which("wrk") is not None


def run(port: int, path: str, body: bytes, connections: int, seconds: float, first: int = 0) -> Measurement:
    """Post `body` from that many connections, with numbers from `first` on in place of its mark."""
    timing = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    with tempfile.TemporaryDirectory() as folder:
        told = {"WRK_BODY": str(write_body(Path(folder), body)), "WRK_FIRST": str(FIRST_NUMBER + first)}
        done = subprocess.run(
            ["wrk", *timing, "-s", str(_SCRIPT), f"http://{HOST}:{port}{path}"],
            env=os.environ | told,
            capture_output=True,
            timeout=seconds + _GRACE_SECONDS,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith(b"JSON ")]
    if done.returncode or not lines:
        raise ProgramFailed(
            f"wrk ended with {done.returncode}:\n{(done.stdout + done.stderr).decode(errors='replace')}"
        )
    found = orjson.loads(lines[0].removeprefix(b"JSON "))
    return Measurement(
        found["requests"],
        found["micros"] / 1e6,
        found["p50"] / 1e3,
        found["p99"] / 1e3,
        found["bad_status"],
        found["failed"],
    )
