"""Millions of queries, each with an id that the model answers with: is each answered once and by its own answer, and
does the memory of any program grow?

The load is a closed loop without pauses. The prediction cache is on and fills within the first part of the run: what
counts is the growth after that, so the slope is that of the second half.
"""

import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from bench import report
from bench.cluster import ECHO, Cluster
from bench.generator import Records, Running
from bench.programs import ProgramFailed
from bench.report import Table, percentile, progress
from bench.workloads import MARK
from clipper_common.constants import DEFAULT_PREDICTION_CACHE_SIZE_BYTES

APP: Final = "soak"
SLO_SECONDS: Final = 1.0
_BODY: Final = b'{"input":[%b,2,3,4,5,6,7,8,9,10]}' % MARK
_OUTCOMES: Final = ["answered with its id", "default", "error", "unanswered", "another query's answer"]
"""The outcomes in the order of generator.c."""
_MAX_SECONDS: Final = 3600.0
_SETTLE_SECONDS: Final = 2.0


Sample = dict[str, float]
"""MiB by program, and `seconds` since the start."""


def run(arguments: Namespace) -> dict[str, Any]:
    with Cluster(DEFAULT_PREDICTION_CACHE_SIZE_BYTES) as cluster:
        cluster.serve(APP, SLO_SECONDS, ECHO)
        before = _predictions(cluster)
        records, samples = _load(cluster, arguments)
        seen_by_server = {name: count - before[name] for name, count in _predictions(cluster).items()}
    counts = np.bincount(records.outcome, minlength=len(_OUTCOMES))
    return {
        "queries": len(records.outcome),
        "seconds": records.ended,
        "outcomes": dict(zip(_OUTCOMES, counts.tolist(), strict=True)),
        "answers that nobody asked for": records.surplus,
        "reasons": records.reasons,
        **seen_by_server,
        "p50 ms": percentile(records.latency * 1000, 50),
        "p99 ms": percentile(records.latency * 1000, 99),
        "max ms": percentile(records.latency * 1000, 100),
        "samples": samples,
    }


def _load(cluster: Cluster, arguments: Namespace) -> tuple[Records, list[Sample]]:
    start = time.monotonic()
    samples = [_sample(cluster, start)]
    load = Running(
        cluster.query_port,
        f"/{APP}/predict",
        _BODY,
        arguments.connections,
        queries=arguments.requests,
        seconds=_MAX_SECONDS,
        echo=True,
    )
    with load:
        while not load.has_ended:
            time.sleep(arguments.sample_seconds)
            samples.append(_sample(cluster, start))
            if len(samples) % 30 == 0:
                progress(
                    f"{samples[-1]['seconds']:.0f} s: {_predictions(cluster)['predictions by the application']:,.0f}"
                )
        records = load.result(_SETTLE_SECONDS)
    time.sleep(_SETTLE_SECONDS)
    samples.append(_sample(cluster, start))
    return records, samples


def _sample(cluster: Cluster, start: float) -> Sample:
    cluster.cpu_seconds()  # raises when a program died
    memory = {name: size / 2**20 for name, size in cluster.memory_bytes().items()}
    return {"seconds": time.monotonic() - start, **memory}


def _predictions(cluster: Cluster) -> dict[str, float]:
    metrics = cluster.metrics()
    return {
        "predictions by the application": metrics[f"app:{APP}:num_predictions"]["count"],
        "predictions by the model": metrics[f"model:{APP}:1:num_predictions"]["count"],
    }


# --- tables ---


def answers_table(raw: dict[str, Any]) -> Table:
    rows: list[Sequence[object]] = [
        ["queries", raw["queries"]],
        *([name, count] for name, count in raw["outcomes"].items()),
    ]
    others = ["answers that nobody asked for", "predictions by the application", "predictions by the model"]
    rows += [[name, round(raw[name])] for name in others]
    rows += [
        ["queries/s", raw["queries"] / raw["seconds"]],
        *([name, raw[name]] for name in ("p50 ms", "p99 ms", "max ms")),
    ]
    return Table("What became of the queries", ["", "count"], rows)


def memory_table(raw: dict[str, Any]) -> Table:
    samples = raw["samples"]
    made = Table(
        "Resident memory, MiB",
        ["program", "before", "after a tenth", "half-way", "at the end", "growth per million queries, second half"],
    )
    for program in [name for name in samples[0] if name != "seconds"]:
        values = [sample[program] for sample in samples]
        points = [values[0], *(values[int(part * (len(values) - 1))] for part in (0.1, 0.5, 1))]
        made.rows.append([title(program), *points, growth_per_million(raw, program)])
    return made


def growth_per_million(raw: dict[str, Any], program: str) -> float:
    """MiB; the slope of a line through the second half."""
    half = raw["samples"][len(raw["samples"]) // 2 :]
    if len(half) < 2:
        return float("nan")
    slope = np.polyfit([sample["seconds"] for sample in half], [sample[program] for sample in half], 1)[0]
    return round(float(slope * raw["seconds"] / raw["queries"] * 1e6), 3) + 0.0


def title(program: str) -> str:
    return {"query": "query frontend", "management": "management frontend", APP: "model container"}.get(
        program, program
    )


def check(raw: dict[str, Any]) -> None:
    """Raises `ProgramFailed` if a query was lost, answered twice or by another's answer."""
    right = raw["outcomes"][_OUTCOMES[0]]
    if right != raw["queries"] or raw["answers that nobody asked for"]:
        raise ProgramFailed(f"not every query was answered once by its own answer: {raw['outcomes']}, {raw['reasons']}")


def main() -> None:
    parser = report.parser("soak", __doc__)
    parser.add_argument("--requests", type=int, default=5_000_000, help="default: %(default)s")
    parser.add_argument("--connections", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--sample-seconds", type=float, default=1.0, help="between looks at memory; default: %(default)g"
    )
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.requests, arguments.sample_seconds = 20_000, 0.1
    raw = run(arguments)
    report.finish("soak", arguments, [answers_table(raw), memory_table(raw)], raw)
    check(raw)


if __name__ == "__main__":
    main()
