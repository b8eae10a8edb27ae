"""The fast path: plain prediction requests are answered straight from the socket's bytes.

aiohttp's general path makes a request, a response, headers, a writer and a task for each request, which together cost
several times what the prediction does. `FastPathHandler` is aiohttp's own protocol class and looks at the bytes
first: a complete ``POST /<app>/predict`` whose head is plain is parsed, queued and answered without any of these. Every
other byte goes to aiohttp unchanged, and so does a request that must be refused: errors have one source.

Nobody can tell the two paths apart (tests/query_frontend/http/test_fast_path.py compares them), because

* a head is plain if aiohttp's own parser, given exactly these bytes, says so; the verdict is kept by the bytes;
* a request is only taken while aiohttp's parser stands between two messages and its handler waits for the next. When
  that cannot be known any more (a head in pieces, a chunked body, an upgrade), the connection stays with aiohttp;
* while a request is under way, what follows it is held back, so that answers keep their order.

This leans on aiohttp's private parts: other versions than `AIOHTTP_VERSIONS` are served on the general path alone.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import monotonic, time
from typing import Any, Final

import aiohttp
from aiohttp import hdrs, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpRequestParser, HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from clipper_common import webapp
from clipper_common.connections import close_idle, is_idle
from clipper_common.datatypes import InputType, ModelId, is_app_name
from clipper_common.errors import JsonError
from clipper_common.long_work import Steps
from query_frontend.http import schemas
from query_frontend.http.connection_drain import ConnectionDrain
from query_frontend.http.decoder import SMALL_BODY_BYTES
from query_frontend.http.handlers import MODEL_HEADER, model_header
from query_frontend.serving import answers
from query_frontend.serving.answers import LARGE_OUTPUT_BYTES
from query_frontend.serving.deadlines import Slot
from query_frontend.serving.query import Query, QueryContext
from query_frontend.serving.registry import Registry
from query_frontend.serving.waiting import BatchClients

logger = logging.getLogger(__name__)

AIOHTTP_VERSIONS: Final = re.compile(r"3\.14\.\d+")

_MAX_HEAD_BYTES: Final = 4096
_MAX_KNOWN_HEADS: Final = 4096
_MAX_KNOWN_LENGTHS: Final = 1024
_MAX_BODY_BYTES: Final = SMALL_BODY_BYTES
"""Larger ones are not parsed in one turn of the event loop, and HTTP is not what they cost."""
_MAX_HELD_BYTES: Final = 1 << 16
_MAX_AT_ONCE: Final = 8
"""Requests of one connection that are taken in one turn of the event loop."""
_RETRY_SECONDS: Final = 0.1
_CLOCK_SECONDS: Final = 0.001
"""The loop's clock counts milliseconds."""
"""After so long it is looked again whether a connection is idle on which a request has just arrived."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_PREDICT_PATH: Final = re.compile(r"/([^/]+)/predict/?")
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_DOUBLES: Final = InputType.DOUBLES
_NOT_PLAIN: Final = (hdrs.CONTENT_ENCODING, hdrs.EXPECT, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE)


class Head:
    """The head of a request: the length of its body and, if the request is plain, its application."""

    def __init__(self, text: bytes, length: int, app: str | None) -> None:
        self.text = text
        self.length = length
        self.app = app


class FastPath:
    """The parts of the fast path that all connections share."""

    def __init__(
        self,
        registry: Registry,
        context: QueryContext,
        query_ids: Iterator[int],
        content_seconds: float,
        draining: ConnectionDrain,
    ) -> None:
        self.wheel = context.wheel
        self.content_seconds = content_seconds
        self.heads: dict[bytes, Head | None] = {}
        """The heads that were seen before; `recognise` adds to them."""
        self.draining = draining
        """Their next requests are aiohttp's, whose answers close connections."""
        self._registry = registry
        self._context = context
        self._query_ids = query_ids
        self._second_ends = 0.0
        self._heads: dict[ModelId | None, dict[int, bytes]] = {}
        """The heads of responses in this second, by the model version that answered and the length of the body."""
        self._answerer: ModelId | None = None
        """The model version that answered last, whose heads of responses are in `_its_heads`."""
        self._its_heads: dict[int, bytes] = {}

    def recognise(self, head: bytes) -> Head | None:
        """Parse a head that was not seen before. None if aiohttp alone can tell where its request ends."""
        if not head or head in self.heads or len(head) > _MAX_HEAD_BYTES:
            return None
        if len(self.heads) >= _MAX_KNOWN_HEADS:
            self.heads.clear()
        known = self.heads[head] = _read_head(head)
        return known

    def knows(self, app_name: str) -> bool:
        return self._registry.app(app_name) is not None

    def ask(
        self,
        app_name: str,
        body: bytes,
        arrival: float,
        done: Callable[[Query, float], None],
        clients: BatchClients | None,
    ) -> Query | None:
        """Begin to answer a request of one of `clients`. None if that is for the general path to do."""
        app = self._registry.app(app_name)
        if app is None:
            return None
        payload = schemas.parse_doubles(body) if app.input_type is _DOUBLES else None
        if not payload:
            try:
                payload = schemas.parse_single(body, app.input_type, app.missing_values)
            except JsonError:
                return None
            if payload is None:
                return None
        if clients is not None:
            clients.note_return(app.model, arrival)
        query = Query(self._context, app, app.model, payload, arrival)
        query.submit(done)
        return query

    def render(self, query: Query, now: float) -> bytes:
        """The response to an answered query, byte for byte as aiohttp writes it."""
        if now >= self._second_ends:
            self._second_ends = now + 1 - time() % 1
            self._forget_heads()
        answer = query.answer
        assert answer is not None
        model = query.model if type(answer) is bytes else None
        if model is not self._answerer:
            self._answerer = model
            self._its_heads = self._heads.setdefault(model, {})
        body = answers.render_one(next(self._query_ids), answer)
        return (self._its_heads.get(len(body)) or self._render_head(len(body))) + body

    def render_in_parts(self, query: Query, output: bytes) -> list[bytes]:
        """As `render`, for an output that is too large to be copied."""
        before, *rest = answers.render_in_parts(next(self._query_ids), output)
        length = len(before) + sum(map(len, rest))
        return [_render_head(query.model, length) + before, *rest]

    def _render_head(self, length: int) -> bytes:
        if len(self._its_heads) >= _MAX_KNOWN_LENGTHS:
            self._forget_heads()
        head = self._its_heads[length] = _render_head(self._answerer, length)
        return head

    def _forget_heads(self) -> None:
        self._its_heads = {}
        self._heads = {self._answerer: self._its_heads}


def _read_head(head: bytes) -> Head | None:
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16, max_field_size=8190, auto_decompress=False)
    try:
        messages, upgraded, _ = parser.feed_data(head)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or upgraded:
        return None
    message, payload = messages[0]
    headers = message.headers
    length = headers.get(hdrs.CONTENT_LENGTH, "0")
    if message.upgrade or message.chunked or message.method == hdrs.METH_CONNECT or not _LENGTH.fullmatch(length):
        return None
    path = _PREDICT_PATH.fullmatch(message.path)
    is_plain = (
        path is not None
        and is_app_name(path[1])
        and message.method == hdrs.METH_POST
        and message.version == HttpVersion11
        and not message.should_close
        and not any(name in headers for name in _NOT_PLAIN)
        and 0 < int(length) <= _MAX_BODY_BYTES
        and not payload.is_eof()
        and not payload.total_bytes
    )
    return Head(head, int(length), path[1] if path is not None and is_plain else None)


def _render_head(model: ModelId | None, length: int) -> bytes:
    named = f"{MODEL_HEADER}: {model_header(model)}\r\n" if model else ""
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{named}Content-Length: {length}\r\n"
        f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
    ).encode()


class FastPathConnection:
    """A connection's part in the fast path.

    aiohttp's class has slots, so nothing compiled can inherit from it: what runs for each request is here, and
    `FastPathHandler` holds it.
    """

    def __init__(self, handler: "FastPathHandler", fast_path: FastPath) -> None:
        self._handler = handler
        self._fast_path = fast_path
        self._transport: asyncio.Transport | None = None
        self._reply = self._reply_to
        """Bound once. Broken by `lose`."""
        self._passes = False
        """Everything goes to aiohttp from now on."""
        self._ends = False
        """Nothing more is answered."""
        self._is_paused = False
        """The client does not read its answers."""
        self._aiohttp_waits = False
        """Its handler is known to have answered everything and to wait for the next message."""
        self._head: Head | None = None
        """The last, since a client's heads are all alike."""
        self._answers = 0
        """The number of answers that aiohttp has not counted yet."""
        self.answered_at = 0.0
        self._owed = 0
        """How many of the next bytes are the rest of a request that aiohttp has begun to read."""
        self._query: Query | None = None
        """Under way in the fast path."""
        self._clients: BatchClients | None = None
        """The clients of the batch that answered its last query."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        """Data that arrived while a query was under way, or while the client did not read."""
        self._holds_back = False
        """The transport is paused: too much is held."""
        self._parts: list[bytes] = []
        """A plain request whose body is not complete. Below: since when, what it lacks, its slot of the wheel."""
        self._arrival = 0.0
        self._missing = 0
        self._slot: Slot = {}
        self._body_due: float | None = None
        self._idle: asyncio.Future[None] | None = None
        """Resolved when the query under way is answered; `shutdown` awaits it."""

    # --- what the handler tells ---

    def open(self, transport: asyncio.Transport | None) -> None:
        """The connection is made: answers go to `transport`."""
        self._transport = transport

    def close(self) -> None:
        """Write nothing more: the connection is lost, and `lose` will be called."""
        self._transport = None

    def pause(self) -> None:
        """The client does not read its answers: take no more requests."""
        self._is_paused = True

    def resume(self) -> None:
        """The client reads its answers again."""
        self._is_paused = False
        if self._held:
            self._go_on()

    def end(self) -> None:
        """Answer no more requests than the one that is under way."""
        self._ends = True

    def is_idle(self) -> bool:
        """Whether nothing of a request is here."""
        return self._query is None and not self._parts

    def until_answered(self) -> asyncio.Future[None] | None:
        """Return what is done once the query that is under way is answered; None if there is none."""
        if self._query is None:
            return None
        self._idle = self._handler._loop.create_future()
        return self._idle

    # --- what arrives ---

    def data_received(self, data: bytes) -> None:
        if self._passes or not data:  # aiohttp itself calls with nothing, so that its parser goes on
            self._aiohttp_takes(data)
        elif self._ends:
            return
        elif self._query is not None or self._held:
            self._hold(data)
        elif self._parts:
            self._add_part(data)
        elif self._is_paused:
            self._hold(data)
        else:
            self._take(data, monotonic())

    def _take(self, data: bytes, arrival: float) -> None:
        """Answer each request in `data` or pass it on, until one is under way or incomplete."""
        fast_path = self._fast_path
        num_taken = 0
        while data:
            if num_taken == _MAX_AT_ONCE:  # others have their turn, and slicing what is left is not free
                self._hold(data)
                self._handler._loop.call_soon(self._go_on)
                return
            num_taken += 1
            if self._owed:
                data = self._pass(data, self._owed)
                continue
            head = self._find_head(data)
            if head is None or (not fast_path.draining.is_empty and self._handler in fast_path.draining):
                self._passes = True
                self._aiohttp_takes(data)
                return
            body_at = len(head.text)
            app_name = head.app
            size = body_at + head.length
            if app_name is None or not (self._aiohttp_waits or self._find_aiohttp_waiting()):
                data = self._pass(data, size)
                continue
            is_whole = len(data) >= size
            if not is_whole and fast_path.knows(app_name):  # otherwise the handler does not wait for its body either
                self._await_rest(data, size - len(data), arrival)
                return
            query = (
                fast_path.ask(app_name, data[body_at:size], arrival, self._reply, self._clients) if is_whole else None
            )
            if query is None:
                data = self._pass(data, size)
                continue
            data = data[size:] if len(data) > size else b""
            if query.answer is None:
                self._query = query
            else:
                self._write(query, monotonic())
            if data and (self._query is not None or self._is_paused):
                self._hold(data)
                return

    def _find_head(self, data: bytes) -> Head | None:
        """Return the head of the next request; None if aiohttp alone can tell where it ends."""
        head = self._head
        if head is None or not data.startswith(head.text):
            text = data[: data.find(_END_OF_HEAD) + 4] if _END_OF_HEAD in data else b""
            head = self._head = self._fast_path.heads.get(text) or self._fast_path.recognise(text)
        return head

    def _pass(self, data: bytes, size: int) -> bytes:
        """Give aiohttp the first `size` bytes, as far as they are there. Answers the rest."""
        if not self._owed:
            self._body_due = None  # of a request before this one, whose body nobody asked for
        part = data[:size]
        self._owed = size - len(part)
        self._aiohttp_waits = False
        self._tell_answers()
        self._handler.framed_data_received(part)
        return data[size:]

    def _aiohttp_takes(self, data: bytes) -> None:
        self._aiohttp_waits = False
        self._tell_answers()
        webapp.Connection.data_received(self._handler, data)

    def _tell_answers(self) -> None:
        """Let aiohttp count what was answered without it."""
        if self._answers:
            self._handler._request_count += self._answers
            if self._handler._manager is not None:
                self._handler._manager.requests_count += self._answers
            self._answers = 0

    def _find_aiohttp_waiting(self) -> bool:
        """Find out whether aiohttp's handler waits for the next message, when that is not known."""
        handler = self._handler
        waiter = handler._waiter  # there is none yet when the first request comes with the connection
        if waiter is None:
            return not (handler._messages or handler._request_count or self._answers or handler.rests)
        self._aiohttp_waits = not (handler._messages or waiter.done() or handler.rests)
        return self._aiohttp_waits

    # --- a body in parts ---

    def _await_rest(self, data: bytes, missing: int, arrival: float) -> None:
        self._parts, self._missing, self._arrival = [data], missing, arrival
        self._slot = self._fast_path.wheel.add(self, arrival + self._fast_path.content_seconds)

    def _add_part(self, data: bytes) -> None:
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing <= 0:
            self._take(self._take_parts(), self._arrival)

    def _take_parts(self) -> bytes:
        self._slot.pop(self, None)
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def expire(self) -> None:
        """The body took too long; aiohttp's handler says so."""
        self.pass_parts()

    def pass_parts(self) -> None:
        if self._parts:
            data = self._take_parts()
            self._pass(data, len(data) + self._missing)
            self._body_due = self._arrival + self._fast_path.content_seconds

    def take_body_due(self) -> float | None:
        """When the body must be complete of the request that aiohttp was given in the middle of it."""
        due, self._body_due = self._body_due, None
        return due

    # --- what is under way ---

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if not self._holds_back and self._held_bytes > _MAX_HELD_BYTES:
            self._holds_back = True
            self._handler._pause_transport_reading()

    def _reply_to(self, query: Query, now: float) -> None:
        """The query is answered."""
        self._query = None
        try:
            self._write(query, now)
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            if self._held:
                self._go_on()
        except Exception:  # the other queries of the batch are not to suffer from it
            logger.exception("a connection failed")
            self._handler.force_close()

    def _write(self, query: Query, now: float) -> None:
        fast_path, transport = self._fast_path, self._transport
        if transport is None:
            return
        output = query.answer
        rest: list[bytes] = []
        if type(output) is bytes and len(output) > LARGE_OUTPUT_BYTES:
            answer, *rest = fast_path.render_in_parts(query, output)
        else:
            answer = fast_path.render(query, now)
        leaves = not fast_path.draining.is_empty and self._handler in fast_path.draining
        if leaves:
            answer = answer.replace(_END_OF_HEAD, b"\r\nConnection: close" + _END_OF_HEAD, 1)
        if rest:
            transport.writelines([answer, *rest])
        else:
            transport.write(answer)
        self._answers += 1
        self._clients = query.clients
        self.answered_at = now
        if self._ends or leaves:
            transport.close()

    def _go_on(self) -> None:
        """Look at what was held back."""
        if self._query is not None or self._is_paused or self._transport is None:
            return
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        if self._holds_back:
            self._holds_back = False
            if not (self._handler._reading_paused or self._handler._buffer_paused):
                self._handler._resume_transport_reading()
        if not self._ends:
            self._take(data, monotonic())

    def is_between_requests(self) -> bool:
        """Whether nothing of a request is here, nor anything of an answer, so that another process may go on with it.

        What follows a head in pieces is aiohttp's for ever: its parser may hold a part of one.
        """
        busy = self._query is not None or self._held or self._parts or self._owed or self._passes or self._ends
        transport = self._transport
        if busy or self._is_paused or transport is None or transport.is_closing():
            return False
        if transport.get_protocol() is not self._handler or transport.get_write_buffer_size():
            return False
        return self._aiohttp_waits or self._find_aiohttp_waiting()

    def lose(self) -> None:
        """The connection is gone."""
        self._transport = None
        self._tell_answers()
        if self._query is not None:
            self._query.abandon()
            self._query = None
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if self._parts:
            self._take_parts()
        self._held.clear()
        self._handler = self._reply = None  # type: ignore[assignment]  # nothing waits for the garbage collector


def _ignore(data: bytes) -> None:
    """Discard data that arrives after the connection has ended."""


class FastPathHandler(webapp.Connection):
    """A connection with the fast path before it."""

    __slots__ = ("_on_fast_path", "data_received")

    def __init__(self, fast_path: FastPath, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._on_fast_path = FastPathConnection(self, fast_path)
        self.data_received = self._on_fast_path.data_received  # type: ignore[method-assign]

    def take_body_due(self) -> float | None:
        return self._on_fast_path.take_body_due()

    def is_between_requests(self) -> bool:
        return self._on_fast_path.is_between_requests()

    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has arrived."""
        return self._is_lane_idle() and is_idle(self)

    def seconds_idle(self) -> float | None:
        seconds = super().seconds_idle() if self._is_lane_idle() else None
        return None if seconds is None else min(seconds, monotonic() - self._on_fast_path.answered_at)

    def _is_lane_idle(self) -> bool:
        return self._on_fast_path.is_idle() and not self._paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._on_fast_path.open(self.transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._on_fast_path.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._on_fast_path.resume()

    def _process_keepalive(self) -> None:
        if self._is_lane_idle():
            since_answer = (
                monotonic() - self._on_fast_path.answered_at
            )  # by the clock that noted it: the loop has another
            answered_until = self._loop.time() - since_answer + self._keepalive_timeout
            self._next_keepalive_close_time = max(self._next_keepalive_close_time, answered_until)
            left = self._next_keepalive_close_time - self._loop.time()
            if not is_idle(self):
                super()._process_keepalive()
            elif left > 0:  # not for aiohttp to decide: a moment later it would close the connection with a reset
                self._keepalive_handle = self._loop.call_later(max(left, _CLOCK_SECONDS), self._process_keepalive)
            elif not close_idle(self):
                self._keepalive_handle = self._loop.call_later(_RETRY_SECONDS, self._process_keepalive)
        else:  # aiohttp believes that the connection is idle
            self._keepalive_handle = self._loop.call_later(self._keepalive_timeout, self._process_keepalive)

    def close(self) -> None:
        """Take no more requests. One that has begun to arrive is aiohttp's to finish."""
        self._on_fast_path.pass_parts()
        self._on_fast_path.end()
        super().close()

    def force_close(self) -> None:
        self._on_fast_path.end()
        super().force_close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        answered = self._on_fast_path.until_answered()
        if answered is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await answered
        self._on_fast_path.end()
        await super().shutdown(timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        # At once, although `lose` may come a few turns later: uvloop raises an error for what is written from now on.
        self._on_fast_path.close()
        super().connection_lost(exc)

    def lose(self, exc: BaseException | None) -> None:
        self._on_fast_path.lose()
        self.data_received = _ignore  # type: ignore[method-assign]
        super().lose(exc)


def close_all_idle(connections: Iterable[RequestHandler]) -> Steps[None]:
    """Half-close those of `connections` that wait for a request of which nothing has arrived."""
    for connection in list(connections):
        yield
        if connection.is_idle() if isinstance(connection, FastPathHandler) else is_idle(connection):
            close_idle(connection)


# --- the server ---


FAST_PATH: Final = web.AppKey("fast_path", FastPath)


def make_runner(app: web.Application, **options: Any) -> webapp.Runner:
    """A runner for `app` with the fast path, if it was given one and this aiohttp is known."""
    if FAST_PATH not in app:
        return webapp.Runner(app, **options)
    if not AIOHTTP_VERSIONS.fullmatch(aiohttp.__version__):
        logger.warning(
            "aiohttp %s is not known: predictions are correct, but several times slower than with one that matches %s",
            aiohttp.__version__,
            AIOHTTP_VERSIONS.pattern,
        )
        return webapp.Runner(app, **options)
    return webapp.Runner(app, partial(FastPathHandler, app[FAST_PATH]), **options)
