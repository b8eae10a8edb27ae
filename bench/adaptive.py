"""Does the learned batch size keep up with the best fixed one?

The model sleeps 5 ms + 0.1 ms for each input of a batch; the SLO is 50 ms. First a sweep: for each fixed batch size,
the rate at which most queries per second are answered by the model within the SLO; the best of all sizes is G. Then the
learned batch size, and the best fixed one beside it, at parts of G: which share of the queries offered is answered
by the model within the SLO? Open-loop load with Poisson arrivals; latency is the client's, from when a query was due.
"""

import math
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from bench import open_loop, report
from bench.cluster import SLEEPER, Cluster
from bench.open_loop import Load, Outcome, Result
from bench.report import Table, median, progress

LEARNED: Final = -1
GROWTH: Final = 1.3
"""The factor between two rates of the search."""
BORNE: Final = 0.95
"""The share of good answers above which the search tries higher rates, and below which lower ones."""
MAX_STEPS: Final = 10
SPARE_CONNECTIONS: Final = 64
CONFIRMATIONS: Final = 3
CONFIRMED_RATES: Final = 3


class Measured(Protocol):
    """The results of a load on a way of batching."""

    @property
    def rate(self) -> float: ...
    @property
    def is_borne(self) -> bool: ...
    @property
    def goodput(self) -> float: ...


AnyPoint = TypeVar("AnyPoint", bound=Measured)


class Point(NamedTuple):
    """The results of a load on a batch size."""

    rate: float
    offered: int
    good: int
    """Answered by the model within the SLO, as the client saw it."""
    ok: int
    """Answered by the model."""
    defaults: int
    errors: int
    p50_millis: float
    p99_millis: float
    lateness_p99_millis: float
    seconds: float

    @property
    def share(self) -> float:
        return self.good / self.offered

    @property
    def is_borne(self) -> bool:
        return self.share >= BORNE

    @property
    def goodput(self) -> float:
        return self.good / self.seconds


class Bench:
    """A cluster, and how it is loaded."""

    def __init__(self, cluster: Cluster, arguments: Namespace) -> None:
        self._cluster = cluster
        self._arguments = arguments
        self._slo_seconds = arguments.slo_ms / 1000

    @contextmanager
    def serving(self, batch_size: int) -> Iterator[str]:
        """An application whose model is given batches of this size, while the context lasts."""
        name = "learned" if batch_size == LEARNED else f"fixed-{batch_size}"
        self._cluster.serve(name, self._slo_seconds, SLEEPER, batch_size, **_model_environment(self._arguments))
        try:
            yield name
        finally:
            self._cluster.retire(name)

    def measure(self, app: str, rate: float, seconds: float, seed: int = 0) -> Point:
        """Measure after a warm-up at the same rate, without a pause between the two. The same seed makes the same
        arrivals."""
        warm_up = self._arguments.warm_up_seconds
        load = Load(
            self._cluster.query_port,
            f"/{app}/predict",
            rate,
            warm_up + seconds,
            connections=SPARE_CONNECTIONS + math.ceil(1.5 * rate * self._slo_seconds),
            elements=self._arguments.elements,
            seed=seed,
        )
        point = self._judge(open_loop.run(load).after(warm_up), seconds)
        progress(
            f"{app} at {rate:.0f}/s: {100 * point.share:.2f} % good, p99 {point.p99_millis:.1f} ms, "
            f"sent late p99 {point.lateness_p99_millis:.1f} ms"
        )
        return point

    def _judge(self, result: Result, seconds: float) -> Point:
        return Point(
            result.load.rate,
            result.offered,
            result.good(self._slo_seconds),
            result.count(Outcome.OK),
            result.count(Outcome.DEFAULT),
            result.count(Outcome.ERROR) + result.count(Outcome.UNANSWERED),
            result.latency_millis(50),
            result.latency_millis(99),
            result.lateness_millis(99),
            seconds,
        )


def _model_environment(arguments: Namespace) -> dict[str, str]:
    return {
        "BENCH_SLEEP_MS": str(arguments.model_ms),
        "BENCH_SLEEP_PER_INPUT_MS": str(arguments.model_ms_per_input),
    }


# --- the sweep over fixed batch sizes ---


def find_peak(
    measure: Callable[[float], AnyPoint], start: float, refinements: int, growth: float = GROWTH
) -> list[AnyPoint]:
    """Points around the highest goodput, best first: a rate that can be borne, one that cannot, and some between."""
    points = [measure(start)]
    factor = growth if points[0].is_borne else 1 / growth
    while points[-1].is_borne == points[0].is_borne and len(points) < MAX_STEPS:
        points.append(measure(points[-1].rate * factor))
    step = math.sqrt(growth)
    middle = min(points[-1].rate, points[-2].rate) * step
    for _ in range(refinements):
        points.append(measure(middle))
        step = math.sqrt(step)
        middle *= step if points[-1].is_borne else 1 / step
    return sorted(points, key=lambda point: point.goodput, reverse=True)


def capacity(arguments: Namespace, batch_size: int) -> float:
    """Queries per second of a model that always gets full batches that can still be in time: where to begin."""
    slo, base, each = arguments.slo_ms, arguments.model_ms, arguments.model_ms_per_input
    size: float = max(1.0, min(batch_size, (slo / 2 - base) / each))
    return float(1000 * size / (base + each * size))


def sweep(bench: Bench, arguments: Namespace) -> dict[int, list[Point]]:
    peaks = {}
    for size in arguments.batch_sizes:
        start = arguments.start * min(capacity(arguments, size), arguments.max_rate)
        with bench.serving(size) as app:
            measure = partial(bench.measure, app, seconds=arguments.sweep_seconds)
            peaks[size] = find_peak(measure, start, arguments.refinements)
    return peaks


def confirm(bench: Bench, arguments: Namespace, best_size: int, rates: list[float]) -> float:
    """The best goodput at the best rates, measured again: the best of many short runs was also the luckiest."""
    with bench.serving(best_size) as app:
        seeds = range(1, CONFIRMATIONS + 1)
        return max(
            median(bench.measure(app, rate, arguments.seconds, seed).goodput for seed in seeds) for rate in rates
        )


# --- learned against best fixed ---


def compare(bench: Bench, arguments: Namespace, best_size: int, goodput: float) -> dict[tuple[float, int], list[Point]]:
    """Points by part of the goodput and batch size."""
    points = defaultdict(list)
    for repetition in range(arguments.repetitions):
        progress(f"repetition {repetition + 1}")
        with bench.serving(LEARNED) as learned, bench.serving(best_size) as fixed:
            for part in arguments.parts:
                for size, app in ((LEARNED, learned), (best_size, fixed)):
                    point = bench.measure(app, part * goodput, arguments.seconds, repetition)
                    points[part, size].append(point)
    return points


# --- tables ---


def sweep_table(peaks: dict[int, list[Point]]) -> Table:
    made = Table(
        "Best goodput of each fixed batch size (answers by the model within the SLO, per second)",
        ["batch size", "goodput/s", "at offered/s", "share good", "p50 ms", "p99 ms"],
    )
    for size, (peak, *_) in peaks.items():
        made.rows.append([size, peak.goodput, peak.rate, peak.share, peak.p50_millis, peak.p99_millis])
    return made


def comparison_table(points: dict[tuple[float, int], list[Point]], best_size: int, goodput: float) -> Table:
    made = Table(
        f"Learned batch size and the best fixed one ({best_size}); G = {goodput:.0f}/s; medians of the repetitions",
        ["of G", "offered/s", "learned: share good", "its worst", "by the model, also late", "p99 ms"]
        + [f"fixed {best_size}: share good", "its worst", "p99 ms", "sent late p99 ms"],
    )
    for part in sorted({part for part, _ in points}):
        learned, fixed = points[part, LEARNED], points[part, best_size]
        row = [part, part * goodput, *_shares(learned), median(p.ok / p.offered for p in learned), _p99(learned)]
        lateness = median(point.lateness_p99_millis for point in learned + fixed)
        made.rows.append([*row, *_shares(fixed), _p99(fixed), lateness])
    return made


def _shares(points: list[Point]) -> tuple[str, str]:
    shares = [point.share for point in points]
    return f"{100 * median(shares):.2f} %", f"{100 * min(shares):.2f} %"


def _p99(points: list[Point]) -> float:
    return median(point.p99_millis for point in points)


def main() -> None:
    parser = report.parser("adaptive", __doc__)
    parser.add_argument("--slo-ms", type=float, default=50.0, help="default: %(default)g")
    parser.add_argument("--model-ms", type=float, default=5.0, help="for a batch; default: %(default)g")
    parser.add_argument("--model-ms-per-input", type=float, default=0.1, help="default: %(default)g")
    parser.add_argument("--elements", type=int, default=1, help="doubles in an input; default: %(default)s")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32, 64, 128, 192, 256, 512])
    parser.add_argument("--parts", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.7, 0.85, 1.0, 1.1, 1.2])
    parser.add_argument("--repetitions", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each repetition; default: %(default)g")
    parser.add_argument("--sweep-seconds", type=float, default=3.0, help="of each run of the sweep")
    parser.add_argument("--warm-up-seconds", type=float, default=2.0, help="before each run; default: %(default)g")
    parser.add_argument("--refinements", type=int, default=3, help="of the rate of a size; default: %(default)s")
    parser.add_argument("--start", type=float, default=0.7, help="first rate, as part of what the model could do")
    parser.add_argument("--max-rate", type=float, default=4000.0, help="no search begins above it")
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.batch_sizes, arguments.parts = [8, 128], [0.4, 0.85]
        arguments.repetitions, arguments.refinements = 1, 1
        arguments.seconds = arguments.sweep_seconds = arguments.warm_up_seconds = 1.0
    run(arguments)


def run(arguments: Namespace) -> None:
    with Cluster() as cluster:
        bench = Bench(cluster, arguments)
        peaks = sweep(bench, arguments)
        best_size = max(peaks, key=lambda size: peaks[size][0].goodput)
        best_rates = [point.rate for point in peaks[best_size][:CONFIRMED_RATES]]
        goodput = confirm(bench, arguments, best_size, best_rates)
        points = compare(bench, arguments, best_size, goodput)
    raw: dict[str, Any] = {
        "sweep": [{"batch_size": size} | point._asdict() for size, found in peaks.items() for point in found],
        "points": [
            {"part": part, "batch_size": size} | point._asdict()
            for (part, size), found in points.items()
            for point in found
        ],
    }
    report.finish("adaptive", arguments, [sweep_table(peaks), comparison_table(points, best_size, goodput)], raw)


if __name__ == "__main__":
    main()
