"""Clipper beside other servers, all with a model that does nothing.

Closed loop (wrk): each round starts each server afresh for each kind of input, warms it up, and loads it with each
number of connections. Open loop (--open): the same constant rate for all, by default half of what the yardstick can do.
CPU seconds are those of all processes of a server. Ratios are medians over the rounds: both servers run in each.
"""

import itertools
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from bench import open_loop, report, workloads, wrk
from bench.open_loop import Load, Outcome
from bench.programs import DISTURBED, Bystanders, ProgramFailed
from bench.report import Table, median, progress
from bench.servers import SERVERS, Running, serving, versions
from bench.workloads import WORKLOADS, Workload

YARDSTICK: Final = "yardstick"
CLIPPER: Final = "clipper"
_PEAK_CONNECTIONS: Final = 64
_WARM_UP_CONNECTIONS: Final = 64
_NUMBERS_PER_RUN: Final = 10_000_000
"""The most queries of a run. The inputs of the next run differ."""
_NUMBERS: Final = 8_000_000_000
_ATTEMPTS: Final = 3


class Run(NamedTuple):
    """The results of a load on a server."""

    round: str
    """Ratios compare runs of the same one."""
    workload: str
    server: str
    connections: int
    rate: float
    """Offered per second by an open loop; 0 for a closed one."""
    requests_per_second: float
    p50_millis: float
    p99_millis: float
    cpu_seconds_per_1000: float
    cpu_by_program: dict[str, float]
    """Seconds per 1,000 requests."""
    errors: int
    """Answers with another status than 200, and requests without an answer."""
    defaults: int
    sent_late_p99_millis: float = 0.0
    cores_of_others: float = 0.0
    """Used by programs that are no part of the benchmark."""


class Failure(NamedTuple):
    """A server that could not be measured."""

    workload: str
    server: str
    error: str


class Comparison:
    """Runs as they are made."""

    def __init__(self, arguments: Namespace) -> None:
        self._arguments = arguments
        self._first = itertools.cycle(range(0, _NUMBERS, _NUMBERS_PER_RUN))
        self.runs: list[Run] = []
        self.failures: list[Failure] = []

    def closed_loops(self, round: str, workload: Workload) -> None:
        for name in self._arguments.servers:
            with self._noting_failure(name, workload), serving(name, workload) as running:
                load = partial(self._closed, running, name, workload, round)
                load(_WARM_UP_CONNECTIONS, self._arguments.warm_up_seconds)
                for connections in self._arguments.connections:
                    self._keep(partial(load, connections, self._arguments.seconds))

    def open_loops(self, round: str, workload: Workload, rate: float) -> None:
        for name in self._arguments.open:
            with self._noting_failure(name, workload), serving(name, workload) as running:
                self._keep(partial(self._open, running, name, workload, round, rate))

    def peak(self, workload: Workload) -> float:
        """Requests per second of the yardstick."""
        rates = [
            run.requests_per_second
            for run in self.runs
            if (run.server, run.workload, run.connections) == (YARDSTICK, workload.name, _PEAK_CONNECTIONS)
        ]
        return median(rates)

    @contextmanager
    def _noting_failure(self, name: str, workload: Workload) -> Iterator[None]:
        try:
            yield
        except ProgramFailed as error:
            progress(f"{name} cannot be measured: {error}")
            self.failures.append(Failure(workload.name, name, str(error)))

    def _keep(self, measure: Callable[[], Run]) -> None:
        """A run during which others used the machine is repeated, a few times at most."""
        for _ in range(1 if self._arguments.quick else _ATTEMPTS):
            run = measure()
            progress(
                f"round {run.round}: {run.server}, {run.workload}, {run.connections} connections: "
                f"{run.requests_per_second:.0f}/s, p99 {run.p99_millis:.2f} ms, "
                f"{run.cpu_seconds_per_1000:.4f} CPU s/1,000"
                + f", {run.cores_of_others:.2f} cores used by others"
                * (run.cores_of_others > DISTURBED)
            )
            if run.cores_of_others <= DISTURBED:
                break
        self.runs.append(run)

    def _closed(
        self, running: Running, name: str, workload: Workload, round: str, connections: int, seconds: float
    ) -> Run:
        body = self._body(name, workload)
        defaults, cpu, bystanders = running.defaults(), running.cpu_seconds(), Bystanders()
        seen = wrk.run(running.port, running.path, body, connections, seconds, next(self._first))
        if not seen.requests:
            raise ProgramFailed(f"{name} answered nothing at all to {connections} connections")
        spent = _per_1000(cpu, running.cpu_seconds(), seen.requests)
        others = bystanders.cores(sum(spent.values()) * seen.requests / 1000)
        return Run(
            round,
            workload.name,
            name,
            connections,
            0.0,
            seen.requests / seen.seconds,
            seen.p50_millis,
            seen.p99_millis,
            sum(spent.values()),
            spent,
            seen.bad_status + seen.failed,
            running.defaults() - defaults,
            cores_of_others=others,
        )

    def _open(self, running: Running, name: str, workload: Workload, round: str, rate: float) -> Run:
        warm_up, seconds = self._arguments.warm_up_seconds, self._arguments.open_seconds
        load = Load(
            running.port,
            running.path,
            rate,
            warm_up + seconds,
            self._arguments.open_connections,
            body=self._body(name, workload),
            arrivals=self._arguments.arrivals,
            first_input=next(self._first),
        )
        cpu, bystanders = running.cpu_seconds(), Bystanders()
        whole = open_loop.run(load)
        spent = _per_1000(cpu, running.cpu_seconds(), whole.offered)
        others = bystanders.cores(sum(spent.values()) * whole.offered / 1000)
        result = whole.after(warm_up)
        return Run(
            round,
            workload.name,
            name,
            load.connections,
            rate,
            (result.count(Outcome.OK) + result.count(Outcome.DEFAULT)) / seconds,
            result.latency_millis(50),
            result.latency_millis(99),
            sum(spent.values()),
            spent,
            result.count(Outcome.ERROR) + result.count(Outcome.UNANSWERED) + result.surplus,
            result.count(Outcome.DEFAULT),
            result.lateness_millis(99),
            others,
        )

    def _body(self, name: str, workload: Workload) -> bytes:
        server = SERVERS[name]
        return workloads.body(workload, server.dialect, server.distinct)


def _per_1000(before: dict[str, float], after: dict[str, float], requests: int) -> dict[str, float]:
    return {name: 1000 * (total - before[name]) / max(1, requests) for name, total in after.items()}


# --- tables ---


def tables(runs: list[Run]) -> list[Table]:
    """Return a table for each load."""
    return [_table(of_load) for of_load in by_load(runs).values()]


def by_load(runs: list[Run]) -> dict[tuple[bool, str, int], list[Run]]:
    """Closed loops first."""
    loads = sorted({_load(run) for run in runs}, key=lambda load: (load[0], list(WORKLOADS).index(load[1]), load[2]))
    return {load: [run for run in runs if _load(run) == load] for load in loads}


def _load(run: Run) -> tuple[bool, str, int]:
    return run.rate > 0, run.workload, run.connections


def _table(runs: list[Run]) -> Table:
    return _open_table(runs) if runs[0].rate else _closed_table(runs)


def _closed_table(runs: list[Run]) -> Table:
    one = runs[0]
    made = Table(
        f"{one.workload}, {one.connections} connection{'s' * (one.connections > 1)}, closed loop; {_rounds(runs)}",
        ["server", "requests/s", "of the yardstick", "of Clipper", "CPU s/1,000", "of the yardstick's"]
        + ["p50 ms", "of the yardstick's", "p99 ms", "errors", "defaults"],
    )
    for name, of_server in _by_server(runs).items():
        made.rows.append(
            [
                name,
                median(run.requests_per_second for run in of_server),
                ratio(runs, name, YARDSTICK),
                ratio(runs, name, CLIPPER),
                median(run.cpu_seconds_per_1000 for run in of_server),
                ratio(runs, name, YARDSTICK, "cpu_seconds_per_1000"),
                median(run.p50_millis for run in of_server),
                ratio(runs, name, YARDSTICK, "p50_millis"),
                median(run.p99_millis for run in of_server),
                sum(run.errors for run in of_server),
                sum(run.defaults for run in of_server),
            ]
        )
    return made


def _open_table(runs: list[Run]) -> Table:
    offered = median(run.rate for run in runs)
    made = Table(
        f"{runs[0].workload}, open loop, {offered:,.0f} requests/s offered; {_rounds(runs)}",
        ["server", "answered/s", "p50 ms", "above the yardstick's", "p99 ms", "above the yardstick's"]
        + ["sent late p99 ms", "CPU s/1,000", "errors", "defaults"],
    )
    for name, of_server in _by_server(runs).items():
        made.rows.append(
            [
                name,
                median(run.requests_per_second for run in of_server),
                median(run.p50_millis for run in of_server),
                difference(runs, name, YARDSTICK, "p50_millis"),
                median(run.p99_millis for run in of_server),
                difference(runs, name, YARDSTICK, "p99_millis"),
                median(run.sent_late_p99_millis for run in of_server),
                median(run.cpu_seconds_per_1000 for run in of_server),
                sum(run.errors for run in of_server),
                sum(run.defaults for run in of_server),
            ]
        )
    return made


def _rounds(runs: list[Run]) -> str:
    count = len({run.round for run in runs})
    disturbed = sum(run.cores_of_others > DISTURBED for run in runs)
    note = f"; other programs disturbed {disturbed} of {len(runs)} runs" if disturbed else ""
    return f"medians of {count} round{'s' * (count > 1)}{note}"


def _by_server(runs: list[Run]) -> dict[str, list[Run]]:
    names = sorted({run.server for run in runs}, key=list(SERVERS).index)
    return {name: [run for run in runs if run.server == name] for name in names}


def ratio(runs: Iterable[Run], server: str, other: str, figure: str = "requests_per_second") -> float:
    """Median of the rounds' ratios: what disturbs a round disturbs both."""
    return median(mine / its for mine, its in pairs(runs, server, other, figure))


def difference(runs: Iterable[Run], server: str, other: str, figure: str) -> float:
    """Return the difference between the medians: a stall of the machine in one run is no difference of the servers."""
    both = list(pairs(runs, server, other, figure))
    return median(mine for mine, _ in both) - median(its for _, its in both)


def pairs(runs: Iterable[Run], server: str, other: str, figure: str) -> Iterator[tuple[float, float]]:
    """The figure of both, for each round that has both."""
    by_round = {(run.round, run.server): getattr(run, figure) for run in runs}
    for round, name in by_round:
        if name == server and (round, other) in by_round:
            yield by_round[round, server], by_round[round, other]


def cpu_table(runs: list[Run]) -> Table:
    """Return a table of how Clipper spends its CPU time."""
    own = [run for run in runs if len(run.cpu_by_program) > 1]
    programs = list(dict.fromkeys(name for run in own for name in run.cpu_by_program))
    made = Table("CPU seconds per 1,000 requests, by program", ["server", "input", "connections", "loop", *programs])
    for (is_open, workload, connections), of_load in by_load(own).items():
        for server, of_server in _by_server(of_load).items():
            spent = [run.cpu_by_program for run in of_server]
            figures = [median(by_program[name] for by_program in spent if name in by_program) for name in programs]
            made.rows.append([server, workload, connections, "open" if is_open else "closed", *figures])
    return made


def failure_table(failures: list[Failure]) -> Table:
    made = Table("Not measured", ["server", "input", "why"])
    for failure in failures:
        made.rows.append([failure.server, failure.workload, failure.error.replace("\n", " ").replace("|", "/")])
    return made


def version_table(found: dict[str, dict[str, str]]) -> Table:
    made = Table("Versions", ["server", "packages"])
    for name, packages in found.items():
        made.rows.append([name, ", ".join(f"{package} {version}" for package, version in packages.items())])
    return made


# --- the program ---


def compare(arguments: Namespace) -> Comparison:
    comparison = Comparison(arguments)
    for number in range(1, arguments.rounds + 1):
        for name in arguments.workloads:
            comparison.closed_loops(str(number), WORKLOADS[name])
    for name in arguments.workloads if arguments.open else []:
        rate = arguments.rate or arguments.part * comparison.peak(WORKLOADS[name])
        for number in range(1, arguments.repetitions + 1):
            comparison.open_loops(str(number), WORKLOADS[name], rate)
    return comparison


def _add_arguments(parser: Any) -> None:
    parser.add_argument("--servers", nargs="*", choices=list(SERVERS), default=[YARDSTICK, "ceiling", CLIPPER])
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["10 doubles", "784 doubles"])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--rounds", type=int, default=3, help="of the closed loops; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each closed loop; default: %(default)g")
    parser.add_argument("--warm-up-seconds", type=float, default=5.0, help="default: %(default)g")
    parser.add_argument("--open", nargs="*", choices=list(SERVERS), default=[], help="servers to load by an open loop")
    parser.add_argument(
        "--part", type=float, default=0.5, help="its rate, of the yardstick's peak; default: %(default)g"
    )
    parser.add_argument("--rate", type=float, help="its rate in requests per second, instead of --part")
    parser.add_argument("--repetitions", type=int, default=5, help="of the open loops; default: %(default)s")
    parser.add_argument("--open-seconds", type=float, default=10.0, help="of each open loop; default: %(default)g")
    parser.add_argument("--open-connections", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--arrivals", choices=["uniform", "poisson"], default="uniform", help="default: %(default)s")
    parser.add_argument("--list", action="store_true", help="say what the servers are, and end")


def main() -> None:
    parser = report.parser("compare", __doc__)
    _add_arguments(parser)
    arguments = report.parse(parser)
    if arguments.list:
        print("\n".join(f"{name:18}{server.what}" for name, server in SERVERS.items()))
        return
    if not wrk.is_installed():
        parser.error("wrk is missing: apt-get install wrk")
    needs_peak = arguments.open and not arguments.rate
    if needs_peak and (YARDSTICK not in arguments.servers or _PEAK_CONNECTIONS not in arguments.connections):
        parser.error(f"--open needs --rate, or {YARDSTICK} among the servers and {_PEAK_CONNECTIONS} connections")
    if arguments.quick:
        arguments.rounds = arguments.repetitions = 1
        arguments.seconds = arguments.warm_up_seconds = arguments.open_seconds = 1.0
    comparison = compare(arguments)
    found = {name: versions(name) for name in dict.fromkeys(run.server for run in comparison.runs)}
    raw = {
        "runs": [run._asdict() for run in comparison.runs],
        "failures": [failure._asdict() for failure in comparison.failures],
        "versions": found,
    }
    made = [*tables(comparison.runs), cpu_table(comparison.runs), version_table(found)]
    if comparison.failures:
        made.append(failure_table(comparison.failures))
    report.finish("compare", arguments, made, raw)


if __name__ == "__main__":
    main()
