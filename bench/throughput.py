"""How much slower than a bare aiohttp handler is Clipper with a model that does nothing?

Both are loaded by wrk in turn, several rounds of it, so that what else the machine does meets both. CPU seconds are
those of all server processes: the yardstick's one, and Clipper's frontends, Redis and model container.
"""

import random
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from bench import report, wrk
from bench.cluster import Cluster, noop_cluster
from bench.programs import Program, free_port, listens, python, wait_until
from bench.report import Table, median, progress
from clipper_common.constants import DEFAULT_PREDICTION_CACHE_SIZE_BYTES

APP: Final = "bench"
PATH: Final = f"/{APP}/predict"
SLO_SECONDS: Final = 0.5

YARDSTICK: Final = "yardstick"
CLIPPER: Final = "Clipper"
CACHED: Final = "Clipper, cache on"
CACHED_CASES: Final = ((10, 64),)


@dataclass(frozen=True)
class Target:
    """A server under load."""

    port: int
    cpu_seconds: Callable[[], dict[str, float]]
    defaults: Callable[[], int]


class Case(NamedTuple):
    doubles: int
    connections: int
    target: str


class Run(NamedTuple):
    requests_per_second: float
    p50_millis: float
    p99_millis: float
    cpu_seconds_per_1000: float
    cpu_by_program: dict[str, float]
    """Seconds per 1,000 requests."""
    errors: int
    """Answers with another status than 200, and requests without an answer."""
    defaults: int


@contextmanager
def targets() -> Iterator[dict[str, Target]]:
    port = free_port()
    with (
        Program(python("bench.yardstick", f"--port={port}")) as yardstick,
        noop_cluster(APP, SLO_SECONDS) as plain,
        noop_cluster(APP, SLO_SECONDS, DEFAULT_PREDICTION_CACHE_SIZE_BYTES) as cached,
    ):
        wait_until("the yardstick listens", lambda: listens(port), [yardstick])
        yield {
            YARDSTICK: Target(port, lambda: {YARDSTICK: yardstick.cpu_seconds()}, lambda: 0),
            CLIPPER: _target(plain),
            CACHED: _target(cached),
        }


def _target(cluster: Cluster) -> Target:
    return Target(cluster.query_port, cluster.cpu_seconds, lambda: cluster.defaults(APP))


def measure(target: Target, body: Path, connections: int, seconds: float) -> Run:
    cpu, defaults = target.cpu_seconds(), target.defaults()
    seen = wrk.run(target.port, PATH, body, connections, seconds)
    thousands = seen.requests / 1000
    spent = {name: (total - cpu[name]) / thousands for name, total in target.cpu_seconds().items()}
    return Run(
        seen.requests / seen.seconds,
        seen.p50_millis,
        seen.p99_millis,
        sum(spent.values()),
        spent,
        seen.bad_status + seen.failed,
        target.defaults() - defaults,
    )


def cases(arguments: Namespace) -> list[Case]:
    found = []
    for doubles in arguments.doubles:
        for connections in arguments.connections:
            names = [YARDSTICK, CLIPPER] + [CACHED] * ((doubles, connections) in CACHED_CASES)
            found += [Case(doubles, connections, name) for name in names]
    return found


def measure_all(arguments: Namespace, folder: Path) -> dict[Case, list[Run]]:
    """Round after round, each case once in each."""
    runs: dict[Case, list[Run]] = defaultdict(list)
    bodies = {doubles: _write_body(folder, doubles) for doubles in arguments.doubles}
    with targets() as servers:
        for name, target in servers.items():
            progress(f"warming up {name}")
            for body in bodies.values():
                wrk.run(target.port, PATH, body, 16, 1)
        for number in range(arguments.rounds):
            for case in cases(arguments):
                run = measure(servers[case.target], bodies[case.doubles], case.connections, arguments.seconds)
                runs[case].append(run)
                progress(f"round {number + 1}: {case} {run.requests_per_second:.0f}/s")
    return runs


def _write_body(folder: Path, doubles: int) -> Path:
    numbers = random.Random(7)
    path = folder / f"{doubles}.json"
    path.write_bytes(orjson.dumps({"input": [numbers.random() for _ in range(doubles)]}))
    return path


# --- tables ---


def table(runs: dict[Case, list[Run]]) -> Table:
    made = Table(
        "Throughput of a no-op model; medians of the rounds",
        ["doubles", "connections", "server", "requests/s", "of the yardstick", "p50 ms", "p99 ms", "CPU s/1,000"]
        + ["errors", "defaults"],
    )
    for case, of_case in runs.items():
        rate = median(run.requests_per_second for run in of_case)
        ratio = _ratio(of_case, runs[case._replace(target=YARDSTICK)])
        middle = [median(values) for values in zip(*(run[1:4] for run in of_case), strict=True)]
        faults = [sum(run.errors for run in of_case), sum(run.defaults for run in of_case)]
        made.rows.append([case.doubles, case.connections, case.target, rate, ratio, *middle, *faults])
    return made


def _ratio(runs: Sequence[Run], yardstick: Sequence[Run]) -> float:
    """Median of the rounds' ratios: what disturbs a round disturbs both of its runs."""
    pairs = zip(runs, yardstick, strict=True)
    return median(run.requests_per_second / bare.requests_per_second for run, bare in pairs)


def cpu_table(runs: dict[Case, list[Run]]) -> Table:
    names = ["query", APP, "redis", "management"]
    made = Table(
        "CPU seconds per 1,000 requests, by program",
        ["doubles", "connections", "server", "query frontend", "model container", "Redis", "management frontend"],
    )
    for case, of_case in runs.items():
        if case.target != YARDSTICK:
            made.rows.append([*case, *(median(run.cpu_by_program[name] for run in of_case) for name in names)])
    return made


def main() -> None:
    parser = report.parser("throughput", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run; default: %(default)g")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--doubles", type=int, nargs="+", default=[10, 784], help="numbers in an input")
    arguments = report.parse(parser)
    if not wrk.is_installed():
        progress("skipped: wrk is missing (apt-get install wrk)")
        return
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.connections = 1, 1.0, [16, 64]
    with tempfile.TemporaryDirectory() as folder:
        runs = measure_all(arguments, Path(folder))
    raw: list[Any] = [case._asdict() | {"rounds": [run._asdict() for run in found]} for case, found in runs.items()]
    report.finish("throughput", arguments, [table(runs), cpu_table(runs)], raw)


if __name__ == "__main__":
    main()
