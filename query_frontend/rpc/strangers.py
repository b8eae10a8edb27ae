"""The peers of a ROUTER that have not registered: their number and the size of their messages are limited."""

from typing import TYPE_CHECKING, Final

from clipper_common.sockets import most_descriptors

if TYPE_CHECKING:
    from query_frontend.rpc.peer import Peer

MAX_STRANGERS_BYTES: Final = 1 << 20
"""The most bytes in a message of a peer that has not registered; its metadata takes less."""
_MAX_ALL_STRANGERS_BYTES: Final = 1 << 24
"""The most bytes that are kept of messages of all peers that have not registered."""
_MAX_STRANGERS: Final = 256
_STRANGERS_SHARE: Final = 1 / 8
"""The share of the file descriptors that limits unregistered peers, where it is less than `_MAX_STRANGERS`."""
_CONTAINERS_SHARE: Final = 7 / 32
"""The share of the file descriptors for registered containers. HTTP connections have five eighths; Redis, files and
relays have what is left."""
_MAX_CONTAINERS: Final = 1024
"""The most containers of a worker: work for all of them, once a second or at each change, takes a few milliseconds."""
_LEAST_STRANGERS_SHARE: Final = 1 / 32
"""The share of the file descriptors that remains for unregistered peers, however many containers are registered."""


def most_containers() -> int:
    """Return how many containers may be registered."""
    return max(int(min(most_descriptors() * _CONTAINERS_SHARE, _MAX_CONTAINERS)), 1)


class Strangers:
    """The peers that have not registered, oldest first. Their number and the size of their messages are limited."""

    def __init__(self) -> None:
        self._peers: dict[Peer, int] = {}
        """The number of bytes that are kept of each peer's messages."""
        self._bytes = 0
        self._descriptors = most_descriptors()
        self.leave_room_for(0)

    def leave_room_for(self, containers: int) -> None:
        """Limit the number of unregistered peers to the descriptors that are left beside the registered containers."""
        most = self._descriptors
        left = max(most * _CONTAINERS_SHARE - containers, most * _LEAST_STRANGERS_SHARE)
        self._most = max(int(min(most * _STRANGERS_SHARE, left, _MAX_STRANGERS)), 1)

    def add(self, peer: "Peer") -> None:
        """Add a peer as the newest. If there are too many, the oldest is disconnected."""
        self.remove(peer)
        self._peers[peer] = 0
        if len(self._peers) > self._most:
            next(iter(self._peers)).disconnect(f"there are more than {self._most} that have not said who they are")

    def remove(self, peer: "Peer") -> None:
        self._bytes -= self._peers.pop(peer, 0)

    def has_room(self, peer: "Peer", kept: int) -> bool:
        """Set the number of bytes that are kept of the peer's messages. Return whether all are within the limit."""
        self._bytes += kept - self._peers.get(peer, 0)
        self._peers[peer] = kept
        return self._bytes <= _MAX_ALL_STRANGERS_BYTES
