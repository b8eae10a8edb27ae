"""Measures at which rate of inputs that end the process of a model other queries get the default.

The cluster is ProcessContainerManager's, with two replicas of a model that loads in under a second and ends its process
when the first number of an input is negative. Each such input is another one, so that none is known from before.
"""

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench import report
from bench.open_loop import Load, Outcome, RunningLoad
from bench.programs import http
from bench.report import Table, progress
from clipper_admin import ClipperConnection, ProcessContainerManager
from clipper_admin.deployers.python import create_endpoint

_RATES: Final = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
_NEIGHBOURS: Final = 200.0
_SLO_MICROS: Final = 500_000
_INPUTS_EACH: Final = 10_000
"""More than there are in one load: no two may have the same, since outputs are cached."""

Row = dict[str, Any]


def fragile(inputs: Any) -> Any:
    import os

    if any(each[0] < 0 for each in inputs):
        os._exit(7)
    return [float(each[0]) for each in inputs]


@contextmanager
def cluster(folder: str) -> Iterator[ClipperConnection]:
    ports = {f"clipper_{name}_port": 0 for name in ("query", "management", "rpc")}
    os.environ["CLIPPER_HOME"] = str(Path(folder) / "clipper")
    conn = ClipperConnection(ProcessContainerManager("bench-poison", **ports, redis_port=0, prometheus_port=0))
    conn.start_clipper()
    try:
        create_endpoint(conn, "app", "doubles", fragile, slo_micros=_SLO_MICROS, num_replicas=2)
        yield conn
    finally:
        conn.stop_all()


@contextmanager
def poisoned(port: int, rate: float, numbers: Iterator[int]) -> Iterator[None]:
    """Send `rate` inputs a second that end a replica."""
    ended = threading.Event()

    def send() -> None:
        begun = time.monotonic()
        for sent in itertools.count(1):
            if ended.wait(max(0.0, begun + sent / rate - time.monotonic())):
                return
            with suppress(OSError):
                http(port, "/app/predict", b'{"input":[-%d]}' % next(numbers))

    threads = [threading.Thread(target=send)] if rate else []
    for thread in threads:
        thread.start()
    yield
    ended.set()
    for thread in threads:
        thread.join()


def measure(port: int, rate: float, seconds: float, numbers: Iterator[int]) -> Row:
    progress(f"{rate:g} poisons/s")
    load = Load(port, "/app/predict", _NEIGHBOURS, seconds, first_input=next(numbers) * _INPUTS_EACH)
    with poisoned(port, rate, numbers), RunningLoad(load) as running:
        result = running.result()
    return {
        "distinct poisons/s": rate,
        "other queries": result.offered,
        "right in time": f"{100 * result.good(_SLO_MICROS / 1e6) / result.offered:.1f} %",
        "default": result.count(Outcome.DEFAULT),
        "lost": result.count(Outcome.ERROR) + result.count(Outcome.UNANSWERED),
        "p99, ms": result.latency_millis(99),
    }


def main() -> None:
    parser = report.parser("poison", __doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate (default: %(default)g)")
    arguments = report.parse(parser)
    rates, seconds = ((0.0, 1.0), 3.0) if arguments.quick else (_RATES, arguments.seconds)
    numbers = itertools.count(1)
    with tempfile.TemporaryDirectory() as folder, cluster(folder) as conn:
        port = int(conn.get_query_addr().rpartition(":")[2])
        rows = [measure(port, rate, seconds, numbers) for rate in rates]
    table = Table("Queries beside inputs that end replicas", list(rows[0]), [list(row.values()) for row in rows])
    report.finish("poison", arguments, [table], rows)


if __name__ == "__main__":
    main()
