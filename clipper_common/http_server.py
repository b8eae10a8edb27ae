"""A server whose connections are ours, with aiohttp's handlers behind them."""

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web

from clipper_common import jsontext
from clipper_common.connections import ConnectionKeeper, Kept, Limits
from clipper_common.http_connection import HttpConnection
from clipper_common.http_framing import Heads

_NEVER_SECONDS: Final = 1e9
"""aiohttp closes no connection for being idle: `ConnectionKeeper` does."""
_CLOSED_AT_ONCE: Final = 64
"""The most connections of clients that hung up which are closed in one turn of the event loop."""


class Server(web.Server):
    """An aiohttp server like `server`, with connections that `connection` makes, and with limits."""

    def __init__(
        self,
        server: web.Server,
        connection: Callable[["Server"], HttpConnection],
        limits: Limits,
        idle_seconds: float,
        heads: Heads,
    ) -> None:
        super().__init__(
            self._answer, request_factory=server.request_factory, handler_cancellation=server.handler_cancellation
        )
        self.loop = asyncio.get_running_loop()
        self.heads = heads
        self._handle = server.request_handler
        self._make_connection = connection
        self._open: dict[HttpConnection, asyncio.Transport] = {}
        self.keeper = ConnectionKeeper(limits, cast(dict[Kept, asyncio.Transport], self._open), idle_seconds)
        self._enforcing: asyncio.Task[None] | None = None
        self._closing: deque[HttpConnection] = deque()

    def start(self) -> None:
        """Begin to enforce the limits."""
        self._enforcing = self.loop.create_task(self.keeper.enforce_limits())

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        protocol = self.keeper.refuse() or self._make_connection(self)
        return cast(web.RequestHandler, protocol)  # the event loop takes any protocol

    @property
    def open_connections(self) -> dict[HttpConnection, asyncio.Transport]:
        return self._open

    def add(self, connection: HttpConnection, transport: asyncio.Transport) -> None:
        self._open[connection] = transport

    def remove(self, connection: HttpConnection) -> None:
        self._open.pop(connection, None)
        self.keeper.remove_unread(connection)

    def close_soon(self, connection: HttpConnection) -> None:
        """Close a connection in this turn of the event loop, or a later one if there are many."""
        if not self._closing:
            self.loop.call_soon(self._close_some)
        self._closing.append(connection)

    def _close_some(self) -> None:
        for _ in range(min(len(self._closing), _CLOSED_AT_ONCE)):
            self._closing.popleft().shut()
        if self._closing:
            self.loop.call_soon(self._close_some)

    def pre_shutdown(self) -> None:
        for connection in list(self._open):
            connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:
        await asyncio.gather(*(connection.shutdown(timeout) for connection in list(self._open)))
        if self._enforcing is not None:
            self._enforcing.cancel()

    # --- aiohttp ---

    def make_handler(self, connection: HttpConnection) -> web.RequestHandler:
        """Return a handler for requests of `connection`, which has a transport to write to."""
        handler = Handler(connection, self)
        handler.connection_made(HandlerTransport(connection))
        return handler

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, and tell its connection when all of the answer is written."""
        connection = connection_of(request)
        connection.begin_answer(request.content)
        try:
            response = await self._handle(request)
        except web.HTTPException as error:
            await _write(error, request, connection)
            raise
        await _write(response, request, connection)
        return response


async def _write(response: web.StreamResponse, request: web.BaseRequest, connection: HttpConnection) -> None:
    if connection.passes():
        response.force_close()
    await response.prepare(request)
    await response.write_eof()
    connection.end_answer(bool(response.keep_alive))


def connection_of(request: web.BaseRequest) -> HttpConnection:
    return cast(Handler, request.protocol).connection


class Handler(web.RequestHandler):
    """aiohttp's handler of a connection's requests, with malformed ones answered by JSON."""

    __slots__ = ("connection",)

    def __init__(self, connection: HttpConnection, server: Server) -> None:
        super().__init__(
            server,
            loop=server.loop,
            access_log=cast(Any, None),
            keepalive_timeout=_NEVER_SECONDS,
            # Otherwise aiohttp's parser decompresses a body before the request is checked, and after it was refused.
            auto_decompress=False,
        )
        self.connection = connection

    def resume_reading(self, *arguments: Any, **options: Any) -> None:
        """Resume reading if it is paused. aiohttp calls this for each of thousands of chunks that are read."""
        if self.connection.is_full():
            super().resume_reading(*arguments, **options)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs it, and raises if an answer has begun
        reason = HTTPStatus(status).phrase
        cause = (message or reason).encode(errors="replace").decode()  # it may quote bytes that are not UTF-8
        response = json_response({"error": reason, "cause": cause}, status)
        response.force_close()
        return response


class HandlerTransport(asyncio.Transport):
    """The transport that aiohttp's handler of a connection sees."""

    def __init__(self, connection: HttpConnection) -> None:
        super().__init__()
        self._connection = connection

    def _real(self) -> asyncio.Transport | None:
        return self._connection.transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        real = self._real()
        return default if real is None else real.get_extra_info(name, default)

    def is_closing(self) -> bool:
        real = self._real()
        return real is None or real.is_closing()

    def write(self, data: Any) -> None:
        real = self._real()
        if real is not None:
            real.write(data)

    def writelines(self, list_of_data: Any) -> None:
        real = self._real()
        if real is not None:
            real.writelines(list_of_data)

    def can_write_eof(self) -> bool:
        real = self._real()
        return real is not None and real.can_write_eof()

    def write_eof(self) -> None:
        real = self._real()
        if real is not None:
            real.write_eof()

    def get_write_buffer_size(self) -> int:
        real = self._real()
        return 0 if real is None else real.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._connection.set_full(True)

    def resume_reading(self) -> None:
        self._connection.set_full(False)

    def is_reading(self) -> bool:
        return not self._connection.is_full()

    def close(self) -> None:
        self._connection.shut()

    def abort(self) -> None:
        real = self._real()
        if real is not None:
            real.abort()


def json_response(value: object, status: int = 200) -> web.Response:
    body = jsontext.dumps_escaped(value)
    return web.Response(body=body, status=status, content_type="application/json")
