"""A model ten times slower than the SLO: is every query answered exactly once, with the default, and when?

The model sleeps 200 ms, the SLO is 20 ms. 500 queries with different inputs come within one second. Then the same
inputs come again: those that travelled in a batch, though too late for whoever asked, are answered from the cache.
"""

import time
from argparse import Namespace
from typing import Any, Final

from bench import open_loop, report
from bench.cluster import SLEEPER, Cluster
from bench.open_loop import Load, Outcome, Result
from bench.report import Table, median, progress
from clipper_common.constants import DEFAULT_PREDICTION_CACHE_SIZE_BYTES

APP: Final = "late"
AGAIN: Final = "again"
WARM_UP: Final = "warm-up"
MODEL: Final = "sleeper"
DOCUMENTED: Final = "Failed to retrieve a prediction response within the specified latency SLO"
WARM_UP_SLO_SECONDS: Final = 10.0


def run_once(arguments: Namespace) -> dict[str, Any]:
    """The results with a new cluster."""
    with Cluster(DEFAULT_PREDICTION_CACHE_SIZE_BYTES) as cluster:
        _prepare(cluster, arguments)
        before = _inputs_answered(cluster)
        load = Load(
            cluster.query_port,
            f"/{APP}/predict",
            arguments.queries,
            seconds=1.0,
            connections=max(64, arguments.queries // 4),
            elements=10,
            arrivals="uniform",
        )
        first = open_loop.run(load)
        time.sleep(3 * arguments.model_ms / 1000)  # until the last batch is answered
        computed = _inputs_answered(cluster) - before
        again = open_loop.run(Load(**(vars(load) | {"path": f"/{AGAIN}/predict"})))
        server = cluster.metrics()[f"app:{APP}:prediction_latency"]
    return _figures(first, again, server) | {"inputs answered by the model": computed}


def _prepare(cluster: Cluster, arguments: Namespace) -> None:
    # Metrics are kept for each application: the warm-up and the second round have their own.
    cluster.add_model(MODEL, SLEEPER, BENCH_SLEEP_MS=str(arguments.model_ms), BENCH_SLEEP_PER_INPUT_MS="0")
    slo = arguments.slo_ms / 1000
    for app, seconds in ((APP, slo), (AGAIN, slo), (WARM_UP, WARM_UP_SLO_SECONDS)):
        cluster.add_application(app, seconds)
        cluster.link(app, MODEL)
    cluster.wait_until_served(WARM_UP)


def _inputs_answered(cluster: Cluster) -> int:
    sizes = cluster.metrics()[f"model:{MODEL}:1:batch_size"]
    return round(sizes["size"] * sizes["mean"])


def _figures(first: Result, again: Result, server: dict[str, float]) -> dict[str, Any]:
    documented = first.reasons.get(DOCUMENTED, 0)
    return {
        "queries": first.offered,
        "documented default": documented,
        "other answers": first.offered - documented - first.count(Outcome.UNANSWERED),
        "unanswered": first.count(Outcome.UNANSWERED),
        "answers too many": first.surplus + again.surplus,
        "server p50 ms": server["p50"] / 1000,
        "server p99 ms": server["p99"] / 1000,
        "server max ms": server["max"] / 1000,
        "client p50 ms": first.latency_millis(50),
        "client p99 ms": first.latency_millis(99),
        "answered from the cache when asked again": again.count(Outcome.OK),
        "client p50 ms of those": again.latency_millis(50, Outcome.OK),
    }


def table(runs: list[dict[str, Any]]) -> Table:
    """Return a table with a column for each run."""
    made = Table("Answers by the deadline", ["", *(f"run {number + 1}" for number in range(len(runs))), "median"])
    for name in runs[0]:
        values = [run[name] for run in runs]
        made.rows.append([name, *values, median(values)])
    return made


def main() -> None:
    parser = report.parser("slo", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="each in a fresh cluster; default: %(default)s")
    parser.add_argument("--queries", type=int, default=500, help="within a second; default: %(default)s")
    parser.add_argument("--slo-ms", type=float, default=20.0, help="default: %(default)g")
    parser.add_argument("--model-ms", type=float, default=200.0, help="default: %(default)g")
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.rounds = 1
    runs = []
    for number in range(arguments.rounds):
        progress(f"round {number + 1}")
        runs.append(run_once(arguments))
    report.finish("slo", arguments, [table(runs)], runs)


if __name__ == "__main__":
    main()
