"""The benchmarks work: a smoke run of each that is quick."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIPPER = ["yardstick", "ceiling", "clipper", "clipper-cached"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.usefixtures("load_generator"),
]
needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{program}", "--quick", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(output: str) -> dict[str, list[str]]:
    """The cells of each line of a table by the first of them; the last table wins."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in output.splitlines() if line[:2] == "| "]
    return {first: cells for first, *cells in lines}


@needs_wrk
@pytest.mark.parametrize("workload", ["10 doubles", "100 KB image", "a string"])
def test_servers_answer_every_kind_of_input(workload: str) -> None:
    output = run("compare", "--workloads", workload, "--connections", "8", "--servers", *CLIPPER)
    assert "Not measured" not in output
    first_table = rows(output.partition("CPU seconds per 1,000 requests, by program")[0])
    assert first_table.keys() >= set(CLIPPER)
    for server in CLIPPER:
        *_, errors, defaults = first_table[server]
        assert (errors, defaults) == ("0", "0")


@needs_wrk
def test_open_loop_at_a_rate() -> None:
    output = run("compare", "--workloads", "10 doubles", "--servers", "--open", "yardstick", "clipper", "--rate", "200")
    assert "10 doubles, open loop, 200 requests/s offered" in output
    assert "Not measured" not in output


@needs_wrk
def test_workers_answer_without_errors() -> None:
    found = rows(run("workers", "--connections", "16"))
    for workers in ("1", "2"):
        *_, errors, defaults = found[workers]
        assert (errors, defaults) == ("0", "0")


def test_each_query_of_a_soak_is_answered_once_by_its_own_answer() -> None:
    found = rows(run("soak"))
    queries = found["queries"]
    assert found["answered with its id"] == queries
    assert found["predictions by the application"] == found["predictions by the model"] == queries


def test_idle_cluster_is_looked_at() -> None:
    assert {"supervisor", "query_frontend", "redis", "all"} <= rows(run("idle")).keys()
