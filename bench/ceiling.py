"""The ceiling: what Clipper's design could do in this language if it did nothing but its job.

A bare protocol finds the body of a request, decodes its JSON, and puts it into a queue; batches of it travel over
ZeroMQ to a worker process with a model that does nothing, one at a time; answers are rendered and written. No
validation, no routes, no limits, no deadlines, no timeouts, no metrics, no cache, no pipelining: not a server to use.
"""

import asyncio
import itertools
import multiprocessing
import re
import tempfile
from base64 import b64decode
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import orjson
import simdjson
import uvloop
import zmq

from bench import report
from bench.programs import HOST

_CONTENT_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_ANSWER: Final = b'{"query_id":%d,"output":%b,"default":false}'
_BACKLOG: Final = 1024
_MAX_BATCH_SIZE: Final = 512

Decode = Callable[[bytes], bytes]


class Batches:
    """The queue before the worker."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Connection, bytes]] = deque()
        self._out: list[tuple[Connection, bytes]] = []
        self._query_ids = itertools.count()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.bind(address)
        self._loop.add_reader(self._socket.getsockopt(zmq.FD), self._receive)

    def put(self, connection: "Connection", row: bytes) -> None:
        self._queue.append((connection, row))
        if len(self._queue) == 1 and not self._out:
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        """All queries that arrived in this turn of the event loop."""
        queue = self._queue
        if self._out or not queue:
            return
        self._out = [queue.popleft() for _ in range(min(len(queue), _MAX_BATCH_SIZE))]
        rows = [row for _, row in self._out]
        self._socket.send(memoryview(array_of_sizes(rows)), zmq.SNDMORE)
        self._socket.send(b"".join(rows))
        self._receive()  # an edge of the socket's descriptor may be gone already

    def _receive(self) -> None:
        while cast(int, self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            outputs = self._socket.recv().split(b"\n")
            done, self._out = self._out, []
            self._send()
            for (connection, _), output, number in zip(done, outputs, self._query_ids, strict=False):
                connection.answer(_ANSWER % (number, output))


def array_of_sizes(rows: list[bytes]) -> bytes:
    return b"".join([len(row).to_bytes(4, "little") for row in rows])


def work(address: str) -> None:
    """The worker process."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    socket.connect(address)
    while True:
        sizes = memoryview(socket.recv()).cast("I")
        data = memoryview(socket.recv())
        ends = itertools.accumulate(sizes)
        inputs = [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        socket.send(b"\n".join([b"0"] * len(inputs)))


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, batches: Batches, decode: Decode) -> None:
        self._batches = batches
        self._decode = decode
        self._parts: list[bytes] = []
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._parts.append(data)
            self._missing -= len(data)
        else:
            end = data.find(b"\r\n\r\n") + 4
            length = _CONTENT_LENGTH.search(data, 0, end)
            assert length is not None, "a head in two packets"
            self._parts = [data[end:]]
            self._missing = int(length[1]) - len(data) + end
        if not self._missing:
            self._batches.put(self, self._decode(b"".join(self._parts)))

    def answer(self, body: bytes) -> None:
        self.transport.write(_RESPONSE % (len(body), body))


_parser: Final = simdjson.Parser()


def decode_doubles(body: bytes) -> bytes:
    document: Any = _parser.parse(body)
    return bytes(document["input"].as_buffer(of_type="d"))


def decode_bytes(body: bytes) -> bytes:
    return b64decode(orjson.loads(body)["input"])


def decode_strings(body: bytes) -> bytes:
    text: str = orjson.loads(body)["input"]
    return text.encode()


DECODE: Final[dict[str, Decode]] = {"doubles": decode_doubles, "bytes": decode_bytes, "strings": decode_strings}


async def serve(port: int, input_type: str, address: str) -> None:
    batches = Batches(address)
    decode = DECODE[input_type]
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(batches, decode), HOST, port, backlog=_BACKLOG
    )
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = report.parser("ceiling", __doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--input-type", choices=sorted(DECODE), default="doubles")
    arguments = report.parse(parser)
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/worker"
        worker = multiprocessing.get_context("spawn").Process(target=work, args=(address,), daemon=True)
        worker.start()
        try:
            uvloop.run(serve(arguments.port, arguments.input_type, address))
        finally:
            worker.terminate()


if __name__ == "__main__":
    main()
