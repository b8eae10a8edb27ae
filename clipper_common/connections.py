"""The limit on HTTP connections, the choice of those to close, and closing one without losing a request.

A client may send a request on an idle connection at the moment at which it is closed. So a connection on which data has
arrived is not closed, and others are half-closed first: the client reads an orderly end, not a reset. Only connections
whose clients do not read their answers are aborted.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, NoReturn, Protocol, cast

from clipper_common import long_work
from clipper_common.constants import MAX_CONNECTIONS, UNREAD_SECONDS
from clipper_common.long_work import Steps
from clipper_common.sockets import most_descriptors, unacknowledged_bytes

logger = logging.getLogger(__name__)

_SHARE: Final = 5 / 8
"""The share of the file descriptors that HTTP connections may use; containers, Redis and files need the others."""
_CROWDED: Final = 15 / 16
_ROOMY: Final = 7 / 8
"""Idle connections are closed when more than `_CROWDED` of the limit are open, until `_ROOMY` of it are left."""
_REFUSALS: Final = 1 / 16
"""The most connections that are answered with 503 at a time, as a share of the limit; others are aborted."""
_REFUSAL_SECONDS: Final = 1.0
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
    """Return the number of HTTP connections that leaves this process enough file descriptors for everything else."""
    return int(min(most_descriptors() * _SHARE, MAX_CONNECTIONS))


@dataclass(frozen=True)
class Limits:
    """The limits of the HTTP connections of a server."""

    connections: int = field(default_factory=default_limit)
    unread_seconds: Callable[[], float] = lambda: UNREAD_SECONDS
    """Returns the seconds after which a client that reads nothing of its answer is disconnected. Called each second."""
    unread_changed: Callable[[int], None] = lambda change: None
    """Called with the change in the number of bytes that wait for clients to read, besides the kernel's buffers."""


class Kept(Protocol):
    """A connection of a client."""

    def seconds_idle(self) -> float | None:
        """Return the seconds since the last request was answered; None during a request."""

    def close_idle(self) -> bool:
        """Half-close an idle connection, and close it later. Return False if data has just arrived on it."""


class ConnectionKeeper:
    """Keeps the connections of a server within its limits."""

    def __init__(self, limits: Limits, connections: Mapping[Kept, asyncio.Transport], idle_seconds: float) -> None:
        self._limits = limits
        self._idle_seconds = idle_seconds
        """Seconds after which an idle connection is closed."""
        self._connections = connections
        """The open connections, including those that are closing."""
        self._refusals = 0
        self._stuck: dict[Kept, tuple[int, float]] = {}
        """Bytes that each client has not read, and the monotonic time since which their number is the same."""
        self._unread: dict[Kept, int] = {}
        """Bytes in the write buffer of each connection whose writing is paused."""
        self._warned_at: dict[str, float] = {}

    def refuse(self) -> asyncio.Protocol | None:
        """Return the protocol that refuses a new connection; None if the limit is not reached."""
        if len(self._connections) < self._limits.connections:
            return None
        self._warn_throttled("There are %d connections: new ones are refused", self._limits.connections)
        return _Refusal(self)

    def can_refuse(self) -> bool:
        """Whether one more connection may be answered with 503 now."""
        return self._refusals < max(self._limits.connections * _REFUSALS, 1)

    def count_refusal(self, change: int) -> None:
        self._refusals += change

    def add_unread(self, connection: Kept, size: int) -> None:
        """Count the bytes in the write buffer of a connection whose writing is paused."""
        self._unread[connection] = size
        self._limits.unread_changed(size)

    def remove_unread(self, connection: Kept) -> None:
        if connection in self._unread:
            self._limits.unread_changed(-self._unread.pop(connection))

    async def enforce_limits(self) -> NoReturn:
        """Close stuck connections, and those that are idle for long or when there are too many, once a second."""
        while True:
            await asyncio.sleep(min(_CHECK_SECONDS, self._idle_seconds / 2))
            try:
                await long_work.finish(self._close_stuck_and_idle())
                if len(self._connections) > self._limits.connections * _CROWDED:
                    await long_work.finish(self._make_room())
            except Exception:  # the next attempt may succeed; if this task ended, there would be no limits
                logger.exception("the limits of connections could not be enforced")

    def _close_stuck_and_idle(self) -> Steps[None]:
        """Abort the connections whose clients have not read for `unread_seconds`, and close the idle ones."""
        before, self._stuck = self._stuck, {}
        now, seconds = time.monotonic(), self._limits.unread_seconds()
        for at, (connection, transport) in enumerate(list(self._connections.items()), 1):
            if at % _AT_ONCE == 0:
                yield
            unsent = transport.get_write_buffer_size()
            if not unsent:
                if (connection.seconds_idle() or 0.0) > self._idle_seconds:
                    connection.close_idle()
                continue
            unread = unsent + unacknowledged_bytes(transport.get_extra_info("socket"))
            known, since = before.get(connection, (-1, now))
            if unread == known and now - since >= seconds:
                self._warn_throttled("A client has not read for %.0f seconds: its connection is closed", now - since)
                transport.abort()
            else:
                self._stuck[connection] = unread, since if unread == known else now

    def _make_room(self) -> Steps[None]:
        """Close the connections that have been idle longest."""
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
        """Log a warning, but each text at most once in `_WARNING_SECONDS`, since any client may cause it."""
        now = time.monotonic()
        if now - self._warned_at.get(text, -inf) >= _WARNING_SECONDS:
            self._warned_at[text] = now
            logger.warning(text, number)


class _Refusal(asyncio.Protocol):
    """Answers a new connection with 503 and closes it; aborts it if too many are being answered."""

    def __init__(self, keeper: ConnectionKeeper) -> None:
        self._keeper = keeper
        self._is_counted = False

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)
        if not self._keeper.can_refuse():
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
