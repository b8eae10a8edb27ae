"""Accepts connections: as fast as they arrive in a worker that is alone, and in fair shares beside other workers.

All workers of a supervisor accept from the same sockets. Without balancing, the worker that wakes up first accepts
nearly all: one core is busy, and the others idle. A worker that has reached its limit of connections accepts none while
another worker has room, since it could only refuse them.
"""

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from typing import Final

from clipper_common.http_connection import HttpConnection
from clipper_common.http_server import Server
from query_frontend.http.connection_drain import ConnectionDrain
from query_frontend.workers.context import WorkerContext

logger = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_AT_ONCE: Final = 32
"""The most connections that are accepted before the other readers of the event loop have their turn."""
_LEAD: Final = 1
_LEAD_PARTS: Final = 8
"""A worker defers `accept()` when it has more connections than the least loaded worker, by more than `_LEAD` plus an
eighth of its own: under load a turn of the event loop takes long, and a new client is not to wait for many of them."""
_YIELD_SECONDS: Final = 0.001
"""Seconds for which `accept()` is deferred. The other worker may hang, so the connection is accepted after that."""
_BALANCE_SECONDS: Final = 1.0
_TOLERANCE: Final = 1.25
"""A worker sends connections away when it has more than this many times its share."""
_EXHAUSTED_SECONDS: Final = 1.0
"""Seconds for which no connection is accepted after the system ran out of file descriptors."""
_WARNING_SECONDS: Final = 60.0
"""Seconds before the same warning is logged again."""


class Acceptor:
    """Accepts the HTTP connections of a worker, and balances their number with the other workers.

    It owns the readers of the listening sockets and of the handover socket, and its timers; the server owns the
    connections. `Worker` opens it when the worker serves and again when the number of workers changes, and closes it
    when the worker drains. All of it runs on the event loop of the worker.
    """

    def __init__(self, context: WorkerContext, server: Server, draining: ConnectionDrain, limit: int) -> None:
        self._context = context
        self._server = server
        self._draining = draining
        self._limit = limit
        """The most connections of each worker. More are refused."""
        self._loop = asyncio.get_running_loop()
        self._is_shared: bool | None = None
        """Whether other workers accept connections too; None while this acceptor is closed."""
        self._own: list[asyncio.Server] = []
        """The server of the event loop, which accepts while this worker is alone."""
        self._changing = asyncio.Lock()
        self._yielded = False
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._balancing: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        self._warned_at = -math.inf

    async def open(self, shared: bool) -> None:
        """Accept connections, `shared` with other workers or not; or change between the two."""
        async with self._changing:
            if shared is self._is_shared:
                return
            self._stop_accepting()
            self._is_shared = shared
            self._watch(self._context.handover.taking, self._take_handed_over)
            self._balance()
            for listener in self._context.listeners:
                if shared:
                    listener.listen(_BACKLOG)
                    self._watch(listener, self._accept)
                else:
                    own = await self._loop.create_server(self._server, sock=listener.dup(), backlog=_BACKLOG)
                    if self._is_shared is None:  # closed meanwhile
                        own.close()
                        return
                    self._own.append(own)

    def close(self) -> None:
        """Stop accepting. Accepted connections stay open."""
        self._stop_accepting()
        self._is_shared = None
        self._context.counts.close(self._context.number)
        for listener in self._context.listeners:
            listener.close()

    def _stop_accepting(self) -> None:
        for own in self._own:
            own.close()
        self._own.clear()
        if self._is_shared is not None:
            for source in (self._context.handover.taking, *self._context.listeners):
                self._loop.remove_reader(source)
        if self._balancing is not None:
            self._balancing.cancel()
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()

    # --- beside other workers ---

    def _watch(self, source: socket.socket, take_next: Callable[[socket.socket], bool]) -> None:
        """Call `take_next` while `source` has connections. It returns whether there was one."""
        self._pauses.pop(source, None)
        self._loop.add_reader(source, self._on_connection, source, take_next)

    def _pause(self, source: socket.socket, take_next: Callable[[socket.socket], bool], seconds: float) -> None:
        self._loop.remove_reader(source)
        self._pauses[source] = self._loop.call_later(seconds, self._watch, source, take_next)

    def _on_connection(self, source: socket.socket, take_next: Callable[[socket.socket], bool]) -> None:
        for _ in range(_AT_ONCE):
            if self._others_first():
                self._pause(source, take_next, _YIELD_SECONDS)
                return
            if not take_next(source):
                return

    def _accept(self, listener: socket.socket) -> bool:
        """Take the next connection, if there is one."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster, or the client disconnected
        except OSError as error:
            if self._loop.time() - self._warned_at > _WARNING_SECONDS:
                self._warned_at = self._loop.time()
                logger.error("cannot accept connections: %s", error)
            self._pause(listener, self._accept, _EXHAUSTED_SECONDS)
            return False
        self._take(connection)
        return True

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._welcome(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _others_first(self) -> bool:
        """Whether a worker with fewer connections accepts first: not twice in a row, unless this one is full."""
        mine = self._publish()
        others = min(self._context.counts.of_others(self._context.number), default=mine)
        if mine >= self._limit > others:
            return True
        self._yielded = not self._yielded and mine > others + _LEAD + mine // _LEAD_PARTS
        return self._yielded

    def _balance(self) -> None:
        """Close some connections, once a second, if others have far fewer, such as a worker that was just started."""
        mine = self._publish()
        if self._is_shared:
            counts = [mine, *self._context.counts.of_others(self._context.number)]
            share = math.ceil(sum(counts) / len(counts))
            self._draining.add(mine - share if mine > share * _TOLERANCE + _LEAD else 0, self._server.open_connections)
            self._balancing = self._loop.call_later(_BALANCE_SECONDS, self._balance)

    def _publish(self) -> int:
        connections = len(self._server.open_connections) + len(self._arriving)
        self._context.counts.set(self._context.number, connections)
        return connections

    async def _welcome(self, connection: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._server, connection)

    # --- from one worker to another ---

    def hand_over(self) -> None:
        """Give the connections that are between two requests to the other workers. Their clients notice nothing."""
        for connection in list(self._server.open_connections):
            if connection.is_between_requests():
                self._hand_over(connection)

    def _hand_over(self, connection: HttpConnection) -> None:
        transport = connection.transport
        if transport is not None and self._context.handover.give(transport.get_extra_info("socket").fileno()):
            transport.abort()  # closes our descriptor: the connection lives as long as there is another

    def _take_handed_over(self, _: socket.socket) -> bool:
        connection = self._context.handover.take_socket()
        if connection is not None:
            self._take(connection)
        return connection is not None
