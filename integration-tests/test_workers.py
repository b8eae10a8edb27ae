"""Workers of the query frontend come, go and die under a steady load, and no query fails."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster import ECHO, Cluster
from bench.open_loop import Load, Outcome, Result, RunningLoad
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.alone,
    pytest.mark.integration,
    pytest.mark.usefixtures("load_generator"),
    pytest.mark.timeout(120),
]

RATE = 300.0
SLO_SECONDS = 2.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        cluster.serve("echo", SLO_SECONDS, ECHO)
        yield cluster


def frontend(cluster: Cluster) -> psutil.Process:
    return next(p for p in psutil.Process().children() if f"--port={cluster.query_port}" in p.cmdline())


def wait_for_workers(cluster: Cluster, number: int) -> None:
    def serve() -> bool:
        serving = cluster.metrics()["internal:workers"]["serving"]
        return serving == number == len(frontend(cluster).children())

    wait_for(serve, f"{number} workers serve")


def load(cluster: Cluster, seconds: float, connections: int) -> RunningLoad:
    return RunningLoad(Load(cluster.query_port, "/echo/predict", RATE, seconds, connections, elements=10))


def failures(result: Result) -> dict[str, int]:
    return {
        outcome.name: count for outcome in Outcome if outcome is not Outcome.OK and (count := result.count(outcome))
    }


@pytest.mark.parametrize("connections", [pytest.param(4, marks=pytest.mark.long), 64])
def test_the_number_changes(connections: int, cluster: Cluster) -> None:
    with load(cluster, 20.0, connections) as running:
        for number in (3, 2):
            time.sleep(3.0)  # of steady load
            cluster.manage("set_query_frontend_workers", workers=number)
            wait_for_workers(cluster, number)
        result = running.result()
    assert result.offered > 5000
    assert not failures(result), result.reasons
    assert not result.surplus


def test_a_killed_worker_loses_what_it_was_answering_only(cluster: Cluster) -> None:
    cluster.manage("set_query_frontend_workers", workers=2)
    cluster.wait_until_all_serve("echo", 2)
    with load(cluster, 10.0, 16) as running:
        time.sleep(3.0)  # of steady load
        victim = frontend(cluster).children()[-1]
        os.kill(victim.pid, signal.SIGKILL)
        time.sleep(0.5)
        wait_for_workers(cluster, 2)
        result = running.result()
    found = failures(result)
    assert found.pop("ERROR", 0) <= 8, "no more than it had connections"
    assert not found, result.reasons
    assert set(result.reasons) <= {"the connection was closed"}, "nobody was refused"
