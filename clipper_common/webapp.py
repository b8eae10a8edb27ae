"""HTTP for both frontends: errors as JSON, connections, and running an application."""

import asyncio
import contextlib
import io
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

from aiohttp import hdrs, web

from clipper_common import logs
from clipper_common.connections import Limits
from clipper_common.constants import BODY_SECONDS, EXIT_ADDRESS_IN_USE, IDLE_CONNECTION_SECONDS, MAX_BODY_BYTES
from clipper_common.http_connection import HttpConnection
from clipper_common.http_framing import Heads
from clipper_common.http_server import Server, json_response

logger = logging.getLogger(__name__)

_SHUTDOWN_SECONDS: Final = 5.0
_BACKLOG: Final = 1024
_PLAIN_ENCODINGS: Final = frozenset({"", "identity", "utf-8", "utf8"})
"""Each ``Content-Encoding`` that means no encoding. Naming the charset is wrong but common, and 0.4 accepted it."""
_REFUSED_BY_HEAD: Final = frozenset({403, 413, 415})
"""The statuses of requests that are refused without reading their bodies."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


PART_BYTES: Final = 1 << 16

BODY_LIMIT: Final[web.AppKey[Callable[[web.Request], int]]] = web.AppKey("body_limit")
"""Returns the most bytes of the body of a request, in applications without one limit for all."""
INFLATED: Final[web.AppKey[frozenset[str]]] = web.AppKey("inflated")
"""Each ``Content-Encoding`` that the handlers of an application decompress; others are refused."""


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer all errors as JSON: unknown routes, wrong methods, large bodies, and exceptions of handlers."""
    try:
        request = _with_body_limit(request)
        _check_body_by_head(request)
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = json_response({"error": error.reason, "cause": _cause(request, error)}, error.status)
        for name in (hdrs.ALLOW, hdrs.ACCEPT_ENCODING, hdrs.RETRY_AFTER):
            if name in error.headers:
                response.headers[name] = error.headers[name]
        if error.status in _REFUSED_BY_HEAD and not request.content.is_eof():
            response.force_close()
        return response
    except asyncio.CancelledError:
        raise
    except web.RequestPayloadError as error:
        return json_response({"error": "Bad Request", "cause": f"The body cannot be read: {error}"}, status=400)
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return json_response({"error": "Internal error", "cause": "An unexpected error occurred!"}, status=500)


def _with_body_limit(request: web.Request) -> web.Request:
    """Return the request with the body limit that the application has for it."""
    limit_of = request.app.get(BODY_LIMIT)
    limit = request.client_max_size if limit_of is None else limit_of(request)
    return request if limit == request.client_max_size else request.clone(client_max_size=limit)


def _check_body_by_head(request: web.Request) -> None:
    """Raise a 413 or 415, before the body is read, if it is too large or has an unsupported encoding."""
    if (request.content_length or 0) > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    if hdrs.CONTENT_ENCODING not in request.headers:
        return
    value = ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING))
    if any(encoding.strip().lower() not in _PLAIN_ENCODINGS for encoding in value.split(",")):
        understood = request.app.get(INFLATED, frozenset())
        if value.strip().lower() in understood:
            return
        raise web.HTTPUnsupportedMediaType(
            text=f"The body has the Content-Encoding '{value}', and is not inflated here. Send the JSON as it is.",
            headers={hdrs.ACCEPT_ENCODING: ", ".join(["identity", *sorted(understood)])},
        )


def is_compressed(request: web.Request) -> bool:
    """Whether a request has one of the encodings that the application decompresses."""
    return request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() in request.app.get(INFLATED, frozenset())


def _cause(request: web.Request, error: web.HTTPException) -> str:
    if error.text and error.text != f"{error.status}: {error.reason}":
        return error.text  # the text of a handler
    match error:
        case web.HTTPNotFound():
            return f"No such route: {request.path}"
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return f"{request.path} does not take {request.method}, only {allowed}"
    return error.reason


async def read_in_parts(request: web.Request, take: Callable[[int], Awaitable[None]] | None = None) -> list[bytes]:
    """Return the body in parts of at least `PART_BYTES` each, except the last.

    Unlike `request.read`, which copies the body twice, this copies only small pieces, which it joins. It awaits `take`
    with the size of each piece before it reads the next one.
    Raises a 413 if the body is larger than the request's limit.
    """
    parts: list[bytes] = []
    begun = io.BytesIO()
    size = 0
    try:
        while piece := await request.content.readany():
            size += len(piece)
            if size > request.client_max_size:
                raise web.HTTPRequestEntityTooLarge(request.client_max_size, size)
            if take is not None:
                await take(len(piece))
            if len(piece) < PART_BYTES or begun.tell():
                begun.write(piece)
                if begun.tell() < PART_BYTES:
                    continue
                piece = begun.getvalue()
                begun = io.BytesIO()
            parts.append(piece)
        return [*parts, begun.getvalue()] if begun.tell() or not parts else parts
    finally:
        del begun, parts  # the request keeps an error of its content, whose traceback has this frame


async def read_body(
    request: web.Request,
    seconds: float = BODY_SECONDS,
    read: Callable[[web.Request], Awaitable[list[bytes]]] = read_in_parts,
) -> bytes:
    """Return the body. Raises a 408 if it does not arrive within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return b"".join(await read(request))
    except TimeoutError:
        raise late_body(seconds) from None


def late_body(seconds: float) -> web.HTTPRequestTimeout:
    return web.HTTPRequestTimeout(text=f"The body did not arrive within {seconds:g} seconds")


def create_app(max_body_bytes: int = MAX_BODY_BYTES, **options: Any) -> web.Application:
    return web.Application(
        middlewares=[errors_as_json],
        client_max_size=max_body_bytes,
        **options,
    )


LIMITS: Final = web.AppKey("limits", Limits)
"""The limits of an application's connections, if they are not the default ones."""


class Runner(web.AppRunner):
    """Runs an application with connections that `connection` makes."""

    def __init__(
        self,
        app: web.Application,
        connection: Callable[[Server], HttpConnection] = HttpConnection,
        heads: Heads | None = None,
        keepalive_timeout: float = IDLE_CONNECTION_SECONDS,
        shutdown_timeout: float = _SHUTDOWN_SECONDS,
        **options: Any,
    ) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout, **options)
        self._connection = connection
        self._heads = heads or Heads()
        self._idle_seconds = keepalive_timeout
        self._shutdown_seconds = shutdown_timeout
        self._connected: Server | None = None

    @property
    def server(self) -> Server | None:
        return self._connected

    async def setup(self) -> None:
        await super().setup()
        server, limits = super().server, self.app.get(LIMITS) or Limits()
        assert server is not None
        self._connected = Server(server, self._connection, limits, self._idle_seconds, self._heads)
        self._connected.start()

    async def shutdown(self) -> None:
        if self._connected is not None:
            self._connected.pre_shutdown()
        await super().shutdown()
        if self._connected is not None:
            await self._connected.shutdown(self._shutdown_seconds)


Opened = Callable[[Runner], AbstractAsyncContextManager[None]]
"""Makes a context manager that accepts connections during its block."""


def run(app: web.Application, host: str, port: int, keepalive_seconds: float) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish the requests in flight. Exits if the address is in use."""
    serve(app, keepalive_seconds, partial(_listening, host, port))


def serve(
    app: web.Application | Awaitable[web.Application],
    keepalive_seconds: float,
    opened: Opened,
    make_runner: Callable[..., Runner] = Runner,
) -> None:
    """Serve `app` like `run`, with connections that `opened` accepts."""
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(_serve(app, keepalive_seconds, opened, make_runner))


async def _serve(
    app: web.Application | Awaitable[web.Application],
    keepalive_seconds: float,
    opened: Opened,
    make_runner: Callable[..., Runner],
) -> None:
    runner = make_runner(
        app if isinstance(app, web.Application) else await app,
        handler_cancellation=True,
        keepalive_timeout=keepalive_seconds,
    )
    with _cancelled_by_signals():
        try:
            await runner.setup()  # may wait for other programs, and be cancelled meanwhile
            async with opened(runner):
                await asyncio.Event().wait()
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _listening(host: str, port: int, runner: Runner) -> AsyncIterator[None]:
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    except OSError as error:
        sys.exit(address_in_use(f"{host}:{port}", error))
    yield


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Leave the block at the first SIGTERM or SIGINT, by cancelling the current task, which goes on after it."""
    task = asyncio.current_task()
    signals = []

    def cancel(number: int) -> None:
        signals.append(number)
        if task is not None and len(signals) == 1:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, cancel, number)
    try:
        yield
    except asyncio.CancelledError:
        if not signals:
            raise


def address_in_use(address: str, error: Exception) -> int:
    """Log that `address` cannot be bound. Return the exit code for that."""
    logger.error("cannot listen on %s: %s", address, error)
    return EXIT_ADDRESS_IN_USE


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def configure_logging() -> None:
    logs.configure()
    # aiohttp logs a traceback for each malformed request, so any client could fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
