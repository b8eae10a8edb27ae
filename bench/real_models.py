"""Clipper beside other servers on real models: one replica, the same code, one thread of computation.

Closed loops (wrk) with 1 to 256 connections show throughput. Open loops, Poisson and in bursts, show the share of
queries that were answered by the model within the SLO, by the client's clock. Clipper runs once for each SLO, since it
is told; peers have none, so one run of theirs is judged by each SLO. The servers take turns in each round.

    python -m bench.real_models --models random-forest --servers clipper mosec  # about 12 minutes
"""

import itertools
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from bench import open_loop, report, workloads, wrk
from bench.batching import MOST_CONNECTIONS, SPARE_CONNECTIONS
from bench.models import scikit
from bench.open_loop import Load, Outcome, Result
from bench.programs import Bystanders, ProgramFailed
from bench.report import Table, median, progress
from bench.servers import PEERS, SERVERS, Running, Served, serving, versions
from bench.workloads import MARK, Workload

CLIPPER: Final = "clipper"
MODELS: Final = ("random-forest", "boosted-trees", scikit.CONVNET)
CONNECTIONS: Final = (1, 2, 4, 16, 64, 256)
SLOS_MILLIS: Final = (20.0, 50.0, 100.0)
ARRIVALS: Final = ("poisson", "bursts")
_CLOSED: Final = "closed"
_MAX_BATCH_SIZE: Final = 256
"""The most connections of a closed loop: a peer may answer all of them in one batch."""
_NUMBERS_PER_RUN: Final = 1_000_000
_PACKAGES: Final[dict[str, tuple[str, ...]]] = {scikit.CONVNET: ("torch", "numpy")}
_PACKAGES_OF_SCIKIT: Final = ("scikit-learn", "numpy")


class Run(NamedTuple):
    """The results of a load on a server, judged by one SLO."""

    round: int
    model: str
    server: str
    arrivals: str
    """How queries of an open loop came, or "closed"."""
    connections: int
    """The number of queries in a closed loop; 0 in an open one."""
    rate: float
    """Offered per second by an open loop; 0 in a closed one."""
    slo_millis: float
    """0 in a closed loop."""
    requests_per_second: float
    share: float
    """The part of all queries that the model answered within the SLO; of a closed loop, the part without an error."""
    p50_millis: float
    p99_millis: float
    cpu_seconds_per_1000: float
    cores_of_others: float
    """Used by programs that are no part of the benchmark."""


class Session:
    """A server that serves a model, and the loads on it."""

    def __init__(self, round: int, model: str, name: str, running: Running, firsts: Iterator[int]) -> None:
        self._round, self._model, self._name, self._running, self._firsts = round, model, name, running, firsts
        self._body = workloads.body(_WORKLOAD, SERVERS[name].dialect)

    def closed(self, connections: int, seconds: float) -> Run:
        before, bystanders = self._cpu_seconds(), Bystanders()
        defaults = self._running.defaults()
        seen = wrk.run(self._running.port, self._running.path, self._body, connections, seconds, next(self._firsts))
        if not seen.requests:
            raise ProgramFailed(f"{self._name} answered nothing at all to {connections} connections")
        cpu = self._cpu_seconds() - before
        wrong = seen.bad_status + seen.failed + self._running.defaults() - defaults
        return Run(
            self._round,
            self._model,
            self._name,
            _CLOSED,
            connections,
            0.0,
            0.0,
            seen.requests / seen.seconds,
            1 - wrong / seen.requests,
            seen.p50_millis,
            seen.p99_millis,
            1000 * cpu / seen.requests,
            bystanders.cores(cpu),
        )

    def open(self, arrivals: str, rate: float, seconds: float, warm_up: float, slos: Sequence[float]) -> list[Run]:
        load = Load(
            self._running.port,
            self._running.path,
            rate,
            warm_up + seconds,
            connections=min(SPARE_CONNECTIONS + round(0.15 * rate), MOST_CONNECTIONS),
            body=self._body,
            arrivals=arrivals,
            seed=self._round,
            first_input=next(self._firsts),
            grace_seconds=2.0,
        )
        before, bystanders = self._cpu_seconds(), Bystanders()
        whole = open_loop.run(load)
        cpu = self._cpu_seconds() - before
        others = bystanders.cores(cpu)
        result = whole.after(warm_up)
        return [self._judge(result, arrivals, slo, seconds, 1000 * cpu / whole.offered, others) for slo in slos]

    def _judge(self, result: Result, arrivals: str, slo: float, seconds: float, cpu: float, others: float) -> Run:
        return Run(
            self._round,
            self._model,
            self._name,
            arrivals,
            0,
            result.load.rate,
            slo,
            result.count(Outcome.OK) / seconds,
            result.good(slo / 1000) / max(1, result.offered),
            result.latency_millis(50, Outcome.OK),
            result.latency_millis(99, Outcome.OK),
            cpu,
            others,
        )

    def _cpu_seconds(self) -> float:
        return sum(self._running.cpu_seconds().values())


def _digits() -> Workload:
    pixels = b",".join(b"%.4g" % (number / scikit.PIXELS) for number in range(scikit.PIXELS))
    return Workload("digits", "doubles", orjson.Fragment(b"[1.%b,%b]" % (MARK, pixels)))


_WORKLOAD: Final = _digits()


def measure(model: str, file: Path, arguments: Namespace) -> tuple[list[Run], dict[str, str]]:
    """Load each server with one model. Returns the runs, and why servers could not be measured."""
    runs: list[Run] = []
    failures: dict[str, str] = {}
    firsts = itertools.count(0, _NUMBERS_PER_RUN)
    for number in range(1, arguments.rounds + 1):
        for name in arguments.servers:
            try:
                for run in _measure_server(number, model, file, name, arguments, firsts):
                    runs.append(run)
                    progress(_line(run))
            except ProgramFailed as error:
                progress(f"{name} cannot be measured: {error}")
                failures[name] = str(error)
    return runs, failures


def _measure_server(
    number: int, model: str, file: Path, name: str, arguments: Namespace, firsts: Iterator[int]
) -> Iterator[Run]:
    has_slo = name.startswith(CLIPPER)
    for slo in arguments.slos_ms if has_slo else arguments.slos_ms[-1:]:
        served = Served(_WORKLOAD.input_type, file, _packages(model), _MAX_BATCH_SIZE, slo / 1000)
        with serving(name, _WORKLOAD, served) as running:
            session = Session(number, model, name, running, firsts)
            session.closed(arguments.connections[-1], arguments.warm_up_seconds)
            if slo == arguments.slos_ms[-1]:
                for connections in arguments.connections:
                    yield session.closed(connections, arguments.seconds)
            slos = [slo] if has_slo else arguments.slos_ms
            for arrivals, rate in itertools.product(arguments.arrivals, arguments.rates):
                yield from session.open(arrivals, rate, arguments.seconds, arguments.warm_up_seconds, slos)


def _packages(model: str) -> tuple[str, ...]:
    names = _PACKAGES.get(model, _PACKAGES_OF_SCIKIT)
    return tuple(f"{name}=={metadata.version(name)}" for name in names)


def _line(run: Run) -> str:
    load = f"{run.connections} connections" if run.connections else f"{run.arrivals} {run.rate:.0f}/s"
    judged = f", {100 * run.share:.2f} % within {run.slo_millis:g} ms" if run.slo_millis else ""
    return (
        f"round {run.round}: {run.model}, {run.server}, {load}: {run.requests_per_second:.0f}/s{judged}, "
        f"p50 {run.p50_millis:.1f} ms, p99 {run.p99_millis:.1f} ms"
    )


# --- tables ---


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return one table of the closed loops of each model, and one for each SLO and kind of arrivals."""
    made = []
    for model in dict.fromkeys(run.model for run in runs):
        of_model = [run for run in runs if run.model == model]
        made.append(_closed_table(model, [run for run in of_model if run.arrivals == _CLOSED]))
        for arrivals, slo in sorted({(run.arrivals, run.slo_millis) for run in of_model if run.rate}, reverse=True):
            judged = [run for run in of_model if (run.arrivals, run.slo_millis) == (arrivals, slo)]
            made.append(_open_table(model, arrivals, slo, judged))
    return made


def _closed_table(model: str, runs: Sequence[Run]) -> Table:
    made = Table(
        f"{model}, closed loop",
        ["server", "connections", "requests/s", "of Clipper's", "p50 ms", "p99 ms", "CPU s/1,000", "wrong"],
    )
    for server, connections in dict.fromkeys((run.server, run.connections) for run in runs):
        same = [run for run in runs if (run.server, run.connections) == (server, connections)]
        clippers = {run.round: run for run in runs if (run.server, run.connections) == (CLIPPER, connections)}
        ratios = [
            run.requests_per_second / clippers[run.round].requests_per_second for run in same if run.round in clippers
        ]
        figures = [median(getattr(run, name) for run in same) for name in _FIGURES]
        wrong = f"{100 * (1 - median(run.share for run in same)):.2g} %"
        made.rows.append([server, connections, figures[0], median(ratios), *figures[1:], wrong])
    return made


_FIGURES: Final = ("requests_per_second", "p50_millis", "p99_millis", "cpu_seconds_per_1000")


def _open_table(model: str, arrivals: str, slo: float, runs: Sequence[Run]) -> Table:
    rates = sorted({run.rate for run in runs})
    made = Table(
        f"{model}, open loop ({arrivals}): share answered by the model within {slo:g} ms",
        ["server", *(f"{rate:,.0f}/s" for rate in rates)],
    )
    for server in dict.fromkeys(run.server for run in runs):
        shares = [median(run.share for run in runs if (run.server, run.rate) == (server, rate)) for rate in rates]
        made.rows.append([server, *(f"{100 * share:.1f} %" for share in shares)])
    return made


def curves(runs: Sequence[Run], figure: str, along: str) -> dict[str, dict[float, float]]:
    """Return medians of a figure by server, along connections or the offered rate."""
    found: dict[str, dict[float, float]] = {}
    for server, at in dict.fromkeys((run.server, getattr(run, along)) for run in runs):
        values = (getattr(run, figure) for run in runs if (run.server, getattr(run, along)) == (server, at))
        found.setdefault(server, {})[at] = median(values)
    return found


# --- the program ---


def _add_arguments(parser: Any) -> None:
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all")
    parser.add_argument("--servers", nargs="+", choices=list(SERVERS), default=[CLIPPER, *PEERS])
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, help="of the closed loops")
    parser.add_argument("--rates", type=float, nargs="*", default=[500, 1000, 2000, 4000, 8000], help="offered/s")
    parser.add_argument("--arrivals", nargs="+", choices=ARRIVALS, default=ARRIVALS, help="default: both")
    parser.add_argument("--slos-ms", type=float, nargs="+", default=SLOS_MILLIS, help="in ascending order")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load; default: %(default)g")
    parser.add_argument("--warm-up-seconds", type=float, default=2.0, help="default: %(default)g")


def main() -> None:
    parser = report.parser("real_models", __doc__)
    _add_arguments(parser)
    arguments = report.parse(parser)
    if not wrk.is_installed():
        parser.error("wrk is missing: apt-get install wrk")
    if arguments.quick:
        arguments.rounds, arguments.rates, arguments.connections = 1, [200.0], [1, 16]
        arguments.seconds = arguments.warm_up_seconds = 1.0
    runs: list[Run] = []
    failures: dict[str, dict[str, str]] = {}
    what: dict[str, str] = {}
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            what[model] = scikit.train(model, Path(folder))
            progress(f"{model}: {what[model]}")
            measured, failures[model] = measure(model, scikit.saved_in(Path(folder)), arguments)
            runs += measured
    found = {run.server: versions(run.server, _packages(run.model)) for run in runs}
    raw = {"models": what, "runs": [run._asdict() for run in runs], "failures": failures, "versions": found}
    report.finish("real_models", arguments, tables(runs), raw)


if __name__ == "__main__":
    main()
