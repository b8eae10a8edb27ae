"""The figures of the paper on batching (NSDI'17, figures 4 and 5) again, on models of scikit-learn.

For each model, with an SLO of 20 ms: without batches (a fixed size of 1); a sweep over fixed sizes, of which the best
has the goodput G; then the policies and the best fixed size at parts of G. Goodput is what the model answered within
the SLO, per second, on the client's clock. Open-loop load with Poisson arrivals; no two inputs are the same. For the
linear SVM also: batches that wait to fill.

    python -m bench.batching --models linear-svm          # one model, about 5 minutes; without --models all five
    python -m bench.batching --plot bench/results/*.json  # draws what was measured, into docs/figures
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

import orjson

from bench import open_loop, report
from bench.adaptive import GROWTH, find_peak
from bench.cluster import Cluster
from bench.models import scikit
from bench.open_loop import Load, Outcome, Result
from bench.programs import ROOT, python
from bench.report import Table, median, progress

APP: Final = "bench"
FIGURES: Final = ROOT / "docs" / "figures"
UNBATCHED: Final = "fixed 1"
POLICIES: Final = ("learned", "aimd", "quantile")
DEFAULT: Final = POLICIES[0]
SIZES: Final[dict[str, tuple[int, ...]]] = {"kernel-svm": (2, 4, 8)}
COMMON_SIZES: Final = (16, 64, 128, 256, 512)
DELAYED: Final = "linear-svm"
DELAYS_MILLIS: Final = (0, 1, 2, 4)
DELAYED_PARTS: Final = (0.25, 0.5, 0.85)
SPARE_CONNECTIONS: Final = 64
MOST_CONNECTIONS: Final = 1500
REACHED: Final = 0.85
"""From this part of G on, a run counts for a policy's own best goodput."""
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
    """One load on one way of batching."""

    rate: float
    offered: int
    good: int
    """Answered by the model within the SLO, as the client saw it."""
    defaults: int
    errors: int
    p50_millis: float
    p99_millis: float
    """Of answers by the model."""
    lateness_p99_millis: float
    limit: float
    """The most inputs that a batch could have, at the end."""
    cpu_micros: dict[str, float]
    """Of each program, for each query offered."""
    seconds: float

    @property
    def share(self) -> float:
        return self.good / self.offered

    @property
    def is_borne(self) -> bool:
        return self.share >= 0.95

    @property
    def goodput(self) -> float:
        return self.good / self.seconds


class Bench:
    """A cluster that serves one model, and how it is loaded."""

    def __init__(self, cluster: Cluster, arguments: Namespace) -> None:
        self._cluster = cluster
        self._arguments = arguments
        self._slo_seconds = arguments.slo_ms / 1000

    def batch(self, policy: str, delay_millis: float = 0.0) -> None:
        """By a policy, or "fixed <size>"."""
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
        """After a warm-up at the same rate, without a pause between the two. The same seed: the same arrivals."""
        self.batch(policy, delay_millis)
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
        before = self._cluster.cpu_seconds()
        result = open_loop.run(load)
        after = self._cluster.cpu_seconds()
        cpu_micros = {name: 1e6 * (after[name] - before[name]) / result.offered for name in after}
        point = self._judge(result.after(warm_up), seconds, cpu_micros)
        progress(
            f"{policy}{f', {delay_millis} ms delay' if delay_millis else ''} at {rate:.0f}/s: "
            f"{point.goodput:.0f}/s good ({100 * point.share:.2f} %), p99 {point.p99_millis:.1f} ms, "
            f"limit {point.limit:.0f}, sent late p99 {point.lateness_p99_millis:.1f} ms"
        )
        return point

    def _judge(self, result: Result, seconds: float, cpu_micros: dict[str, float]) -> Point:
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
            seconds,
        )


@contextmanager
def serving(name: str, folder: Path, arguments: Namespace) -> Iterator[Bench]:
    with Cluster() as cluster:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        cluster.add_application(APP, arguments.slo_ms / 1000)
        cluster.add_model(APP, python("bench.models.scikit"), CLIPPER_MODEL_PATH=str(folder), **one_thread)
        cluster.link(APP, APP)
        yield Bench(cluster, arguments)


# --- one model ---


class Findings(NamedTuple):
    """What was measured of one model."""

    name: str
    what: str
    sweep: dict[int, list[Point]]
    """By fixed size; best goodput first."""
    best_size: int
    goodput: float
    """G: that of the best fixed size, measured again."""
    points: dict[tuple[str, float], list[Point]]
    """By policy and part of G, repeated."""
    delayed: dict[tuple[float, float], list[Point]]
    """By delay in ms and part of G; by the default policy."""

    @property
    def best_fixed(self) -> str:
        return f"fixed {self.best_size}"

    @property
    def unbatched(self) -> float:
        return self.sweep[1][0].goodput

    def best_goodput(self, policy: str) -> float:
        """The median over the repetitions of the best of each."""
        runs = [points for (name, part), points in self.points.items() if name == policy and part >= REACHED]
        return median(max(point.goodput for point in repetition) for repetition in zip(*runs, strict=True))

    def share(self, policy: str, part: float) -> float:
        return median(point.share for point in self.points[policy, part])


def investigate(name: str, arguments: Namespace) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        what = scikit.train(name, Path(folder))
        progress(f"{name}: {what}")
        with serving(name, Path(folder), arguments) as bench:
            swept = sweep(bench, arguments.batch_sizes or SIZES.get(name, COMMON_SIZES), arguments)
            best_size = max(swept, key=lambda size: swept[size][0].goodput)
            again = partial(bench.measure, f"fixed {best_size}", swept[best_size][0].rate, arguments.seconds)
            goodput = median(again(seed).goodput for seed in range(1, arguments.confirmations + 1))
            points = compare(bench, f"fixed {best_size}", goodput, arguments)
            delayed = delay(bench, goodput, arguments) if name == DELAYED else {}
    return Findings(name, what, swept, best_size, goodput, points, delayed)


def sweep(bench: Bench, sizes: Sequence[int], arguments: Namespace) -> dict[int, list[Point]]:
    """Around the best goodput of each size; the search begins where that of the size before ended."""
    found: dict[int, list[Point]] = {}
    start = first_rate(bench, arguments)
    for size in (1, *sizes):
        measure = partial(bench.measure, f"fixed {size}", seconds=arguments.sweep_seconds)
        found[size] = find_peak(measure, start, arguments.refinements)
        start = found[size][0].rate * (1 if size > 1 else GROWTH)
    return found


def first_rate(bench: Bench, arguments: Namespace) -> float:
    """What one query at a time could do, about: in so many seconds that many queries were answered."""
    probe = bench.measure(UNBATCHED, arguments.probe_rate, arguments.sweep_seconds)
    return max(probe.goodput, 1000 / probe.p50_millis / 2)


def compare(
    bench: Bench, best_fixed: str, goodput: float, arguments: Namespace
) -> dict[tuple[str, float], list[Point]]:
    points = defaultdict(list)
    for repetition in range(arguments.repetitions):
        progress(f"repetition {repetition + 1}")
        for part in arguments.parts:
            for policy in (DEFAULT, best_fixed, *POLICIES[1:]):
                # What the bar is about is repeated more often.
                if policy in (DEFAULT, best_fixed) or repetition < arguments.fewer_repetitions:
                    point = bench.measure(policy, part * goodput, arguments.seconds, repetition)
                    points[policy, part].append(point)
    return dict(points)


def delay(bench: Bench, goodput: float, arguments: Namespace) -> dict[tuple[float, float], list[Point]]:
    points = defaultdict(list)
    for repetition in range(arguments.fewer_repetitions):
        for part in DELAYED_PARTS:
            for millis in DELAYS_MILLIS:
                point = bench.measure(DEFAULT, part * goodput, arguments.seconds, repetition, millis)
                points[float(millis), part].append(point)
    return dict(points)


# --- tables ---


def summary_table(findings: Sequence[Findings]) -> Table:
    made = Table(
        f"Goodput (answers by the model within the SLO, per second) on {scikit.PIXELS} features; medians",
        ["model", "no batches", "best fixed size", *POLICIES, f"{DEFAULT} ÷ best fixed (bar: {BAR_OF_GOODPUT})"]
        + [f"{DEFAULT}: good at 0.85 G (bar: {BAR_OF_SHARE})", f"{DEFAULT} ÷ no batches", "the paper's AIMD ÷ none"],
    )
    for one in findings:
        fixed = one.best_goodput(one.best_fixed)
        learned = one.best_goodput(DEFAULT)
        made.rows.append(
            [
                f"{one.name}: {one.what}",
                one.unbatched,
                f"{fixed:,.0f} ({one.best_size})",
                *(one.best_goodput(policy) for policy in POLICIES),
                learned / fixed,
                f"{100 * one.share(DEFAULT, REACHED):.2f} %",
                learned / one.unbatched,
                PAPER[one.name][0] / PAPER[one.name][2],
            ]
        )
    return made


def cost_table(findings: Sequence[Findings]) -> Table:
    """What bounds it: a program that uses a whole core, and how many queries that one core could do."""
    made = Table(
        f"CPU µs for each query at G under {DEFAULT}, and of one query at a time at its best; one core is full at 1e6 "
        "µs per second",
        ["model", "query frontend", "model", "cores at G: frontend", "model", "unbatched: frontend", "model"],
    )
    for one in findings:
        at_peak, alone = one.points[DEFAULT, 1.0], [one.sweep[1][0]]
        made.rows.append([one.name, *_cost(at_peak), *(_cores(at_peak)), *_cost(alone)])
    return made


def _cost(points: Sequence[Point]) -> list[float]:
    return [median(point.cpu_micros[name] for point in points) for name in ("query", APP)]


def _cores(points: Sequence[Point]) -> list[float]:
    return [median(point.cpu_micros[name] * point.rate / 1e6 for point in points) for name in ("query", APP)]


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
        shares = [point.share for point in points]
        made.rows.append(
            [part, policy, median(point.goodput for point in points)]
            + [f"{100 * median(shares):.2f} %", f"{100 * min(shares):.2f} %"]
            + [median(getattr(point, name) for point in points) for name in _COLUMNS]
        )
    return made


_COLUMNS: Final = ("p50_millis", "p99_millis", "limit", "lateness_p99_millis")


def delay_table(one: Findings) -> Table:
    made = Table(
        f"{one.name}: batches that wait to fill ({DEFAULT}); the paper gains {PAPER_DELAYED} × in throughput by 2 ms",
        ["of G", "delay ms", "goodput/s", "share good", "p50 ms", "p99 ms", "CPU µs/query: frontend", "model", "sum"],
    )
    for (millis, part), points in sorted(one.delayed.items(), key=lambda item: item[0][::-1]):
        cost = _cost(points)
        made.rows.append(
            [part, millis, median(point.goodput for point in points)]
            + [f"{100 * median(point.share for point in points):.2f} %"]
            + [median(point.p50_millis for point in points), median(point.p99_millis for point in points)]
            + [*cost, sum(cost)]
        )
    return made


def tables(findings: Sequence[Findings]) -> list[Table]:
    made = [summary_table(findings), cost_table(findings)]
    for one in findings:
        made += [sweep_table(one), comparison_table(one)] + ([delay_table(one)] if one.delayed else [])
    return made


# --- results and plots ---


def as_raw(one: Findings) -> dict[str, Any]:
    return {
        "name": one.name,
        "what": one.what,
        "best_size": one.best_size,
        "goodput": one.goodput,
        "sweep": [{"size": size} | point._asdict() for size, points in one.sweep.items() for point in points],
        "points": [
            {"policy": policy, "part": part} | point._asdict()
            for (policy, part), points in one.points.items()
            for point in points
        ],
        "delayed": [
            {"delay_millis": millis, "part": part} | point._asdict()
            for (millis, part), points in one.delayed.items()
            for point in points
        ],
    }


def from_raw(raw: dict[str, Any]) -> Findings:
    def grouped(rows: Sequence[dict[str, Any]], *keys: str) -> dict[Any, list[Point]]:
        groups: dict[Any, list[Point]] = defaultdict(list)
        for row in rows:
            key = tuple(row[name] for name in keys)
            point = Point(**{name: row[name] for name in Point._fields})
            groups[key if len(keys) > 1 else key[0]].append(point)
        return dict(groups)

    return Findings(
        raw["name"],
        raw["what"],
        grouped(raw["sweep"], "size"),
        raw["best_size"],
        raw["goodput"],
        grouped(raw["points"], "policy", "part"),
        grouped(raw["delayed"], "delay_millis", "part"),
    )


def plot(one: Findings) -> None:
    """Goodput against the offered rate, one line for each way of batching."""
    from matplotlib import pyplot  # the measurement does not need it

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    lines = {UNBATCHED: one.sweep[1]}
    lines |= {
        policy: [point for (name, _), points in one.points.items() if name == policy for point in points]
        for policy in (one.best_fixed, *POLICIES)
    }
    for policy, points in lines.items():
        by_rate: dict[float, list[float]] = defaultdict(list)
        for point in points:
            by_rate[point.rate].append(point.goodput)
        rates = sorted(by_rate)
        axes.plot(rates, [median(by_rate[rate]) for rate in rates], marker="o", markersize=3, label=policy)
    most = max(rate for points in lines.values() for rate in (point.rate for point in points))
    axes.plot([0, most], [0, most], color="0.8", linestyle=":", label="all")
    axes.set(xlabel="offered queries per second", ylabel="answered by the model within 20 ms", title=one.name)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / f"batching-{one.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    progress(f"figure: {path.relative_to(ROOT)}")


def read(paths: Sequence[Path]) -> list[Findings]:
    """What the files of results hold, the last word on each model."""
    found: dict[str, Findings] = {}
    for path in sorted(paths):
        document = orjson.loads(path.read_bytes())
        if document["benchmark"] == "batching":
            found |= {raw["name"]: from_raw(raw) for raw in document["raw"]}
    return [found[name] for name in scikit.MODELS if name in found]


def main() -> None:
    parser = report.parser("batching", __doc__)
    parser.add_argument("--models", nargs="+", choices=list(scikit.MODELS), default=list(scikit.MODELS))
    parser.add_argument(
        "--plot", nargs="+", type=Path, metavar="FILE", help="measure nothing; tables and plots of these"
    )
    parser.add_argument("--slo-ms", type=float, default=20.0, help="default: %(default)g")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="of the sweep, besides 1; each model has its own")
    parser.add_argument("--parts", type=float, nargs="+", default=[0.5, 0.85, 1.0, 1.2])
    parser.add_argument("--repetitions", type=int, default=5, help=f"of {DEFAULT} and the best fixed; default: 5")
    parser.add_argument("--fewer-repetitions", type=int, default=2, help="of the other policies; default: 2")
    parser.add_argument("--confirmations", type=int, default=3, help="of G; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run; default: %(default)g")
    parser.add_argument("--sweep-seconds", type=float, default=1.5, help="of each run of the sweep")
    parser.add_argument("--warm-up-seconds", type=float, default=1.0, help="before each run; default: %(default)g")
    parser.add_argument("--refinements", type=int, default=2, help="of the rate of a size; default: %(default)s")
    parser.add_argument("--probe-rate", type=float, default=100.0, help="to begin with, without batches")
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.models, arguments.batch_sizes, arguments.parts = arguments.models[:1], [64], [0.85, 1.0]
        arguments.repetitions = arguments.fewer_repetitions = arguments.confirmations = arguments.refinements = 1
        arguments.seconds = arguments.sweep_seconds = arguments.warm_up_seconds = 0.5
    if arguments.plot:
        findings = read(arguments.plot)
        print("\n\n".join(table.markdown() for table in tables(findings)))
        for one in findings:
            plot(one)
        return
    findings = [investigate(name, arguments) for name in arguments.models]
    report.finish("batching", arguments, tables(findings), [as_raw(one) for one in findings])


if __name__ == "__main__":
    main()
