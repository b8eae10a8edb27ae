"""Measures the longest turn of the query frontend's event loop for inputs that are large, many or odd.

The bar is 20 ms, of CPU and of wall time, whatever a client or a replica sends. Each run has a cluster of its own,
since the frontend tells the longest turn of the last minutes; the figures are its own metric `internal:longest_turn`.
"""

import gzip
import itertools
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

from bench import report
from bench.bodies import INPUTS
from bench.cluster import NOOP, SLEEPER, Cluster
from bench.programs import HOST, ROOT, ProgramFailed, http
from bench.report import Table, progress

_LARGE: Final = [sys.executable, str(ROOT / "bench" / "models" / "large.py")]
_APP: Final = "probe"
_SLO_SECONDS: Final = 20.0
_WAIT_SECONDS: Final = 60.0
_MIB: Final = 1 << 20
_LARGE_BYTES: Final = 30 * _MIB
_ROUNDS: Final = 3
_REPEATS: Final = 6
"""The number of queries of each client."""
_INPUTS: Final = 4096
_IDLE: Final = 3000
_AT_ONCE: Final = 4096
_CHUNKING: Final = 20
_CHUNKS: Final = 60_000
_EMPTY_MEMBERS: Final = 1_400_000

Row = dict[str, Any]


class Case(NamedTuple):
    load: Callable[[Cluster], None]
    input_type: str = "doubles"
    model: list[str] = NOOP
    environment: dict[str, str] = {}
    options: dict[str, object] = {}
    """Command-line flags of the query frontend."""


# --- requests ---


def ask(cluster: Cluster, body: bytes, expected: int) -> None:
    status, answer = http(cluster.query_port, f"/{_APP}/predict", body, _WAIT_SECONDS)
    if status != expected or b'"default":true' in answer:
        raise ProgramFailed(f"a body of {len(body)} bytes was answered with {status}: {answer[:200]!r}")


def asked(
    body: Callable[[], bytes], clients: int = 1, repeats: int = _REPEATS, status: int = 200
) -> Callable[[Cluster], None]:
    """Return a load of `clients` clients at once, each of which asks `repeats` times."""

    def load(cluster: Cluster) -> None:
        made = body()
        with ThreadPoolExecutor(clients) as threads:
            list(threads.map(lambda _: [ask(cluster, made, status) for _ in range(repeats)], range(clients)))

    return load


def input_of(kind: str) -> Callable[[], bytes]:
    return lambda: b'{"input":%b}' % INPUTS[kind](_LARGE_BYTES)


def batch_of(numbers: int) -> bytes:
    """Return as many inputs as a request may have, all different."""
    rest = b",0.25" * (numbers - 1)
    return b'{"input_batch":[%b]}' % b",".join(b"[%d%b]" % (number, rest) for number in range(_INPUTS))


def nested_lists() -> bytes:
    return b'{"input":[%b[]]}' % (b"[]," * (_LARGE_BYTES // 3))


def head(length: str, *more: str) -> bytes:
    lines = [f"POST /{_APP}/predict HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json", length, *more]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def connected(cluster: Cluster, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        address = HOST, cluster.query_port
        sockets = [stack.enter_context(socket.create_connection(address, _WAIT_SECONDS)) for _ in range(number)]
        time.sleep(1.0)  # so that they are idle
        yield sockets


# --- loads ---


def wait(_: Cluster) -> None:
    """Ask nothing: what is measured is the start."""
    time.sleep(1.0)


def hang_up(cluster: Cluster) -> None:
    with connected(cluster, _IDLE) as sockets:
        request = head("Content-Length: 13") + b'{"input":[1]}'
        for each in sockets:
            each.sendall(request)
        for each in sockets:
            each.recv(1 << 16)
        time.sleep(1.0)
    time.sleep(2.0)


def send_tiny_chunks(cluster: Cluster) -> None:
    text = b'{"input":"%b"}' % (b"x" * _CHUNKS)
    request = head("Transfer-Encoding: chunked") + b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
    with connected(cluster, _CHUNKING) as sockets, ThreadPoolExecutor(_CHUNKING) as threads:
        list(threads.map(lambda each: each.sendall(request), sockets))
        for each in sockets:
            answer = each.recv(1 << 16)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise ProgramFailed(f"chunks were answered with {answer[:200]!r}")


def ask_at_once(cluster: Cluster) -> None:
    """The first query keeps the model busy, so that all others travel in one batch."""
    with connected(cluster, _AT_ONCE) as sockets:
        for number, each in enumerate(sockets):
            body = b'{"input":[%d]}' % number
            each.sendall(head(f"Content-Length: {len(body)}") + body)
        for each in sockets:
            each.recv(1 << 16)


def send_empty_members(cluster: Cluster) -> None:
    body = gzip.compress(b"") * _EMPTY_MEMBERS + gzip.compress(b'{"input":[1]}')
    with connected(cluster, 1) as (one,):
        one.sendall(head(f"Content-Length: {len(body)}", "Content-Encoding: gzip") + body)
        answer = one.recv(1 << 16)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ProgramFailed(f"empty members were answered with {answer[:200]!r}")


CASES: Final[dict[str, Case]] = {
    "nothing": Case(wait),
    "4,096 inputs in a request": Case(asked(lambda: batch_of(1), repeats=30)),
    "4,096 inputs of 10 numbers": Case(asked(lambda: batch_of(10), repeats=30)),
    "4,096 inputs of 10 numbers, two clients": Case(asked(lambda: batch_of(10), clients=2, repeats=30)),
    "3,000 clients hang up": Case(hang_up),
    "chunks of one byte, 20 clients": Case(send_tiny_chunks, "strings"),
    "4,096 clients at once": Case(
        ask_at_once, model=SLEEPER, environment={"BENCH_SLEEP_MS": "1000", "BENCH_SLEEP_PER_INPUT_MS": "0"}
    ),
    "an output of 20 MiB": Case(asked(lambda: b'{"input":[%d]}' % (20 * _MIB)), model=_LARGE),
    "an output of 30 MiB": Case(asked(lambda: b'{"input":[%d]}' % _LARGE_BYTES), model=_LARGE),
    "30 outputs of 1 MiB": Case(
        asked(lambda: b'{"input_batch":[%b]}' % b",".join([b"[%d]" % _MIB] * 30)), model=_LARGE
    ),
    "empty members of gzip": Case(send_empty_members, options={"inflate_bodies": 1}),
    "30 MiB of bytes": Case(asked(input_of("bytes")), "bytes"),
    "30 MiB of text": Case(asked(input_of("strings")), "strings"),
    "30 MiB of doubles": Case(asked(input_of("doubles")), "doubles"),
    "30 MiB of floats": Case(asked(input_of("floats")), "floats"),
    "30 MiB of nested lists": Case(asked(nested_lists, status=400)),
}


def measure(name: str) -> Row:
    case = CASES[name]
    with Cluster(input_type=case.input_type, query_options=case.options) as cluster:
        cluster.serve(_APP, _SLO_SECONDS, case.model, **case.environment)
        case.load(cluster)
        longest = cluster.metrics()["internal:longest_turn"]
        words = cluster.last_words("query")
    slow = [line for line in words.splitlines() if "a turn of the event loop" in line]
    return {
        "CPU, ms": longest["cpu_micros_max"] / 1000,
        "wall, ms": longest["wall_micros_max"] / 1000,
        "log": slow,
    }


def table(rows: list[Row]) -> Table:
    """All runs of a case in one cell, the longest turn of each."""
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row["case"], []).append(row)
    columns = ["CPU, ms", "wall, ms"]
    lines = [
        [name, *(" / ".join(f"{run[column]:.0f}" for run in runs) for column in columns)]
        for name, runs in cases.items()
    ]
    return Table("The longest turn of the event loop, of each run", ["case", *columns], lines)


def main() -> None:
    parser = report.parser("turns", __doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE", help="all by default")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="default: %(default)s")
    arguments = report.parse(parser)
    rounds = 1 if arguments.quick else arguments.rounds
    rows: list[Row] = []
    for name, number in itertools.product(arguments.cases, range(rounds)):
        row = {"case": name, "round": number + 1, **measure(name)}
        progress(f"{name}: CPU {row['CPU, ms']:.1f}, wall {row['wall, ms']:.1f} ms")
        rows.append(row)
    report.finish("turns", arguments, [table(rows)], rows)


if __name__ == "__main__":
    main()
