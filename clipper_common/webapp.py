"""What both frontends need of HTTP: JSON errors for whatever goes wrong, and running an application."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from clipper_common import jsontext, logs
from clipper_common.constants import EXIT_ADDRESS_IN_USE, MAX_BODY_BYTES
from clipper_common.datatypes import escape

logger = logging.getLogger(__name__)

_SHUTDOWN_SECONDS: Final = 5.0
_BACKLOG: Final = 1024
_PLAIN_ENCODINGS: Final = frozenset({"", "identity", "utf-8", "utf8"})
"""A ``Content-Encoding`` that changes nothing. To name the charset there is wrong and usual, and 0.4 did not mind."""
_REFUSED_BY_HEAD: Final = frozenset({403, 413, 415})
"""Statuses of requests whose bodies are not waited for."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_response(value: object, status: int = 200) -> web.Response:
    body = jsontext.dumps(value)
    if not body.isascii() or b"\x7f" in body:
        body = escape(body.decode()).encode()
    return web.Response(body=body, status=status, content_type="application/json")


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what no handler answers: unknown routes, wrong methods, large bodies, and our own mistakes."""
    try:
        _check_body_by_head(request)
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = json_response({"error": error.reason, "cause": _cause(request, error)}, error.status)
        for name in (hdrs.ALLOW, hdrs.ACCEPT_ENCODING):
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


def _check_body_by_head(request: web.Request) -> None:
    """Refuse a body that is too large, or that would have to be inflated, before it is read."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length or 0)
    if hdrs.CONTENT_ENCODING not in request.headers:
        return
    value = ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING))
    if any(encoding.strip().lower() not in _PLAIN_ENCODINGS for encoding in value.split(",")):
        raise web.HTTPUnsupportedMediaType(
            text=f"The body has the Content-Encoding '{value}', and is not inflated here. Send the JSON as it is.",
            headers={hdrs.ACCEPT_ENCODING: "identity"},
        )


def _cause(request: web.Request, error: web.HTTPException) -> str:
    if error.text and error.text != f"{error.status}: {error.reason}":
        return error.text  # said by one of our handlers
    match error:
        case web.HTTPNotFound():
            return f"No such route: {request.path}"
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return f"{request.path} does not take {request.method}, only {allowed}"
        case web.HTTPRequestEntityTooLarge():
            return f"The body is larger than {MAX_BODY_BYTES} bytes"
    return error.reason


def create_app(**options: Any) -> web.Application:
    return web.Application(
        middlewares=[errors_as_json],
        client_max_size=MAX_BODY_BYTES,
        # aiohttp's parser inflates a body before anybody has looked at the request, and goes on after it was refused.
        handler_args={"auto_decompress": False},
        **options,
    )


class Connection(RequestHandler):
    """A client's connection: aiohttp's, with JSON for what its parser refuses too."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs it, and raises if an answer has begun
        reason = HTTPStatus(status).phrase
        cause = (message or reason).encode(errors="replace").decode()  # it may quote bytes that are no UTF-8
        response = json_response({"error": reason, "cause": cause}, status)
        response.force_close()
        return response


class _Server(web.Server):
    """`server`, with connections of our own."""

    def __init__(self, server: web.Server, connection: Callable[..., RequestHandler]) -> None:
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )
        self._connection = connection

    def __call__(self) -> RequestHandler:
        return self._connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application with connections that `connection` makes."""

    def __init__(
        self, app: web.Application, connection: Callable[..., RequestHandler] = Connection, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self.connection = connection

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self.connection)


Opened = Callable[[web.AppRunner], AbstractAsyncContextManager[None]]
"""Lets clients in for as long as it lasts."""


def run(app: web.Application, host: str, port: int, keepalive_seconds: float) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish what is in flight."""
    serve(app, keepalive_seconds, partial(_listening, host, port))


def serve(
    app: web.Application | Awaitable[web.Application],
    keepalive_seconds: float,
    opened: Opened,
    make_runner: Callable[..., web.AppRunner] = Runner,
) -> None:
    """As `run`, for clients that come in by `opened`."""
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(_serve(app, keepalive_seconds, opened, make_runner))


async def _serve(
    app: web.Application | Awaitable[web.Application],
    keepalive_seconds: float,
    opened: Opened,
    make_runner: Callable[..., web.AppRunner],
) -> None:
    runner = make_runner(
        app if isinstance(app, web.Application) else await app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=keepalive_seconds,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    with _cancelled_by_signals():
        try:
            await runner.setup()  # may wait for others, and be stopped meanwhile
            async with opened(runner):
                await asyncio.Event().wait()
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _listening(host: str, port: int, runner: web.AppRunner) -> AsyncIterator[None]:
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    except OSError as error:
        sys.exit(address_in_use(f"{host}:{port}", error))
    yield


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Cancel what the current task does in the block on the first SIGTERM or SIGINT, and go on after the block."""
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
    """Say that `address` cannot be bound; the exit code for that."""
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
    # It writes a traceback for each malformed request: anybody could fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
