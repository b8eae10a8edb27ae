"""Open-loop load: queries come at a rate of their own, as users do, and do not wait for earlier answers.

As a program: offer a load to a running query frontend (--port, --path), or measure the generator itself (--ceiling).
"""

import random
from argparse import Namespace
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from bench import generator, report
from bench.programs import HOST, Program, free_port, listens, python, wait_until
from bench.report import Table, percentile, progress
from bench.workloads import MARK

_OVERHEAD_SECONDS: Final = 30.0
_CEILING_RATES: Final = (10000, 20000, 30000, 40000, 50000, 60000, 70000, 80000, 100000)
_MAX_LATENESS_SECONDS: Final = 0.005
_BURST_FACTOR: Final = 4.0
"""The rate in a burst, in multiples of the mean."""
_BURST_PART: Final = 0.1
"""The part of each second that is a burst."""


class Outcome(IntEnum):
    """The result of a query."""

    OK = 0
    """Answered by the model."""
    DEFAULT = 1
    ERROR = 2
    """The queries with another status than 200, or whose connection failed."""
    UNANSWERED = 3
    WRONG = 4
    """Answered by the model with another output than the number in the input, where that is looked for."""


TABLED: Final = (Outcome.OK, Outcome.DEFAULT, Outcome.ERROR, Outcome.UNANSWERED)
"""The columns of tables."""


@dataclass(frozen=True)
class Load:
    """The offered load: `rate` queries per second for `seconds`, no two with the same input."""

    port: int
    path: str
    rate: float
    seconds: float
    connections: int = 64
    elements: int = 1
    """Numbers in an input."""
    body: bytes | None = None
    """The body to send instead of such inputs, with another number in place of `MARK` each time."""
    arrivals: str = "poisson"
    """The kind of arrivals: "poisson", "uniform" (equal gaps) or "bursts" (Poisson, a tenth of each second at four
    times the mean)."""
    seed: int = 1
    first_input: int = 0
    """The number of the first input; with the same number, the inputs are the same."""
    grace_seconds: float = 3.0
    """Seconds to wait for answers after the last query."""
    host: str = HOST
    """The IPv4 address of the query frontend."""
    is_echoed: bool = False
    """Whether the model is to answer with the number in the input."""
    keeps_outputs: bool = False
    """Whether outputs, of which there are a few different ones, are counted among the reasons."""


@dataclass
class Result:
    """The results of all queries, in the order in which they were due."""

    load: Load
    started: float
    """The time of the start on the system's monotonic clock."""
    due: Any
    """Seconds from the start until each query was due."""
    latency: Any
    """Seconds from when it was due until its answer."""
    lateness: Any
    """Seconds by which it was sent later than due."""
    outcome: Any
    reason: Any
    """The index of its reason in `reasons`; -1 if it has none."""
    reasons: dict[str, int]
    """The reasons of defaults and errors, and the outputs that were counted."""
    surplus: int
    """Answers without a query."""
    cpu_seconds: float
    """CPU time of the generator."""

    def after(self, seconds: float) -> "Result":
        """Return only the queries that were due since then."""
        late = self.due >= seconds
        kept = {name: getattr(self, name)[late] for name in ("due", "latency", "lateness", "outcome", "reason")}
        return Result(**(vars(self) | kept))

    @property
    def offered(self) -> int:
        return len(self.due)

    def count(self, outcome: Outcome) -> int:
        return int((self.outcome == outcome).sum())

    def good(self, slo_seconds: float) -> int:
        """Answers by the model within the SLO."""
        return int(((self.outcome == Outcome.OK) & (self.latency <= slo_seconds)).sum())

    def latency_millis(self, rank: float, *outcomes: Outcome) -> float:
        """A percentile of the latency of answers."""
        wanted = np.isin(self.outcome, outcomes or (Outcome.OK, Outcome.DEFAULT))
        return percentile(self.latency[wanted] * 1000, rank)

    def lateness_millis(self, rank: float) -> float:
        return percentile(self.lateness * 1000, rank)


class RunningLoad:
    """A load that is being offered by a process of its own. A context manager."""

    def __init__(self, load: Load) -> None:
        self._load = load
        body = load.body or _numbers(load)
        self._generator = generator.Running(
            load.port,
            load.path,
            body,
            load.connections,
            arrivals(load),
            first=load.first_input,
            grace=load.grace_seconds,
            host=load.host,
            **{name: True for name, on in (("echo", load.is_echoed), ("outputs", load.keeps_outputs)) if on},
        )

    def end(self) -> None:
        """Offer no further queries. The result has those that were due until now."""
        self._generator.end()

    def result(self) -> Result:
        """Wait for the end of the load."""
        seconds = self._load.seconds + self._load.grace_seconds + _OVERHEAD_SECONDS
        found = self._generator.result(seconds)
        return Result(load=self._load, **{name: value for name, value in vars(found).items() if name != "ended"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._generator.__exit__(kind, error, at)


def _numbers(load: Load) -> bytes:
    rest = random.Random(load.seed)
    return b'{"input":[1.%b' % MARK + b"".join(b",%.17g" % rest.random() for _ in range(load.elements - 1)) + b"]}"


def arrivals(load: Load) -> Any:
    """When each query is due, in seconds."""
    if load.arrivals == "uniform":
        return np.arange(round(load.rate * load.seconds)) / load.rate
    gaps = np.random.default_rng(load.seed)
    many = round(load.rate * load.seconds * 1.2) + 100
    times = np.cumsum(gaps.exponential(1 / load.rate, many))
    if load.arrivals == "bursts":
        times = _in_bursts(times)
    return times[times < load.seconds]


def _in_bursts(times: Any) -> Any:
    """Move arrivals of a constant rate within their seconds, so that the rate rises in the first part of each."""
    second = np.floor(times)
    at_rates = [0.0, _BURST_FACTOR * _BURST_PART, 1.0]
    return second + np.interp(times - second, at_rates, [0.0, _BURST_PART, 1.0])


def run(load: Load) -> Result:
    with RunningLoad(load) as running:
        return running.result()


# --- the program ---


def summary(results: list[Result], title: str) -> Table:
    made = Table(
        title,
        ["offered/s", "queries", "ok", "default", "error", "unanswered", "p50 ms", "p99 ms", "sent late p99 ms"]
        + ["generator's CPU µs/query"],
    )
    for result in results:
        latencies = [result.latency_millis(50), result.latency_millis(99), result.lateness_millis(99)]
        counts = [result.count(outcome) for outcome in TABLED]
        micros = 1e6 * result.cpu_seconds / max(1, result.offered)
        made.rows.append([result.load.rate, result.offered, *counts, *latencies, micros])
    return made


def measure_ceiling(arguments: Namespace, *options: str) -> list[Result]:
    """Raise the rate against a server that costs little, until the generator or the server is too slow."""
    port = free_port()
    results: list[Result] = []
    with Program(python("bench.yardstick", f"--port={port}", *options)) as server:
        wait_until("the server listens", lambda: listens(port), [server])
        for rate in _CEILING_RATES:
            progress(f"{rate}/s")
            load = Load(port, "/x/predict", rate, arguments.seconds, arguments.connections, arguments.elements)
            results.append(run(load))
            if results[-1].lateness_millis(90) > 1000 * _MAX_LATENESS_SECONDS:
                break
    return results


def main() -> None:
    parser = report.parser("open_loop", __doc__)
    parser.add_argument("--ceiling", action="store_true", help="how much can the generator offer on this machine?")
    parser.add_argument("--port", type=int, help="of the query frontend")
    parser.add_argument("--path", default="/bench/predict", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=1000.0, help="queries per second; default: %(default)g")
    parser.add_argument("--seconds", type=float, default=5.0, help="default: %(default)g")
    parser.add_argument("--connections", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--elements", type=int, default=10, help="doubles in an input; default: %(default)s")
    parser.add_argument("--arrivals", choices=["poisson", "uniform", "bursts"], default="poisson")
    parser.add_argument("--seed", type=int, default=1)
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.seconds = 1.0
    if not arguments.ceiling and not arguments.port:
        parser.error("--port or --ceiling is needed")
    if arguments.ceiling:
        tables = [
            summary(measure_ceiling(arguments), "Against the yardstick"),
            summary(measure_ceiling(arguments, "--constant"), "Against a server that answers constant bytes"),
        ]
    else:
        load = Load(
            arguments.port,
            arguments.path,
            arguments.rate,
            arguments.seconds,
            arguments.connections,
            arguments.elements,
            arguments.arrivals,
            arguments.seed,
        )
        tables = [summary([run(load)], f"Load on {arguments.path}")]
    report.finish("open_loop", arguments, tables)


if __name__ == "__main__":
    main()
