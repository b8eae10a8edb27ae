"""Where connections come in: as fast as they come for a worker that is alone, and in fair shares beside others.

All workers of an owner accept from the same sockets. Left to themselves, whoever wakes up first takes nearly all: then
one core is busy, and the others idle.
"""

import asyncio
import logging
import math
import socket
from typing import Final

from aiohttp import web

from query_frontend.lane import LaneHandler
from query_frontend.leaving import Leaving
from query_frontend.seat import Seat

logger = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_AT_ONCE: Final = 32
"""So many connections are accepted before the other readers of the event loop have their turn."""
_LEAD: Final = 1
_LEAD_PARTS: Final = 8
"""So many connections, and this part of its own, may a worker have more than another before that one goes first: under
load a turn of the event loop takes long, and whoever connects is not to wait for many of them."""
_YIELD_SECONDS: Final = 0.001
"""For so long. The other may hang: after that it is taken anyway."""
_BALANCE_SECONDS: Final = 1.0
_TOLERANCE: Final = 1.25
"""So many times its share may a worker have before it sends connections away."""
_EXHAUSTED_SECONDS: Final = 1.0
"""For so long nothing is accepted when the system has no more descriptors."""


class Door:
    def __init__(self, seat: Seat, server: web.Server, leaving: Leaving) -> None:
        self._seat = seat
        self._server = server
        self._leaving = leaving
        self._loop = asyncio.get_running_loop()
        self._is_shared: bool | None = None
        """None while it is closed."""
        self._own: list[asyncio.Server] = []
        """Accept for us while we are alone."""
        self._changing = asyncio.Lock()
        self._yielded = False
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._balancing: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[None]] = set()

    async def open(self, shared: bool) -> None:
        """Accept connections, `shared` with other workers or not; or change between the two."""
        async with self._changing:
            if shared is self._is_shared:
                return
            if self._is_shared is None:
                self._loop.add_reader(self._seat.handover.taking, self._on_handed_over)
            self._stop_accepting()
            self._is_shared = shared
            self._balance()
            for listener in self._seat.listeners:
                if shared:
                    listener.listen(_BACKLOG)
                    self._watch(listener)
                else:
                    own = await self._loop.create_server(self._server, sock=listener.dup(), backlog=_BACKLOG)
                    if self._is_shared is None:  # closed meanwhile
                        own.close()
                        return
                    self._own.append(own)

    def close(self) -> None:
        """Accept no more. What has been accepted stays."""
        self._stop_accepting()
        if self._is_shared is not None:
            self._loop.remove_reader(self._seat.handover.taking)
        self._is_shared = None
        self._seat.loads.close(self._seat.number)
        for listener in self._seat.listeners:
            listener.close()

    def _stop_accepting(self) -> None:
        for own in self._own:
            own.close()
        self._own.clear()
        if self._is_shared:
            for listener in self._seat.listeners:
                self._loop.remove_reader(listener)
        if self._balancing is not None:
            self._balancing.cancel()
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()

    # --- beside others ---

    def _watch(self, listener: socket.socket) -> None:
        self._pauses.pop(listener, None)
        self._loop.add_reader(listener, self._on_connection, listener)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._pauses[listener] = self._loop.call_later(seconds, self._watch, listener)

    def _on_connection(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if self._others_first():
                self._pause(listener, _YIELD_SECONDS)
                return
            if not self._accept(listener):
                return

    def _accept(self, listener: socket.socket) -> bool:
        """Take the next connection, if there is one."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another was faster, or the client gave up
        except OSError as error:
            logger.error("cannot accept connections: %s", error)
            self._pause(listener, _EXHAUSTED_SECONDS)
            return False
        self._take(connection)
        return True

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._welcome(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _others_first(self) -> bool:
        """Whether another has fewer connections. Not twice in a row."""
        mine = self._publish()
        others = min(self._seat.loads.of_others(self._seat.number), default=mine)
        self._yielded = not self._yielded and mine > others + _LEAD + mine // _LEAD_PARTS
        return self._yielded

    def _balance(self) -> None:
        """Once a second: send some away when others have far fewer, such as a worker that was just started."""
        mine = self._publish()
        if self._is_shared:
            loads = [mine, *self._seat.loads.of_others(self._seat.number)]
            share = math.ceil(sum(loads) / len(loads))
            self._leaving.add(mine - share if mine > share * _TOLERANCE + _LEAD else 0, self._server.connections)
            self._balancing = self._loop.call_later(_BALANCE_SECONDS, self._balance)

    def _publish(self) -> int:
        connections = len(self._server.connections) + len(self._arriving)
        self._seat.loads.set(self._seat.number, connections)
        return connections

    async def _welcome(self, connection: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._server, connection)

    # --- from one worker to another ---

    def hand_over(self) -> None:
        """Give the connections that are between two requests to the other workers. Their clients notice nothing."""
        for connection in list(self._server.connections):
            if isinstance(connection, LaneHandler) and connection.is_between_requests():
                self._hand_over(connection)

    def _hand_over(self, connection: LaneHandler) -> None:
        transport = connection.transport
        if transport is not None and self._seat.handover.give(transport.get_extra_info("socket").fileno()):
            transport.abort()  # closes our descriptor: the connection lives as long as there is another

    def _on_handed_over(self) -> None:
        for _ in range(_AT_ONCE):
            connection = self._seat.handover.take()
            if connection is None:
                return
            self._take(connection)
