"""The figures of the paper on batching (NSDI'17, figures 4 and 5) again, on models of scikit-learn.

For each model, with an SLO of 20 ms: without batches (a fixed size of 1); a sweep over fixed sizes, of which the best
has the goodput G; then the policies and the best fixed size at parts of G. Goodput is what the model answered within
the SLO, per second, on the client's clock. Open-loop load with Poisson arrivals; no two inputs are the same. Besides,
batches of one model that wait to fill, under the default policy.

    python -m bench.batching --models linear-svm  # one model, about 5 minutes; without --models all, and delays
    python -m bench.batching --models --delays    # no model, only delays
"""

import math
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import open_loop, report
from bench.adaptive import find_peak
from bench.cluster import Cluster
from bench.models import scikit
from bench.open_loop import Load, Outcome, Result
from bench.programs import DISTURBED, Bystanders, python
from bench.report import Table, median, progress

APP: Final = "bench"
UNBATCHED: Final = "fixed 1"
POLICIES: Final = ("learned", "aimd", "quantile")
DEFAULT: Final = POLICIES[0]
SIZES: Final[dict[str, tuple[int, ...]]] = {"kernel-svm": (2, 4, 8)}
COMMON_SIZES: Final = (16, 64, 256, 512)
SWEEP_GROWTH: Final = 2.0
"""The factor between two rates of the search for the peak of a size."""
CONFIRMED_RATES: Final = 3
COMPARED: Final = 0.85
"""The part of G from which on runs count for a policy's best goodput, and at which good answers are compared."""
DELAYED: Final = "linear-svm"
DELAYS_MILLIS: Final = (0.0, 1.0, 2.0, 4.0)
DELAYED_RATES: Final = (2500.0, 5000.0, 10000.0, 20000.0)
SPARE_CONNECTIONS: Final = 64
MOST_CONNECTIONS: Final = 1500
ATTEMPTS: Final = 4
PAPER: Final = {  # queries per second: AIMD, quantile regression, none
    "no-op": (48386, 46085, 8964),
    "linear-svm": (48934, None, 1921),
    "logistic-regression": (47220, 43954, 1921),
    "random-forest": (22859, 19904, 317),
    "kernel-svm": (198, 189, 204),
}
PAPER_DELAYED: Final = 3.3
BAR_OF_GOODPUT: Final = 0.95
BAR_OF_SHARE: Final = 0.99


class Point(NamedTuple):
    """The results of a load on a way of batching."""

    rate: float
    offered: int
    good: int
    """Answered by the model within the SLO, as the client saw it."""
    defaults: int
    errors: int
    p50_millis: float
    p99_millis: float
    """The latencies of answers by the model."""
    lateness_p99_millis: float
    limit: float
    """The most inputs that a batch could have, at the end."""
    cpu_micros: dict[str, float]
    """CPU time of each program per offered query."""
    cores_of_others: float
    """Used by programs that have nothing to do with it."""
    seconds: float

    @property
    def share(self) -> float:
        return self.good / self.offered

    @property
    def is_borne(self) -> bool:
        return self.share >= 0.95

    @property
    def is_disturbed(self) -> bool:
        return self.cores_of_others > DISTURBED

    @property
    def goodput(self) -> float:
        return self.good / self.seconds


Delayed = dict[tuple[float, float], list[Point]]
"""The points by the offered rate and the delay in ms."""


class Bench:
    """A cluster that serves one model, and how it is loaded."""

    def __init__(self, cluster: Cluster, arguments: Namespace) -> None:
        self._cluster = cluster
        self._arguments = arguments
        self._slo_seconds = arguments.slo_ms / 1000

    def batch(self, policy: str, delay_millis: float = 0.0) -> None:
        """The name of a policy, or "fixed <size>"."""
        name, _, size = policy.partition(" ")
        self._cluster.manage(
            "set_batching",
            model_name=APP,
            model_version="1",
            batch_policy=name,
            batch_size=int(size or -1),
            batch_delay_micros=round(delay_millis * 1000),
        )

    def measure(self, policy: str, rate: float, seconds: float, seed: int = 0, delay_millis: float = 0.0) -> Point:
        """Measure after a warm-up at the same rate, without a pause between the two. The same seed makes the same
        arrivals. A run during which others used the machine is repeated, a few times at most.

        A run during which others used the machine is repeated, a few times at most.
        """
        for _ in range(ATTEMPTS):
            self.batch(policy, delay_millis)
            point = self._measure_once(rate, seconds, seed)
            progress(
                f"{policy}{f', {delay_millis} ms delay' if delay_millis else ''} at {rate:.0f}/s: "
                f"{point.goodput:.0f}/s good ({100 * point.share:.2f} %), p99 {point.p99_millis:.1f} ms, "
                f"limit {point.limit:.0f}, sent late p99 {point.lateness_p99_millis:.1f} ms"
                + (f", {point.cores_of_others:.2f} cores used by others" if point.is_disturbed else "")
            )
            if not point.is_disturbed:
                break
        return point

    def _measure_once(self, rate: float, seconds: float, seed: int) -> Point:
        warm_up = self._arguments.warm_up_seconds
        load = Load(
            self._cluster.query_port,
            f"/{APP}/predict",
            rate,
            warm_up + seconds,
            connections=min(SPARE_CONNECTIONS + math.ceil(1.5 * rate * self._slo_seconds), MOST_CONNECTIONS),
            elements=1 + scikit.PIXELS,
            seed=seed,
            grace_seconds=1.0,
        )
        bystanders, before = Bystanders(), self._cluster.cpu_seconds()
        result = open_loop.run(load)
        used = {name: cpu - before[name] for name, cpu in self._cluster.cpu_seconds().items()}
        others = bystanders.cores(sum(used.values()))
        cpu_micros = {name: 1e6 * cpu / result.offered for name, cpu in used.items()}
        return self._judge(result.after(warm_up), seconds, cpu_micros, others)

    def _judge(self, result: Result, seconds: float, cpu_micros: dict[str, float], others: float) -> Point:
        return Point(
            result.load.rate,
            result.offered,
            result.good(self._slo_seconds),
            result.count(Outcome.DEFAULT),
            result.count(Outcome.ERROR) + result.count(Outcome.UNANSWERED),
            result.latency_millis(50, Outcome.OK),
            result.latency_millis(99, Outcome.OK),
            result.lateness_millis(99),
            self._cluster.metrics()[f"model:{APP}:1:batching"]["limit_mean"],
            cpu_micros,
            others,
            seconds,
        )


@contextmanager
def serving(name: str, arguments: Namespace) -> Iterator[tuple[str, Bench]]:
    """A cluster that serves the model of this name, which is trained before, and what that is."""
    with tempfile.TemporaryDirectory() as folder:
        what = scikit.train(name, Path(folder))
        progress(f"{name}: {what}")
        with Cluster() as cluster:
            cluster.add_application(APP, arguments.slo_ms / 1000)
            cluster.add_model(
                APP,
                python("bench.models.scikit"),
                CLIPPER_MODEL_PATH=folder,
                OMP_NUM_THREADS="1",
                OPENBLAS_NUM_THREADS="1",
            )
            cluster.link(APP, APP)
            yield what, Bench(cluster, arguments)


# --- one model ---


class Findings(NamedTuple):
    """The measurements of one model."""

    name: str
    what: str
    sweep: dict[int, list[Point]]
    """The points by fixed size, the best goodput first."""
    best_size: int
    goodput: float
    """G: that of the best fixed size, measured again."""
    points: dict[tuple[str, float], list[Point]]
    """The points by policy and part of G, repeated."""

    @property
    def best_fixed(self) -> str:
        return f"fixed {self.best_size}"

    @property
    def unbatched(self) -> float:
        return self.sweep[1][0].goodput

    def best_goodput(self, policy: str) -> float:
        """The median over the repetitions of the best of each."""
        runs = [points for (name, part), points in self.points.items() if name == policy and part >= COMPARED]
        return median(max(point.goodput for point in repetition) for repetition in zip(*runs, strict=True))


def investigate(name: str, arguments: Namespace) -> Findings:
    with serving(name, arguments) as (what, bench):
        swept = sweep(bench, arguments.batch_sizes or SIZES.get(name, COMMON_SIZES), arguments)
        best_size = max(swept, key=lambda size: swept[size][0].goodput)
        rates = [point.rate for point in swept[best_size][:CONFIRMED_RATES]]
        goodput = confirm(bench, f"fixed {best_size}", rates, arguments)
        points = compare(bench, f"fixed {best_size}", goodput, arguments)
    return Findings(name, what, swept, best_size, goodput, points)


def sweep(bench: Bench, sizes: Sequence[int], arguments: Namespace) -> dict[int, list[Point]]:
    """Points around the best goodput of each size; the search begins where that of the size before ended."""
    probe = bench.measure(UNBATCHED, arguments.probe_rate, arguments.sweep_seconds)
    start = 1000 / probe.p50_millis
    found: dict[int, list[Point]] = {}
    for size in (1, *sizes):
        measure = partial(bench.measure, f"fixed {size}", seconds=arguments.sweep_seconds)
        found[size] = find_peak(measure, start, arguments.refinements, SWEEP_GROWTH)
        start = found[size][0].rate
    return found


def confirm(bench: Bench, policy: str, rates: Sequence[float], arguments: Namespace) -> float:
    """The best goodput at these rates, measured again: the best of many short runs was also the luckiest."""
    seeds = range(1, arguments.confirmations + 1)
    return max(median(bench.measure(policy, rate, arguments.seconds, seed).goodput for seed in seeds) for rate in rates)


def compare(
    bench: Bench, best_fixed: str, goodput: float, arguments: Namespace
) -> dict[tuple[str, float], list[Point]]:
    points = defaultdict(list)
    for repetition in range(arguments.repetitions):
        progress(f"repetition {repetition + 1}")
        for part in arguments.parts:
            for policy in (DEFAULT, best_fixed, *POLICIES[1:]):
                # The two policies that the bar compares are repeated more often.
                if policy in (DEFAULT, best_fixed) or repetition < arguments.fewer_repetitions:
                    point = bench.measure(policy, part * goodput, arguments.seconds, repetition)
                    points[policy, part].append(point)
    return dict(points)


def delay(arguments: Namespace) -> Delayed:
    points = defaultdict(list)
    with serving(DELAYED, arguments) as (_, bench):
        for repetition in range(arguments.fewer_repetitions):
            for rate in DELAYED_RATES:
                for millis in DELAYS_MILLIS:
                    point = bench.measure(DEFAULT, rate, arguments.seconds, repetition, millis)
                    points[rate, millis].append(point)
    return dict(points)


# --- tables ---


def summary_table(findings: Sequence[Findings]) -> Table:
    made = Table(
        f"Goodput (answers by the model within the SLO, per second) on {scikit.PIXELS} features; medians",
        ["model", "no batches", "best fixed size", *POLICIES, f"{DEFAULT} ÷ best fixed (bar: {BAR_OF_GOODPUT})"]
        + [
            f"{DEFAULT}: good at {COMPARED} G (bar: {BAR_OF_SHARE})",
            f"{DEFAULT} ÷ no batches",
            "the paper's AIMD ÷ none",
        ],
    )
    for one in findings:
        best, fixed = one.best_goodput(DEFAULT), one.best_goodput(one.best_fixed)
        made.rows.append(
            [f"{one.name}: {one.what}", one.unbatched, f"{fixed:,.0f} ({one.best_size})"]
            + [one.best_goodput(policy) for policy in POLICIES]
            + [best / fixed, _share(one.points[DEFAULT, COMPARED]), best / one.unbatched]
            + [PAPER[one.name][0] / PAPER[one.name][2]]
        )
    return made


def cost_table(findings: Sequence[Findings]) -> Table:
    """The bottleneck: a program that uses a whole core cannot do more."""
    made = Table(
        "What bounds it: CPU µs for each query, and the cores in use, of the query frontend and of the model",
        ["model", "no batches, at the best rate: frontend", "model", "cores: frontend", "model"]
        + [f"{DEFAULT}, at G: frontend", "model", "cores: frontend", "model"],
    )
    for one in findings:
        row: list[object] = [one.name]
        for points in ([one.sweep[1][0]], one.points[DEFAULT, 1.0]):
            row += _cost(points)
            row += [median(point.cpu_micros[name] * point.rate / 1e6 for point in points) for name in ("query", APP)]
        made.rows.append(row)
    return made


def sweep_table(one: Findings) -> Table:
    made = Table(
        f"{one.name}: best goodput of each fixed size",
        ["batch size", "goodput/s", "at offered/s", "share good", "p50 ms", "p99 ms"],
    )
    for size, (peak, *_) in one.sweep.items():
        made.rows.append([size, peak.goodput, peak.rate, peak.share, peak.p50_millis, peak.p99_millis])
    return made


def comparison_table(one: Findings) -> Table:
    made = Table(
        f"{one.name}: policies at parts of G = {one.goodput:,.0f}/s",
        ["of G", "policy", "goodput/s", "share good", "its worst", "p50 ms", "p99 ms", "limit", "sent late p99 ms"],
    )
    for (policy, part), points in sorted(one.points.items(), key=lambda item: item[0][1]):
        made.rows.append(
            [part, policy, _median("goodput", points), _share(points)]
            + [f"{100 * min(point.share for point in points):.2f} %"]
            + [_median(name, points) for name in ("p50_millis", "p99_millis", "limit", "lateness_p99_millis")]
        )
    return made


def delay_table(delayed: Delayed) -> Table:
    made = Table(
        f"{DELAYED}, {DEFAULT}: batches that wait to fill (in the paper 2 ms gain {PAPER_DELAYED} × in throughput)",
        ["offered/s", "delay ms", "goodput/s", "share good", "p50 ms", "p99 ms"]
        + ["CPU µs/query: frontend", "model", "both", "both, without a delay ÷ with"],
    )
    for (rate, millis), points in delayed.items():
        cost, undelayed = sum(_cost(points)), sum(_cost(delayed[rate, DELAYS_MILLIS[0]]))
        made.rows.append(
            [rate, millis, _median("goodput", points), _share(points)]
            + [_median("p50_millis", points), _median("p99_millis", points), *_cost(points), cost, undelayed / cost]
        )
    return made


def _median(name: str, points: Sequence[Point]) -> float:
    return median(getattr(point, name) for point in points)


def _share(points: Sequence[Point]) -> str:
    return f"{100 * _median('share', points):.2f} %"


def _cost(points: Sequence[Point]) -> list[float]:
    return [median(point.cpu_micros[name] for point in points) for name in ("query", APP)]


def tables(findings: Sequence[Findings], delayed: Delayed) -> list[Table]:
    made = [summary_table(findings), cost_table(findings)] if findings else []
    for one in findings:
        made += [sweep_table(one), comparison_table(one)]
    return made + ([delay_table(delayed)] if delayed else [])


# --- results and plots ---


def as_raw(one: Findings) -> dict[str, Any]:
    return one._asdict() | {
        "sweep": _rows(one.sweep, "size"),
        "points": _rows(one.points, "policy", "part"),
    }


def from_raw(raw: dict[str, Any]) -> Findings:
    sweep = {key[0]: points for key, points in _groups(raw["sweep"], "size").items()}
    return Findings(**(raw | {"sweep": sweep, "points": _groups(raw["points"], "policy", "part")}))


def _rows(points: dict[Any, list[Point]], *keys: str) -> list[dict[str, Any]]:
    return [
        dict(zip(keys, key if len(keys) > 1 else (key,), strict=True)) | point._asdict()
        for key, group in points.items()
        for point in group
    ]


def _groups(rows: Sequence[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[Point]]:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(Point(**{name: row[name] for name in Point._fields}))
    return dict(groups)


def read(documents: Sequence[dict[str, Any]]) -> tuple[list[Findings], Delayed]:
    """Return what files of results hold, the latest of each model."""
    found: dict[str, Findings] = {}
    delayed: Delayed = {}
    for document in documents:
        found |= {raw["name"]: from_raw(raw) for raw in document["raw"]["models"]}
        delayed = _groups(document["raw"]["delayed"], "offered_rate", "delay_millis") or delayed
    return [found[name] for name in scikit.MODELS if name in found], delayed


def curves(one: Findings) -> dict[str, dict[float, float]]:
    """Goodput by offered rate, of each way of batching: medians."""
    found = {UNBATCHED: one.sweep[1], one.best_fixed: one.sweep[one.best_size]}
    for (policy, _), points in one.points.items():
        found[policy] = found.get(policy, []) + points
    return {policy: _by_rate(points) for policy, points in found.items()}


def _by_rate(points: Sequence[Point]) -> dict[float, float]:
    rates = sorted({point.rate for point in points})
    return {rate: median(point.goodput for point in points if point.rate == rate) for rate in rates}


def main() -> None:
    parser = report.parser("batching", __doc__)
    parser.add_argument("--models", nargs="*", choices=list(scikit.MODELS), help="default: all, and delays")
    parser.add_argument("--delays", action="store_true", help="batches that wait to fill")
    parser.add_argument("--slo-ms", type=float, default=20.0, help="default: %(default)g")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="of the sweep, besides 1; each model has its own")
    parser.add_argument("--parts", type=float, nargs="+", default=[COMPARED, 0.93, 1.0, 1.1])
    parser.add_argument("--repetitions", type=int, default=5, help=f"of {DEFAULT} and the best fixed; default: 5")
    parser.add_argument("--fewer-repetitions", type=int, default=2, help="of all else; default: 2")
    parser.add_argument("--confirmations", type=int, default=3, help="of G; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run; default: %(default)g")
    parser.add_argument("--sweep-seconds", type=float, default=1.5, help="of each run of the sweep")
    parser.add_argument("--warm-up-seconds", type=float, default=1.0, help="before each run; default: %(default)g")
    parser.add_argument("--refinements", type=int, default=2, help="of the rate of a size; default: %(default)s")
    parser.add_argument("--probe-rate", type=float, default=100.0, help="to begin with, without batches")
    arguments = report.parse(parser)
    if arguments.models is None:
        arguments.models, arguments.delays = list(scikit.MODELS), True
    if arguments.quick:
        arguments.models, arguments.batch_sizes, arguments.parts = arguments.models[:1], [64], [COMPARED, 1.0]
        arguments.repetitions = arguments.fewer_repetitions = arguments.confirmations = arguments.refinements = 1
        arguments.seconds = arguments.sweep_seconds = arguments.warm_up_seconds = 0.5
    findings = [investigate(name, arguments) for name in arguments.models]
    delayed = delay(arguments) if arguments.delays else {}
    raw = {"models": [as_raw(one) for one in findings], "delayed": _rows(delayed, "offered_rate", "delay_millis")}
    report.finish("batching", arguments, tables(findings, delayed), raw)


if __name__ == "__main__":
    main()
