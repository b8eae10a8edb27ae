"""What does a second worker bring? The same closed loop against a query frontend of one worker, and of several.

The model does nothing. Where the machine has no idle core left, requests per second say little, since load generator,
container and workers share it: there CPU time per request tells whether workers are in each other's way.
"""

from argparse import Namespace
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
    workers: int
    requests_per_second: float
    p99_millis: float
    frontend_micros: float
    """CPU time of the query frontend per request."""
    container_micros: float
    busy_percent: float
    """Of the whole machine."""
    errors: int
    defaults: int
    cores_of_others: float


def measure(workers: int, arguments: Namespace, first: int) -> Run:
    workload = workloads.WORKLOADS[arguments.workload]
    body, path = workloads.body(workload), f"/{_APP}/predict"
    with Cluster(input_type=workload.input_type, workers=workers) as cluster:
        cluster.serve(_APP, _SLO_SECONDS, NOOP)
        cluster.wait_until_all_serve(_APP, workers)
        wrk.run(cluster.query_port, path, body, arguments.connections, _WARM_UP_SECONDS, first)
        psutil.cpu_percent()
        defaults, before, bystanders = cluster.defaults(_APP), cluster.cpu_seconds(), Bystanders()
        seen = wrk.run(cluster.query_port, path, body, arguments.connections, arguments.seconds, first + 10**8)
        busy, after = psutil.cpu_percent(), cluster.cpu_seconds()
        micros = {name: 1e6 * (after[name] - before[name]) / seen.requests for name in after}
        return Run(
            workers,
            seen.requests / seen.seconds,
            seen.p99_millis,
            micros["query"],
            micros[_APP],
            busy,
            seen.bad_status + seen.failed,
            cluster.defaults(_APP) - defaults,
            bystanders.cores(sum(after[name] - before[name] for name in after)),
        )


def table(runs: list[Run], arguments: Namespace) -> Table:
    rows: list[list[object]] = []
    for workers in arguments.workers:
        of_these = [run for run in runs if run.workers == workers]
        speed = median(run.requests_per_second for run in of_these)
        micros = median(run.frontend_micros for run in of_these)
        rows.append(
            [
                workers,
                speed,
                speed / float(rows[0][1]) if rows else 1.0,  # type: ignore[arg-type]
                micros,
                micros / float(rows[0][3]) if rows else 1.0,  # type: ignore[arg-type]
                median(run.container_micros for run in of_these),
                median(run.p99_millis for run in of_these),
                median(run.busy_percent for run in of_these),
                sum(run.errors for run in of_these),
                sum(run.defaults for run in of_these),
            ]
        )
    columns = ["workers", "requests/s", "ratio", "frontend CPU us/request", "ratio", "container CPU us/request"]
    columns += ["p99 ms", "machine busy %", "errors", "defaults"]
    return Table(f"Workers: {arguments.workload}, {arguments.connections} connections", columns, rows)


def main() -> None:
    parser = report.parser("workers", __doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="default: %(default)s")
    parser.add_argument("--workload", choices=workloads.WORKLOADS, default="784 doubles")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.seconds, arguments.rounds = 1.0, 1
    firsts, runs = count(0, 2 * 10**8), []
    for round in range(arguments.rounds):
        for workers in arguments.workers:
            runs.append(run := measure(workers, arguments, next(firsts) % 10**9))
            progress(
                f"round {round + 1}: {workers} workers: {run.requests_per_second:.0f}/s, "
                f"{run.frontend_micros:.1f} us/request in the frontend, machine {run.busy_percent:.0f} % busy"
                + f", {run.cores_of_others:.2f} cores used by others"
                * (run.cores_of_others > DISTURBED)
            )
    report.finish("workers", arguments, [table(runs, arguments)], [asdict(run) for run in runs])


if __name__ == "__main__":
    main()
