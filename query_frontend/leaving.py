"""How connections end without a loss: with their next answer, or half-closed when they are idle.

``Connection: close`` in an answer sends a client to another worker or frontend. An idle connection has no such answer,
and a client may be writing to it at the very moment at which it is closed. So nothing is closed on which a request has
arrived already, and what is closed is only half-closed at first: the client reads an orderly end, not a reset.
"""

import asyncio
import select
from collections.abc import Collection
from typing import Final

from aiohttp.web_protocol import RequestHandler

IDLE_SECONDS: Final = 5.0
"""For how many seconds a leaving worker or frontend waits for the next request of an idle connection."""
_FAREWELL_SECONDS: Final = 1.0
"""For how many seconds a half-closed connection waits for the client to close its half."""


class Leaving:
    """Connections that close with their next answer."""

    def __init__(self) -> None:
        self._some: set[RequestHandler] = set()
        self._all = False
        self.is_empty = True
        """Of each request this alone is asked as a rule."""

    def __contains__(self, connection: object) -> bool:
        return self._all or connection in self._some

    def add_all(self) -> None:
        """Those too that come from now on."""
        self._all, self.is_empty = True, False

    def add(self, surplus: int, connections: Collection[RequestHandler]) -> None:
        """Have `surplus` of all `connections` leave, with those that are about to."""
        self._some.intersection_update(connections)
        staying = [connection for connection in connections if connection not in self._some]
        self._some.update(staying[: max(0, surplus - len(self._some))])
        self.is_empty = not (self._all or self._some)


def is_idle(connection: RequestHandler) -> bool:
    """Whether aiohttp waits for the next request of this connection, as far as aiohttp knows."""
    waiter = connection._waiter
    return waiter is not None and not waiter.done() and not connection._force_close


def close_idle(connection: RequestHandler) -> bool:
    """Half-close an idle connection, and close it a little later. False when a request has just arrived on it."""
    transport = connection.transport
    if transport is None or transport.is_closing() or transport.get_protocol() is not connection:
        return True  # it ends already
    if has_arrived(transport):
        return False
    transport.set_protocol(_Farewell(connection))
    if transport.can_write_eof():
        transport.write_eof()
    asyncio.get_running_loop().call_later(_FAREWELL_SECONDS, transport.close)
    return True


def has_arrived(transport: asyncio.Transport) -> bool:
    """Whether the kernel holds something that the client sent and nobody has read."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _Farewell(asyncio.Protocol):
    """Reads and discards the data of a half-closed connection, so that closing it causes no reset."""

    def __init__(self, connection: RequestHandler) -> None:
        self._connection = connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
