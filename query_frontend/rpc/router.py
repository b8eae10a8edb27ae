"""A ZeroMQ ROUTER socket on the event loop, to which containers connect."""

import asyncio
import socket
from typing import Final

from query_frontend.rpc.peer import TIMEOUT_SECONDS, Peer, PeerEvents, configure
from query_frontend.rpc.strangers import MAX_STRANGERS_BYTES, Strangers
from query_frontend.rpc.zmtp import Conversation

_BACKLOG: Final = 1024
_EXHAUSTED_SECONDS: Final = 0.5


class Router:
    """Accepts the connections of peers and checks their liveness."""

    def __init__(self, events: PeerEvents) -> None:
        self._events = events
        self._strangers = Strangers()
        self._peers: set[Peer] = set()
        self._checked_at = 0.0
        self.listened = False
        """Whether the event loop was reading between the last two liveness checks: otherwise silence means nothing."""
        self._pause: asyncio.TimerHandle | None = None

    def start(self, host: str, port: int) -> int:
        """Listen, and return the port. Raises `OSError` if the address is in use or not a local one."""
        self._loop = asyncio.get_running_loop()
        self._listener = _listen(host, port)
        self._watch()
        bound: int = self._listener.getsockname()[1]
        return bound

    def stop(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for peer in self._peers:
            peer.close()
        self._peers.clear()

    def leave_room_for(self, containers: int) -> None:
        """Count `containers` peers as registered, which limits how many others may be connected."""
        self._strangers.leave_room_for(containers)

    def check_liveness(self, now: float) -> None:
        """Check the liveness of all peers. Called once a second."""
        self.listened = now - self._checked_at < TIMEOUT_SECONDS / 2
        self._checked_at = now
        self._peers = {peer for peer in self._peers if not peer.closed}
        for peer in list(self._peers):
            if not self.listened:
                peer.reset_idle_timer(now)
            peer.check_liveness(now)
            peer.report_held()

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._on_connection)

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._events.warn(f"cannot accept containers: {error}")
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(_EXHAUSTED_SECONDS, self._watch)
            return
        try:
            configure(connection)
        except OSError:  # the peer has closed it already
            connection.close()
            return
        peer = Peer(connection, self._events, Conversation(MAX_STRANGERS_BYTES), self._strangers)
        self._peers.add(peer)
        peer.distrust()
        peer.start()


def _listen(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Containers resolve a host name to its IPv4 address first, so it is preferred here too.
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    is_everywhere = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=is_everywhere)
    listener.setblocking(False)
    return listener
