"""The process of an open-loop load: reads a `Load` as JSON on stdin, offers it, writes what happened on stdout.

Requests leave when they are due, whether or not earlier ones were answered; one that finds no free connection waits
for one, and its time runs. Times are counted from when a request was due. The timers of the event loop have a
resolution of a millisecond: requests that are due within the same one leave together, up to one millisecond late.
"""

import asyncio
import gc
import itertools
import random
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Final, cast

import orjson
import uvloop

from bench.open_loop import Load, Outcome
from bench.programs import HOST

_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END: Final = b"\r\n\r\n"
_REASON: Final = b'"default_explanation":"'
_TICK_SECONDS: Final = 0.001
_LEAD_SECONDS: Final = 0.1
"""From when all connections are open until the first request can be due."""
_FIRST_NUMBER: Final = 10_000_000
"""Inputs begin with a number of their own; from here on all have the same length."""
_BACK_OFF_SECONDS: Final = 0.02


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it, reopened when it is needed."""

    __slots__ = ("buffer", "generator", "query", "transport")

    def __init__(self, generator: "Generator") -> None:
        self.generator = generator
        self.transport: asyncio.Transport | None = None
        self.query: int | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._finish(Outcome.ERROR, "the connection was closed")

    async def open(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, HOST, self.generator.load.port)

    def send(self, query: int) -> None:
        self.query = query
        if self.transport is not None:
            self.transport.write(self.generator.request(query))
        else:
            self.generator.spawn(self._open_and_send(query))

    async def _open_and_send(self, query: int) -> None:
        try:
            await self.open()
        except OSError as error:
            await asyncio.sleep(_BACK_OFF_SECONDS)
            self._finish(Outcome.ERROR, f"no connection: {type(error).__name__}")
            return
        if self.transport is not None:
            self.transport.write(self.generator.request(query))

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        head_end = data.find(_HEAD_END)
        length = _CONTENT_LENGTH.search(data, 0, head_end) if head_end > 0 else None
        if length is None or len(data) < head_end + 4 + int(length[1]):
            self.buffer = data
            return
        end = head_end + 4 + int(length[1])
        self.buffer = b""
        if self.query is None or len(data) > end:
            self.generator.surplus += 1
        self._finish(*_judge(data, head_end + 4))

    def _finish(self, outcome: Outcome, reason: str = "") -> None:
        query, self.query = self.query, None
        if query is not None:
            self.generator.finish(self, query, outcome, reason)


def _judge(response: bytes, body_at: int) -> tuple[Outcome, str]:
    if not response.startswith(b"HTTP/1.1 200"):
        return Outcome.ERROR, f"status {response[9:12].decode()}"
    if response.find(b'"default":false', body_at) > 0:
        return Outcome.OK, ""
    start = response.find(_REASON, body_at) + len(_REASON)
    return Outcome.DEFAULT, response[start : response.find(b'"', start)].decode()


class Generator:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.due = list(arrivals(load))
        queries = len(self.due)
        self.outcomes = [Outcome.UNANSWERED] * queries
        self.latencies = [-1.0] * queries
        self.latenesses = [0.0] * queries
        self.reasons: Counter[str] = Counter()
        self.surplus = 0
        self.started = 0.0
        self._next = 0
        self._open = queries
        self._idle: deque[Connection] = deque(Connection(self) for _ in range(load.connections))
        self._waiting: deque[int] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.get_running_loop().create_future()
        self._head, self._tail = self._request_parts()

    def _request_parts(self) -> tuple[bytes, bytes]:
        rest = random.Random(self.load.seed)
        tail = b"".join(b",%.17g" % rest.random() for _ in range(self.load.elements - 1)) + b"]}"
        start = b'{"input":['
        length = len(start) + len(str(_FIRST_NUMBER)) + len(tail)
        head = b"POST %b HTTP/1.1\r\nHost: %b:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
            self.load.path.encode(),
            HOST.encode(),
            self.load.port,
            length,
        )
        return head + start, tail

    def request(self, query: int) -> bytes:
        self.latenesses[query] = time.monotonic() - self.started - self.due[query]
        return b"%b%d%b" % (self._head, _FIRST_NUMBER + self.load.first_input + query, self._tail)

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Offer the whole load, and wait for the answers."""
        await asyncio.gather(*(connection.open() for connection in self._idle))
        gc.freeze()
        gc.disable()
        self.started = time.monotonic() + _LEAD_SECONDS
        self._pump()
        whole = _LEAD_SECONDS + self.load.seconds + self.load.grace_seconds
        await asyncio.wait([self._done], timeout=whole)

    def _pump(self) -> None:
        now = time.monotonic() - self.started
        due, number = self.due, self._next
        while number < len(due) and due[number] <= now:
            self._send(number)
            number += 1
        self._next = number
        if number < len(due):
            asyncio.get_running_loop().call_later(max(due[number] - now, _TICK_SECONDS), self._pump)

    def _send(self, query: int) -> None:
        if self._idle:
            self._idle.popleft().send(query)  # the longest idle one, lest the server closes it for being idle
        else:
            self._waiting.append(query)

    def finish(self, connection: Connection, query: int, outcome: Outcome, reason: str) -> None:
        self.latencies[query] = time.monotonic() - self.started - self.due[query]
        self.outcomes[query] = outcome
        if reason:
            self.reasons[reason] += 1
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)
        self._open -= 1
        if not self._open and not self._done.done():
            self._done.set_result(None)


def arrivals(load: Load) -> Iterator[float]:
    """When each query is due, in seconds."""
    if load.arrivals == "uniform":
        yield from (number / load.rate for number in range(round(load.rate * load.seconds)))
        return
    gaps = random.Random(load.seed)
    times = itertools.accumulate(gaps.expovariate(load.rate) for _ in itertools.count())
    yield from itertools.takewhile(lambda when: when < load.seconds, times)


async def offer(load: Load) -> dict[str, Any]:
    generator = Generator(load)
    cpu = time.process_time()
    await generator.run()
    return {
        "started": generator.started,
        "due": generator.due,
        "latency": generator.latencies,
        "lateness": generator.latenesses,
        "outcome": generator.outcomes,
        "reasons": generator.reasons,
        "surplus": generator.surplus,
        "cpu_seconds": time.process_time() - cpu,
    }


if __name__ == "__main__":
    found = uvloop.run(offer(Load(**orjson.loads(sys.stdin.buffer.read()))))
    with open(sys.stdout.fileno(), "wb") as output:  # buffered, whatever PYTHONUNBUFFERED says: writes are complete
        output.write(orjson.dumps(found))
