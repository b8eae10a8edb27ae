"""The yardstick: a bare aiohttp handler that decodes the JSON of a prediction request and answers by itself.

No routes, no queue, no model, no deadline: what Python's web server costs alone, on the same event loop as ours.
`--constant` leaves aiohttp and JSON out too, and answers every request with the same bytes: for load generators.
"""

import asyncio
import itertools
from base64 import b64decode
from typing import Final, cast

import orjson
import uvloop
from aiohttp import web

from bench import report
from bench.programs import HOST

_ANSWER: Final = b'{"query_id":0,"output":0,"default":false}'
_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)
_BACKLOG: Final = 1024
_KEEPALIVE_SECONDS: Final = 300.0

_query_ids = itertools.count()


async def answer(request: web.BaseRequest) -> web.Response:
    orjson.loads(await request.read())["input"]
    return _response()


async def answer_bytes(request: web.BaseRequest) -> web.Response:
    b64decode(orjson.loads(await request.read())["input"])
    return _response()


def _response() -> web.Response:
    body = orjson.dumps({"query_id": next(_query_ids), "output": 0, "default": False})
    return web.Response(body=body, content_type="application/json")


class ConstantAnswer(asyncio.Protocol):
    """Takes whatever arrives at once for a request. Larger requests than a socket's buffer would break that."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        self.transport.write(_RESPONSE)


async def serve(port: int, input_type: str, constant: bool) -> None:
    handler = answer_bytes if input_type == "bytes" else answer
    factory = ConstantAnswer if constant else web.Server(handler, access_log=None, keepalive_timeout=_KEEPALIVE_SECONDS)
    server = await asyncio.get_running_loop().create_server(factory, HOST, port, backlog=_BACKLOG)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = report.parser("yardstick", __doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--input-type", default="doubles", help="bytes: decode base64; default: %(default)s")
    parser.add_argument("--constant", action="store_true", help="answer constant bytes")
    arguments = report.parse(parser)
    uvloop.run(serve(arguments.port, arguments.input_type, arguments.constant))


if __name__ == "__main__":
    main()
