"""Connections that close with their next answer, so that their clients come back by another worker or frontend."""

from collections.abc import Collection

from aiohttp.web_protocol import RequestHandler


class Leaving:
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
