"""A client's connection with the fast path before aiohttp's."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any, Final

from aiohttp import web

from clipper_common import webapp
from clipper_common.http_connection import NOT_OURS, HttpConnection
from clipper_common.http_framing import END_OF_HEAD, Head, Heads
from clipper_common.http_server import Server
from clipper_common.long_work import Steps
from query_frontend.http.fast_path import FastPath, app_of
from query_frontend.serving.answers import LARGE_OUTPUT_BYTES
from query_frontend.serving.deadlines import Slot
from query_frontend.serving.query import Query
from query_frontend.serving.waiting import BatchClients

logger = logging.getLogger(__name__)


class FastPathConnection(HttpConnection):
    def __init__(self, fast_path: FastPath, server: Server) -> None:
        super().__init__(server)
        self._fast_path = fast_path
        self._reply = self._reply_to
        """Bound once. Broken by `lose`."""
        self._query: Query | None = None
        """The query that the fast path has in flight."""
        self._clients: BatchClients | None = None
        """The clients of the batch that answered its last query."""
        self._parts: list[bytes] = []
        """A plain request whose body is not complete."""
        self._arrival = 0.0
        """Monotonic time at which the request of that query began to arrive."""
        self._missing = 0
        """The number of bytes that its body still lacks."""
        self._slot: Slot = {}
        """The slot of the deadline wheel by which it must be complete."""
        self._answered: asyncio.Future[None] | None = None
        """Resolved when the query under way is answered; `shutdown` awaits it."""

    def data_received(self, data: bytes) -> None:
        if self._parts:
            self._add_part(data)
        else:
            HttpConnection.data_received(self, data)

    def _answer(self, head: Head, data: bytes, arrival: float) -> int:
        fast_path = self._fast_path
        app_name = head.app
        if app_name is None or (not fast_path.draining.is_empty and self in fast_path.draining):
            return NOT_OURS
        body_at = len(head.text)
        size = body_at + head.length
        if len(data) < size:
            if not fast_path.knows(app_name):
                return NOT_OURS
            self._await_rest(data, size - len(data), arrival)
            return len(data)
        raw = data  # compiled, a pointer: slices of it are made without a slice object
        query = fast_path.ask(app_name, head, raw[body_at:size], arrival, self._reply, self._clients)
        if query is None:
            return NOT_OURS
        if query.answer is None:
            self._query = query
            self._is_answering = True
        else:
            self._write(query, monotonic())
        return size

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
        """The body took too long; the general path says so."""
        self._pass_parts()

    def _pass_parts(self) -> None:
        head = self._head
        if self._parts and head is not None:
            data = self._take_parts()
            self.body_due = self._arrival + self._fast_path.content_seconds
            self._expect(head)
            self._take(self._feed(data, len(head.text)), self._arrival)

    # --- a query under way ---

    def _reply_to(self, query: Query, now: float) -> None:
        """The query is answered."""
        self._query = None
        self._is_answering = False
        try:
            self._write(query, now)
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(None)
            if self._held:
                self._go_on()
        except Exception:  # the other queries of the batch are not to suffer from it
            logger.exception("a connection failed")
            self.shut()

    def _write(self, query: Query, now: float) -> None:
        fast_path, transport = self._fast_path, self.transport
        if transport is None:
            return
        output = query.answer
        rest: list[bytes] = []
        if type(output) is bytes and len(output) > LARGE_OUTPUT_BYTES:
            answer, *rest = fast_path.render_in_parts(query, output)
        else:
            answer = fast_path.render(query, now)
        leaves = not fast_path.draining.is_empty and self in fast_path.draining
        if leaves:
            answer = answer.replace(END_OF_HEAD, b"\r\nConnection: close" + END_OF_HEAD, 1)
        if rest:
            transport.writelines([answer, *rest])
        else:
            transport.write(answer)
        self._clients = query.clients
        self.answered_at = now
        if self._ends or leaves:
            self.shut()

    # --- the end ---

    def _is_busy(self) -> bool:
        return bool(self._parts) or HttpConnection._is_busy(self)

    def close(self) -> None:
        """Take no more requests. One that has begun to arrive is aiohttp's to finish."""
        self._pass_parts()
        HttpConnection.close(self)

    async def shutdown(self, seconds: float | None) -> None:
        if self._query is not None:
            self._answered = self._server.loop.create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._answered
        await HttpConnection.shutdown(self, seconds)

    def lose(self, exc: BaseException | None) -> None:
        if self._query is not None:
            self._query.abandon()
            self._query = None
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        if self._parts:
            self._take_parts()
        self._reply = None  # type: ignore[assignment]  # nothing waits for the garbage collector
        HttpConnection.lose(self, exc)


def close_all_idle(connections: Iterable[HttpConnection]) -> Steps[None]:
    """Half-close those of `connections` that wait for a request of which nothing has arrived."""
    for connection in list(connections):
        yield
        if connection.seconds_idle() is not None:
            connection.close_idle()


FAST_PATH: Final = web.AppKey("fast_path", FastPath)


def make_runner(app: web.Application, **options: Any) -> webapp.Runner:
    """Return a runner for `app`, with the fast path if it was given one."""
    if FAST_PATH not in app:
        return webapp.Runner(app, **options)
    return webapp.Runner(app, partial(FastPathConnection, app[FAST_PATH]), Heads(app_of), **options)
