"""The limit on connected containers, which model versions share fairly.

A container beyond the limit takes the place of another one if its model version has fewer than the version with the
most. So each version keeps at least an equal share, however many containers the others start.
"""

from typing import Final

from clipper_common.datatypes import ModelId
from query_frontend.rpc.server import ReplicaConnection

Group = ModelId | None
"""A registered model version; None for all that are not registered, whose names anybody may invent."""

UNREGISTERED: Final = None


class ReplicaLimit:
    """The connected containers by groups. Each operation takes constant time, however many there are."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._groups: dict[Group, dict[ReplicaConnection, None]] = {}
        """The containers of each group, newest last. No group is empty."""
        self._by_size: dict[int, dict[Group, None]] = {}
        """The groups of each size. No entry is empty."""
        self._largest = 0
        """The size of the largest group."""
        self._size = 0

    def add(self, group: Group, connection: ReplicaConnection) -> None:
        self._groups.setdefault(group, {})[connection] = None
        self._resized(group, 1)

    def remove(self, group: Group, connection: ReplicaConnection) -> None:
        connections = self._groups[group]
        del connections[connection]
        if not connections:
            del self._groups[group]
        self._resized(group, -1)

    def _resized(self, group: Group, change: int) -> None:
        size = len(self._groups.get(group, ()))
        self._size += change
        alike = self._by_size.get(size - change, {})
        alike.pop(group, None)
        if not alike:
            self._by_size.pop(size - change, None)
        if size:
            self._by_size.setdefault(size, {})[group] = None
        if size > self._largest or self._largest not in self._by_size:
            self._largest = size

    @property
    def is_reached(self) -> bool:
        return self._size >= self.most

    def replaced_by(self, group: Group) -> ReplicaConnection | None:
        """Return the container that gives its place to a new one of `group`; None if no group has enough more."""
        if self._largest < len(self._groups.get(group, ())) + 2:  # otherwise the two would displace each other for ever
            return None
        return next(reversed(self._groups[next(iter(self._by_size[self._largest]))]))
