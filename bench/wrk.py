"""Runs wrk, a closed-loop HTTP load generator: each connection sends its next request when it has its answer."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from bench.programs import HOST, ROOT, ProgramFailed

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


def run(port: int, path: str, body: Path, connections: int, seconds: float) -> Measurement:
    """Post the content of the file `body` from that many connections."""
    timing = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    done = subprocess.run(
        ["wrk", *timing, "-s", str(_SCRIPT), f"http://{HOST}:{port}{path}"],
        env=os.environ | {"WRK_BODY": str(body)},
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
