"""Measures what a second worker brings: the same closed loop against a query frontend of one worker, and of several.

The model does nothing. Where the machine has no idle core left, requests per second say little, since load generator,
container and workers share it: there CPU time per request tells whether workers are in each other's way.

All stand at the same time and are loaded in turns, and ratios are medians of those of each turn: what else the machine,
or another one on the same hardware, does changes within seconds.
"""

from argparse import Namespace
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count
from typing import Final

import psutil

from bench import report, workloads, wrk
from bench.cluster import NOOP, Cluster
from bench.programs import DISTURBED, Bystanders
from bench.report import Table, median, progress

_APP: Final = "noop"
_SLO_SECONDS: Final = 0.5
_WARM_UP_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Run:
    round: int
    connections: int
    workers: int
    requests_per_second: float
    p99_millis: float
    batch_size: float
    frontend_micros: float
    """CPU time of the query frontend per request."""
    container_micros: float
    busy_percent: float
    """The percentage of all cores of the machine."""
    errors: int
    defaults: int
    cores_of_others: float

    @property
    def micros(self) -> float:
        return self.frontend_micros + self.container_micros


class Load:
    """Never the same input twice."""

    def __init__(self, workload: str) -> None:
        self._body = workloads.body(workloads.WORKLOADS[workload])
        self._firsts = count(0, 10**7)

    def run(self, cluster: Cluster, connections: int, seconds: float) -> wrk.Measurement:
        first = next(self._firsts) % 10**9
        return wrk.run(cluster.query_port, f"/{_APP}/predict", self._body, connections, seconds, first)


def measure(cluster: Cluster, load: Load, round: int, connections: int, workers: int, seconds: float) -> Run:
    defaults, batches, before = cluster.defaults(_APP), _batches(cluster), cluster.cpu_seconds()
    bystanders = Bystanders()
    psutil.cpu_percent()
    seen = load.run(cluster, connections, seconds)
    busy, after = psutil.cpu_percent(), cluster.cpu_seconds()
    others = bystanders.cores(sum(after[name] - before[name] for name in after))
    micros = {name: 1e6 * (after[name] - before[name]) / seen.requests for name in after}
    return Run(
        round,
        connections,
        workers,
        seen.requests / seen.seconds,
        seen.p99_millis,
        seen.requests / (_batches(cluster) - batches),
        micros["query"],
        micros[_APP],
        busy,
        seen.bad_status + seen.failed,
        cluster.defaults(_APP) - defaults,
        others,
    )


def _batches(cluster: Cluster) -> float:
    """Return the number of batches that the model has answered so far."""
    found = cluster.metrics()
    return found[f"model:{_APP}:1:num_predictions"]["count"] / found[f"model:{_APP}:1:batch_size"]["mean"]


def table(runs: list[Run], arguments: Namespace) -> Table:
    rows: list[list[object]] = []
    for connections in arguments.connections:
        alone = [run for run in runs if (run.connections, run.workers) == (connections, arguments.workers[0])]
        for workers in arguments.workers:
            of_these = [run for run in runs if (run.connections, run.workers) == (connections, workers)]
            pairs = list(zip(of_these, alone, strict=True))
            rows.append(
                [
                    connections,
                    workers,
                    median(run.requests_per_second for run in of_these),
                    median(run.requests_per_second / one.requests_per_second for run, one in pairs),
                    median(run.frontend_micros for run in of_these),
                    median(run.frontend_micros / one.frontend_micros for run, one in pairs),
                    median(run.container_micros for run in of_these),
                    median(run.micros / one.micros for run, one in pairs),
                    median(run.batch_size for run in of_these),
                    median(run.p99_millis for run in of_these),
                    median(run.busy_percent for run in of_these),
                    sum(run.errors for run in of_these),
                    sum(run.defaults for run in of_these),
                ]
            )
    columns = ["connections", "workers", "requests/s", "ratio", "frontend CPU us/request", "ratio"]
    columns += ["container CPU us/request", "ratio of both", "queries in a batch", "p99 ms", "machine busy %"]
    return Table(f"Workers: {arguments.workload}", [*columns, "errors", "defaults"], rows)


def main() -> None:
    parser = report.parser("workers", __doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="default: %(default)s")
    parser.add_argument("--workload", choices=workloads.WORKLOADS, default="784 doubles")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 256], help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.seconds, arguments.rounds = 1.0, 1
    runs: list[Run] = []
    load = Load(arguments.workload)
    with ExitStack() as stack:
        clusters = {workers: _start(stack, workers, arguments.workload) for workers in arguments.workers}
        for cluster in clusters.values():
            load.run(cluster, max(arguments.connections), _WARM_UP_SECONDS)
        for round in range(1, arguments.rounds + 1):
            for connections in arguments.connections:
                for workers, cluster in list(clusters.items())[:: 1 if round % 2 else -1]:
                    runs.append(run := measure(cluster, load, round, connections, workers, arguments.seconds))
                    progress(_line(run))
    report.finish("workers", arguments, [table(runs, arguments)], [asdict(run) for run in runs])


def _start(stack: ExitStack, workers: int, workload: str) -> Cluster:
    cluster = stack.enter_context(Cluster(input_type=workloads.WORKLOADS[workload].input_type, workers=workers))
    cluster.serve(_APP, _SLO_SECONDS, NOOP)
    cluster.wait_until_all_serve(_APP, workers)
    return cluster


def _line(run: Run) -> str:
    disturbed = f", {run.cores_of_others:.2f} cores used by others" * (run.cores_of_others > DISTURBED)
    return (
        f"round {run.round}, {run.connections} connections, {run.workers} workers: {run.requests_per_second:.0f}/s, "
        f"{run.frontend_micros:.1f} us/request in the frontend, machine {run.busy_percent:.0f} % busy{disturbed}"
    )


if __name__ == "__main__":
    main()
