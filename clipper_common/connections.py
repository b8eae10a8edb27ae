"""How many HTTP connections a server keeps, which of them it closes, and how one is closed without a loss.

A client may be writing to an idle connection at the very moment at which it is closed. So nothing is closed on which a
request has arrived already, and what is closed is only half-closed at first: the client reads an orderly end, not a
reset. Only a client that does not read what it asked for is cut off.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, NoReturn, Protocol, cast

from aiohttp.web_protocol import RequestHandler

from clipper_common import long_work
from clipper_common.constants import MAX_CONNECTIONS, UNREAD_SECONDS
from clipper_common.long_work import Steps
from clipper_common.sockets import has_unread_bytes, most_descriptors, unacknowledged_bytes

logger = logging.getLogger(__name__)

_SHARE: Final = 0.75
"""The share of the file descriptors that HTTP connections may have; containers, Redis and files need the others."""
_CROWDED: Final = 15 / 16
_ROOMY: Final = 7 / 8
"""Above the former part of the limit, so many idle connections are closed that the latter part is left."""
_REFUSALS: Final = 1 / 16
"""The most connections that are answered with 503 at a time, as a share of the limit."""
_REFUSAL_SECONDS: Final = 1.0
_HALF_CLOSED_SECONDS: Final = 1.0
"""For how many seconds a half-closed connection waits for the client to close its half."""
_CHECK_SECONDS: Final = 1.0
_AT_ONCE: Final = 25
"""The number of connections that are examined, or closed, in one step."""
_WARNING_SECONDS: Final = 60.0
_NO_ROOM_BODY: Final = b'{"error":"Service Unavailable","cause":"There are too many connections: come back later"}'
_NO_ROOM: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%b" % (len(_NO_ROOM_BODY), _NO_ROOM_BODY)
)


def default_limit() -> int:
    """As many connections as leave this process file descriptors for everything else."""
    return int(min(most_descriptors() * _SHARE, MAX_CONNECTIONS))


@dataclass(frozen=True)
class Limits:
    """The limits of the HTTP connections of a server."""

    connections: int = field(default_factory=default_limit)
    unread_seconds: Callable[[], float] = lambda: UNREAD_SECONDS
    """How long a client may take none of what was written to it. It is asked every second."""
    unread_changed: Callable[[int], None] = lambda change: None
    """Is told by how many bytes there are more that clients have not read, apart from what the kernel has of it."""


class Kept(Protocol):
    """A connection."""

    def seconds_idle(self) -> float | None:
        """For how long it has waited for a request; None while it does not."""

    def close_idle(self) -> bool:
        """As `close_idle` below."""


class ConnectionKeeper:
    """Keeps the connections of a server within its limits."""

    def __init__(self, limits: Limits, connections: Mapping[Kept, asyncio.Transport]) -> None:
        self._limits = limits
        self._connections = connections
        """All that are open, also those that are about to close."""
        self._refusals = 0
        self._stuck: dict[Kept, tuple[int, float]] = {}
        """How many bytes a client has not read, and since when it is so many."""
        self._unread: dict[Kept, int] = {}
        """How many bytes were not sent when there was too much for a client."""
        self._warned_at: dict[str, float] = {}

    def refuse(self) -> asyncio.Protocol | None:
        """The protocol of a new connection for which there is no room; None if there is."""
        if len(self._connections) < self._limits.connections:
            return None
        self._warn_throttled("There are %d connections: new ones are refused", self._limits.connections)
        return _Refusal(self)

    def has_time_for_refusal(self) -> bool:
        return self._refusals < max(self._limits.connections * _REFUSALS, 1)

    def count_refusal(self, change: int) -> None:
        self._refusals += change

    def add_unread(self, connection: Kept, size: int) -> None:
        """No more is written to a connection until its client has read some of what was."""
        self._unread[connection] = size
        self._limits.unread_changed(size)

    def remove_unread(self, connection: Kept) -> None:
        if connection in self._unread:
            self._limits.unread_changed(-self._unread.pop(connection))

    async def enforce_limits(self) -> NoReturn:
        """Look after the connections once a second."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await long_work.finish(self._abort_stuck())
                if len(self._connections) > self._limits.connections * _CROWDED:
                    await long_work.finish(self._make_room())
            except Exception:  # the next time it may succeed, and without it nothing would be limited any more
                logger.exception("connections could not be looked after")

    def _abort_stuck(self) -> Steps[None]:
        before, self._stuck = self._stuck, {}
        now, seconds = time.monotonic(), self._limits.unread_seconds()
        for at, (connection, transport) in enumerate(list(self._connections.items()), 1):
            if at % _AT_ONCE == 0:
                yield
            unsent = transport.get_write_buffer_size()
            if not unsent:
                continue
            unread = unsent + unacknowledged_bytes(transport.get_extra_info("socket"))
            known, since = before.get(connection, (-1, now))
            if unread == known and now - since >= seconds:
                self._warn_throttled("A client has not read for %.0f seconds: its connection is closed", now - since)
                transport.abort()
            else:
                self._stuck[connection] = unread, since if unread == known else now

    def _make_room(self) -> Steps[None]:
        """Close the connections that have been idle for longest."""
        idle: list[tuple[float, int, Kept]] = []
        for at, connection in enumerate(list(self._connections), 1):
            if at % _AT_ONCE == 0:
                yield
            seconds = connection.seconds_idle()
            if seconds is not None:
                idle.append((seconds, at, connection))
        surplus = len(self._connections) - int(self._limits.connections * _ROOMY)
        self._warn_throttled("There are %d connections: idle ones are closed", len(self._connections))
        for at, (_, _, connection) in enumerate(heapq.nlargest(surplus, idle), 1):
            if at % _AT_ONCE == 0:
                yield
            if connection.seconds_idle() is not None:
                connection.close_idle()

    def _warn_throttled(self, text: str, number: float) -> None:
        """Log, but each of the texts only once in a while, since anyone may bring it about."""
        now = time.monotonic()
        if now - self._warned_at.get(text, -inf) >= _WARNING_SECONDS:
            self._warned_at[text] = now
            logger.warning(text, number)


class _Refusal(asyncio.Protocol):
    """Tells a client that there is no room, if there is time for that."""

    def __init__(self, keeper: ConnectionKeeper) -> None:
        self._keeper = keeper
        self._is_counted = False

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)
        if not self._keeper.has_time_for_refusal():
            transport.abort()
            return
        self._is_counted = True
        self._keeper.count_refusal(1)
        transport.write(_NO_ROOM)
        transport.write_eof()  # a request that arrives now is read and discarded: it would cause a reset
        asyncio.get_running_loop().call_later(_REFUSAL_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_counted:
            self._keeper.count_refusal(-1)


# --- idle connections ---


def is_idle(connection: RequestHandler) -> bool:
    """Whether aiohttp waits for the next request of this connection, as far as aiohttp knows."""
    waiter = connection._waiter
    is_waiting = waiter is not None and not waiter.done() and not connection._force_close
    return is_waiting and not getattr(connection, "rests", False)


def close_idle(connection: RequestHandler) -> bool:
    """Half-close an idle connection, and close it a little later. False when a request has just arrived on it."""
    transport = connection.transport
    if transport is None or transport.is_closing() or transport.get_protocol() is not connection:
        return True  # it ends already
    if has_unread_bytes(transport.get_extra_info("socket")):
        return False
    transport.set_protocol(_HalfClosed(connection))
    if transport.can_write_eof():
        transport.write_eof()
    asyncio.get_running_loop().call_later(_HALF_CLOSED_SECONDS, transport.close)
    return True


class _HalfClosed(asyncio.Protocol):
    """Reads and discards the data of a half-closed connection, so that closing it causes no reset."""

    def __init__(self, connection: RequestHandler) -> None:
        self._connection = connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
