"""Connections that end with their next answer: ``Connection: close`` sends a client to another worker or frontend.

An idle connection has no such answer: `clipper_common.connections` closes it.
"""

from collections.abc import Collection
from typing import Final

from clipper_common.http_connection import HttpConnection

IDLE_SECONDS: Final = 5.0
"""Seconds for which a draining worker or frontend waits for the next request of an idle connection."""


class ConnectionDrain:
    """Connections that close with their next answer."""

    def __init__(self) -> None:
        self._some: set[HttpConnection] = set()
        self._all = False
        self.is_empty = True
        """Whether no connection is to close: a fast check, and usually all that a request reads."""

    def __contains__(self, connection: object) -> bool:
        return self._all or connection in self._some

    def add_all(self) -> None:
        """Close all connections with their next answer, those that are opened later too."""
        self._all, self.is_empty = True, False

    def add(self, surplus: int, connections: Collection[HttpConnection]) -> None:
        """Have `surplus` of all `connections` leave, with those that are about to."""
        self._some.intersection_update(connections)
        staying = [connection for connection in connections if connection not in self._some]
        self._some.update(staying[: max(0, surplus - len(self._some))])
        self.is_empty = not (self._all or self._some)
