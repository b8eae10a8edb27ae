"""Kill -9 of each program of a cluster in turn, under load: what do clients see, and how long until all is well again?

The cluster is ProcessContainerManager's, with two replicas of a model that sleeps 5 ms + 0.1 ms for each input, and an
SLO of 100 ms. Well again is a client after the last answer that was not the model's, if 50 good ones follow to the end
of the load; a program, when it does its work again. In the end the cluster is stopped and nothing may be left.
"""

import contextlib
import itertools
import os
import signal
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from bench import report
from bench.cluster import SLEEPER
from bench.open_loop import TABLED, Load, Outcome, Result, RunningLoad
from bench.programs import ProgramFailed, http, listens, wait_until
from bench.report import Table, progress
from clipper_admin import ClipperConnection, ClipperException, ProcessContainerManager
from clipper_admin.process import programs, supervisor_client
from clipper_admin.process.processes import ENV_CLUSTER_ID
from clipper_admin.process.state import Cluster, ClusterFiles

NAME: Final = "bench-kill"
APP: Final = "sleeper"
MODEL: Final = "sleeper"
REPLICAS: Final = 2
SLO_MICROS: Final = 100_000
GOOD_IN_A_ROW: Final = 50
BEFORE_SECONDS: Final = 2.5
"""Seconds from the start of the load generator until the kill; its first queries come after about half a second."""

_probe_names = (f"probe-{number}" for number in itertools.count())


class Victims:
    """The programs of the cluster: which processes they are, and how to tell that they work."""

    def __init__(self, connection: ClipperConnection) -> None:
        self.connection = connection
        self.files = ClusterFiles(NAME)
        cluster = self.files.read_cluster()
        assert cluster is not None
        self.cluster: Cluster = cluster

    def pid(self, program: str) -> int:
        status = self.files.status(program)
        return status.pid if status else 0

    def supervisor_pid(self) -> int:
        return int(self.files.supervisor.read_text())

    def a_worker(self) -> int:
        workers = psutil.Process(self.pid(programs.QUERY_FRONTEND)).children()
        return workers[0].pid if workers else 0

    def a_replica(self) -> str:
        return self.files.replicas(MODEL, "1")[0].id

    def connected(self) -> set[str]:
        return set(self.connection.get_all_model_replicas())

    def kill(self, pid: int) -> float:
        """Kill a process of this cluster; when, on the system's monotonic clock."""
        if psutil.Process(pid).environ().get(ENV_CLUSTER_ID) != self.cluster.id:
            raise ProgramFailed(f"process {pid} is not of this cluster")
        os.kill(pid, signal.SIGKILL)
        return time.monotonic()

    # --- what tells that they work ---

    def queries_are_answered(self) -> bool:
        return http(self.cluster.query_port, "/readyz")[0] == 200

    def management_answers(self) -> bool:
        return http(self.cluster.management_port, "/admin/ping")[0] == 200

    def metrics_are_served(self) -> bool:
        return http(self.cluster.metric_port, "/metrics")[0] == 200

    def a_change_takes_effect(self) -> bool:
        name = next(_probe_names)
        self.connection.register_application(name, "doubles", "-1", SLO_MICROS)
        wait_until(f"{name} is served", lambda: http(self.cluster.query_port, f"/{name}/predict", b"{}")[0] == 400)
        self.connection.unregister_application(name)
        return True

    def is_supervised(self) -> bool:
        self.connection.cm.connect()
        return supervisor_client.is_supervised(self.files)


@dataclass
class Kill:
    """A program to kill, and how to tell that the cluster works again."""

    name: str
    pid: Callable[[], int]
    works: Callable[[], bool]


def kills(victims: Victims) -> Iterator[Kill]:
    """Each program in turn; what is asked when the iterator comes there holds for the cluster as it is then."""
    yield _replica(victims, "a replica")
    yield Kill("a worker of the query frontend", victims.a_worker, victims.queries_are_answered)
    for name, program, works in (
        ("the query frontend", programs.QUERY_FRONTEND, victims.queries_are_answered),
        ("the management frontend", programs.MANAGEMENT_FRONTEND, victims.management_answers),
        ("Redis", programs.REDIS, victims.a_change_takes_effect),
        ("the exporter", programs.EXPORTER, victims.metrics_are_served),
    ):
        yield Kill(name, lambda program=program: victims.pid(program), works)  # type: ignore[misc]
    yield Kill("the supervisor, then connect()", victims.supervisor_pid, victims.is_supervised)
    yield _replica(victims, "a replica, under the new supervisor")


def _replica(victims: Victims, name: str) -> Kill:
    replica = victims.a_replica()
    before = victims.connected()

    def is_replaced() -> bool:
        now = victims.connected()
        return len(now) == REPLICAS and now != before

    return Kill(name, lambda: victims.pid(replica), is_replaced)


@dataclass
class Seen:
    """The effects of a kill."""

    name: str
    load: Result
    killed_at: float
    """Seconds since the load began."""
    program_back_seconds: float

    @property
    def after(self) -> Result:
        return self.load.after(self.killed_at)

    @property
    def client_well_seconds(self) -> float:
        """Until the first answer of the good ones that lasted to the end; 0 when nothing went wrong."""
        after = self.load.after(self.killed_at - SLO_MICROS / 1e6)  # what was in flight suffers too
        bad = np.flatnonzero(after.outcome != Outcome.OK)
        if not len(bad):
            return 0.0
        first = bad[-1] + 1
        if after.offered - first < GOOD_IN_A_ROW:
            return float("nan")
        return float(after.due[first] + after.latency[first] - self.killed_at)


def observe(victims: Victims, kill: Kill, arguments: Namespace) -> Seen:
    load = Load(
        victims.cluster.query_port,
        f"/{APP}/predict",
        arguments.rate,
        BEFORE_SECONDS + arguments.seconds,
        connections=32,
        arrivals="uniform",
    )
    with RunningLoad(load) as running:
        time.sleep(BEFORE_SECONDS)
        old = kill.pid()
        killed = victims.kill(old)
        wait_until(f"{kill.name} works again", lambda: _is_so(kill.works) and kill.pid() not in (0, old))
        back = time.monotonic() - killed
        result = running.result()
    progress(f"killed {kill.name}: back after {back:.2f} s")
    return Seen(kill.name, result, killed - result.started, back)


def _is_so(works: Callable[[], bool]) -> bool:
    with contextlib.suppress(OSError, ClipperException, ProgramFailed):
        return works()
    return False


@contextmanager
def started_cluster() -> Iterator[ClipperConnection]:
    """A cluster with a model, in a folder of its own. It is killed unless the block stopped it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLIPPER_HOME"] = str(Path(folder) / "clipper")
        manager = ProcessContainerManager(NAME, 0, 0, 0, redis_port=0, prometheus_port=0)
        connection = ClipperConnection(manager)
        try:
            connection.start_clipper(cache_size=0, qf_http_timeout_request=60)
            connection.register_application(APP, "doubles", "-1", SLO_MICROS)
            connection.deploy_model(MODEL, "1", "doubles", SLEEPER[-1], num_replicas=REPLICAS)
            connection.link_model_to_app(APP, MODEL)
            wait_until("the model answers", lambda: not connection.predict(APP, [1.0])["default"])
            yield connection
        finally:
            manager.stop_all(graceful=False)


def left_over(victims: Victims, home: Path) -> dict[str, Any]:
    """Count the processes, files and listening ports that a stopped cluster left."""
    processes = [process.pid for process in psutil.process_iter() if _is_of(process, victims.cluster.id)]
    files = [str(path.relative_to(home)) for path in home.rglob("*")] if home.exists() else []
    return {
        "processes": len(processes),
        "files": len(files),
        "ports that listen": sum(listens(port) for port in victims.cluster.ports),
    }


def _is_of(process: psutil.Process, cluster_id: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.environ().get(ENV_CLUSTER_ID) == cluster_id)
    return False


# --- tables ---


def table(seen: list[Seen], arguments: Namespace) -> Table:
    made = Table(
        f"Kill -9 under {arguments.rate:g} queries/s: answers to queries since then",
        ["killed", "queries", "ok", "default", "error", "unanswered", "ok p99 ms", "client well after s"]
        + ["program back after s"],
    )
    for kill in seen:
        counts = [kill.after.count(outcome) for outcome in TABLED]
        times = [kill.after.latency_millis(99, Outcome.OK), kill.client_well_seconds, kill.program_back_seconds]
        made.rows.append([kill.name, kill.after.offered, *counts, *times])
    return made


def reasons_table(seen: list[Seen]) -> Table:
    made = Table("What clients were told instead of a prediction", ["killed", "reason", "queries"])
    for kill in seen:
        made.rows += [[kill.name, reason, count] for reason, count in kill.load.reasons.items()]
    return made


def main() -> None:
    parser = report.parser("kill", __doc__)
    parser.add_argument("--rate", type=float, default=200.0, help="queries per second; default: %(default)g")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load after each kill; default: %(default)g")
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.seconds = 3.0
    with started_cluster() as connection:
        victims = Victims(connection)
        seen = [observe(victims, kill, arguments) for kill in kills(victims)]
        connection.stop_all()
        rest = left_over(victims, Path(os.environ["CLIPPER_HOME"]))
    nothing = Table("Left after stop_all()", list(rest), [list(rest.values())])
    raw = [{"name": kill.name, "killed_at": kill.killed_at, "load": vars(kill.load)} for kill in seen]
    report.finish("kill", arguments, [table(seen, arguments), reasons_table(seen), nothing], raw)


if __name__ == "__main__":
    main()
