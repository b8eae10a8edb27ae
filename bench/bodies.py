"""Measures the CPU time of the query frontend for a body, by its size and the type of the input.

Beside it stand, for the same bytes and in the same run, the copying of the body by memcpy, and the fastest bare decoder
that we know: simdjson into an array of doubles or of 64-bit integers, Base64 by pybase64, and orjson for strings.
"""

import base64
import http.client
import random
import time
from collections.abc import Callable
from typing import Any, Final

import orjson
import pybase64
import simdjson

from bench import report
from bench.cluster import NOOP, Cluster
from bench.programs import HOST, ProgramFailed
from bench.report import Table, median, progress

_SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_QUICK_SIZES: Final = (1_000, 100_000)
_BYTES_EACH: Final = 60_000_000
"""The number of bytes sent for each size. CPU time is counted in steps of 10 ms, so small bodies are sent often."""
_MOST_QUERIES: Final = 3000
_SLO_SECONDS: Final = 20.0
_ROUNDS: Final = 5

Row = dict[str, Any]


def numbers(size: int, text: Callable[[random.Random], str]) -> bytes:
    rng = random.Random(1)
    parts: list[str] = []
    total = 0
    while total < size - 1:
        parts.append(text(rng))
        total += len(parts[-1]) + 1
    return ("[" + ",".join(parts) + "]").encode()


def text(size: int) -> bytes:
    words = "which of two sentences is more likely to be followed by the other one? "
    return orjson.dumps((words * (size // len(words) + 1))[: size - 2])


INPUTS: Final[dict[str, Callable[[int], bytes]]] = {
    "ints": lambda size: numbers(size, lambda rng: str(rng.randrange(-(10**9), 10**9))),
    "floats": lambda size: numbers(size, lambda rng: f"{rng.uniform(-1, 1):.7g}"),
    "doubles": lambda size: numbers(size, lambda rng: repr(rng.uniform(-1, 1))),
    "bytes": lambda size: b'"' + base64.b64encode(random.Random(1).randbytes(size * 3 // 4 - 2)) + b'"',
    "strings": text,
}
DECODERS: Final[dict[str, Callable[[bytes], object]]] = {
    "ints": lambda value: simdjson.Parser().parse(value).as_buffer(of_type="i"),
    "floats": lambda value: simdjson.Parser().parse(value).as_buffer(of_type="d"),
    "doubles": lambda value: simdjson.Parser().parse(value).as_buffer(of_type="d"),
    "bytes": lambda value: pybase64.b64decode(value[1:-1], validate=True),
    "strings": orjson.loads,
}


def cpu_millis(work: Callable[[], object], times: int) -> float:
    def once() -> float:
        begun = time.process_time()
        for _ in range(times):
            work()
        return 1000 * (time.process_time() - begun) / times

    return median(once() for _ in range(_ROUNDS))


def measure(cluster: Cluster, kind: str, size: int) -> Row:
    value = INPUTS[kind](size)
    body = b'{"input":' + value + b"}"
    queries = min(_MOST_QUERIES, max(6, _BYTES_EACH // size))
    times = max(1, queries // _ROUNDS)
    connection = http.client.HTTPConnection(HOST, cluster.query_port, timeout=60.0)
    before = cluster.cpu_seconds()["query"]
    for _ in range(queries):
        connection.request("POST", "/probe/predict", body)
        answer = connection.getresponse().read()
        if b'"default":false' not in answer:
            raise ProgramFailed(f"{size} bytes of {kind} were answered with {answer[:200]!r}")
    connection.close()
    millis = 1000 * (cluster.cpu_seconds()["query"] - before) / queries
    copied = cpu_millis(lambda: bytearray(body), times)
    decoded = cpu_millis(lambda: DECODERS[kind](value), times)
    return {
        "input type": kind,
        "body, bytes": len(body),
        "CPU, ms": millis,
        "memcpy, ms": copied,
        "bare decoder, ms": decoded,
        "CPU / decoder": millis / decoded,
    }


def main() -> None:
    parser = report.parser("bodies", __doc__)
    arguments = report.parse(parser)
    rows: list[Row] = []
    for kind in INPUTS:
        with Cluster(input_type=kind) as cluster:
            cluster.serve("probe", _SLO_SECONDS, NOOP)
            for size in _QUICK_SIZES if arguments.quick else _SIZES:
                progress(f"{size} bytes of {kind}")
                rows.append(measure(cluster, kind, size))
    table = Table("CPU time of the query frontend for a body", list(rows[0]), [list(row.values()) for row in rows])
    report.finish("bodies", arguments, [table], rows)


if __name__ == "__main__":
    main()
