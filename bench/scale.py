"""Measures what a change, a scrape and a query cost beside many applications and models.

One cluster for each number of applications, each with a model. A no-op model is asked at a steady rate: alone, beside
registrations one after the other, and beside scrapes of /metrics. How late its answers are is said for each.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from bench import report
from bench.cluster import NOOP, Cluster
from bench.open_loop import Load, Outcome, Result, RunningLoad
from bench.programs import HOST, http
from bench.report import Table, median, progress
from clipper_common import changes
from clipper_common.changes import Write
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Application, Model
from clipper_common.redis_client import RedisClient

_NUMBERS: Final = (10, 100, 1000, 4000, 10_000)
_QUICK_NUMBERS: Final = (10, 200)
_RATE: Final = 300.0
_SLO_SECONDS: Final = 0.5
_AT_ONCE: Final = 25
_APPLY_SECONDS: Final = 60.0

Row = dict[str, Any]


def writes(number: int) -> list[Write]:
    """An application, its model and their link."""
    model = ModelId(f"model-{number}", "1")
    return [
        *changes.put_application(Application(f"app-{number}", InputType.DOUBLES, "-1", 500_000)),
        changes.put_model(Model(model, InputType.DOUBLES)),
        changes.put_current_version(model),
        changes.put_link(f"app-{number}", model.name),
    ]


async def fill(redis_port: int, number: int) -> None:
    """Register `number` applications and models, and wait until the query frontend serves them."""
    redis_client = RedisClient(HOST, redis_port)
    store, members = ConfigStore(redis_client), MembershipStore(redis_client)
    try:
        for begin in range(0, number, _AT_ONCE):
            some = [write for each in range(begin, min(begin + _AT_ONCE, number)) for write in writes(each)]
            revision = await store.commit(await store.read_latest(), some)
            assert revision is not None and await members.wait_until_applied(revision, _APPLY_SECONDS)
    finally:
        await redis_client.close()


def seconds_each(times: int, do: Callable[[int], object]) -> Iterator[float]:
    for number in range(times):
        begun = time.perf_counter()
        do(number)
        yield time.perf_counter() - begun


def beside(cluster: Cluster, seconds: float, work: Callable[[], Row]) -> tuple[Row, Result, dict[str, float]]:
    """Do `work` while queries are asked for `seconds`, or longer if it takes longer."""
    before = cluster.cpu_seconds()
    with RunningLoad(Load(cluster.query_port, "/probe/predict", _RATE, seconds)) as load:
        row = work()
        result = load.result()
    after = cluster.cpu_seconds()
    return row, result, {name: after[name] - before[name] for name in before}


def described(name: str, result: Result) -> Row:
    return {
        f"p99 {name}, ms": result.latency_millis(99),
        f"slowest {name}, ms": result.latency_millis(100),
        f"late {name}": result.offered - result.good(_SLO_SECONDS),
        f"lost {name}": result.count(Outcome.ERROR) + result.count(Outcome.UNANSWERED),
    }


def measure(number: int, seconds: float, times: int) -> Row:
    progress(f"{number} applications and models")
    with Cluster() as cluster:
        cluster.serve("probe", _SLO_SECONDS, NOOP)
        asyncio.run(fill(cluster.redis_port, number))

        def register() -> Row:
            taken = list(seconds_each(times, lambda each: cluster.add_application(f"new-{each}", 1.0)))
            return {"registration, ms": 1000 * median(taken), "slowest, ms": 1000 * max(taken)}

        def scrape() -> Row:
            taken = list(seconds_each(3, lambda _: http(cluster.query_port, "/metrics", seconds=60.0)))
            return {"scrape, s": median(taken)}

        _, alone, cpu = beside(cluster, seconds, dict)
        registered, while_registering, registering_cpu = beside(cluster, seconds, register)
        scraped, while_scraping, scraping_cpu = beside(cluster, seconds, scrape)
        longest = cluster.metrics().get("internal:longest_turn", {})
    query_cpu = cpu["query"] / alone.offered
    return {
        "applications": number,
        "CPU of a query, us": 1e6 * query_cpu,
        **registered,
        "CPU of a registration in the query frontend, ms": (
            1000 * (registering_cpu["query"] - query_cpu * while_registering.offered) / times
        ),
        "in the management frontend, ms": 1000 * registering_cpu["management"] / times,
        "in Redis, ms": 1000 * (registering_cpu["redis"] - cpu["redis"]) / times,
        **scraped,
        "CPU of a scrape, s": (scraping_cpu["query"] - query_cpu * while_scraping.offered) / 3,
        "longest turn, ms": longest.get("wall_micros_max", 0.0) / 1000,
        **described("alone", alone),
        **described("beside registrations", while_registering),
        **described("beside scrapes", while_scraping),
    }


def tables(rows: list[Row]) -> list[Table]:
    names = list(rows[0])
    begin = next(index for index, name in enumerate(names) if name.startswith("p99"))
    costs, others = names[:begin], [names[0], *names[begin:]]
    return [
        Table(
            "The cost of a query, a registration and a scrape", costs, [[row[name] for name in costs] for row in rows]
        ),
        Table(f"{_RATE:g} queries/s beside them", others, [[row[name] for name in others] for row in rows]),
    ]


def main() -> None:
    parser = report.parser("scale", __doc__)
    parser.add_argument(
        "--numbers", type=int, nargs="+", default=_NUMBERS, help="of applications (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default: %(default)g)")
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.numbers, arguments.seconds = _QUICK_NUMBERS, 2.0
    rows = [measure(number, arguments.seconds, 5 if arguments.quick else 50) for number in arguments.numbers]
    report.finish("scale", arguments, tables(rows), rows)


if __name__ == "__main__":
    main()
