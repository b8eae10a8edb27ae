"""A ZeroMQ ROUTER within the event loop: whom containers connect to.

libzmq would do its I/O in a thread of its own, and a batch would wake that thread on its way out, and both threads on
its way back; waking them takes more CPU than all that is done with the batch. Here the loop reads and writes itself,
and it knows at once when a connection is lost.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from clipper_common import constants
from query_frontend import zmtp
from query_frontend.zmtp import Conversation, ZmtpError

logger = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_READ_BYTES: Final = 1 << 16
_MAX_PIECES: Final = 64
"""That are handed to the kernel without being put together."""
_MAX_WAITING: Final = 1000
"""Messages, as with libzmq. Then the peer does not read."""
_MESSAGES_PER_TURN: Final = 64
_STRANGER_BYTES: Final = 1 << 16
"""The largest message before `Peer.trust`."""
_MAX_MESSAGE_BYTES: Final = 1 << 30
_HANDSHAKE_SECONDS: Final = 10.0
_EXHAUSTED_SECONDS: Final = 0.5
_PING_SECONDS: Final = constants.TRANSPORT_HEARTBEAT_MILLIS / 1000
_TIMEOUT_SECONDS: Final = constants.TRANSPORT_TIMEOUT_MILLIS / 1000


@dataclass
class PeerEvents:
    """Whom peers report to."""

    said: Callable[["Peer", list[list[bytes]]], None]
    """Messages, in the order in which they came."""
    lost: Callable[["Peer", str], None]
    """It is gone, and why."""
    broke_protocol: Callable[[str], None]
    """How; it is lost then too."""


class Peer:
    """A connection."""

    def __init__(self, connection: socket.socket, events: PeerEvents) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._events = events
        self._conversation = Conversation(_STRANGER_BYTES)
        self._unsent = bytearray()
        self._waiting = 0
        """How much of it came when there was some already, counted in messages."""
        self._heard_at = time.monotonic()
        self.closed = False
        self._loop.add_reader(connection, self._on_readable)
        self._write([zmtp.OPENING])

    def trust(self) -> None:
        """Take large messages."""
        self._conversation.max_bytes = _MAX_MESSAGE_BYTES

    def send(self, frames: list[bytes]) -> bool:
        """Send a message, or keep it until it can be sent. False when the peer is gone, and then it was reported."""
        self._write(zmtp.encode(frames))
        return not self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def tend(self, now: float) -> None:
        """Once in a while: see whether it lives, and let it see that we do."""
        silence = now - self._heard_at
        if not self._conversation.is_open:
            if silence > _HANDSHAKE_SECONDS:
                self._lose("it did not introduce itself")
        elif silence > _TIMEOUT_SECONDS and self._conversation.knows_pings:
            self._lose("it does not answer")
        elif silence > _PING_SECONDS / 2:
            self._write([zmtp.PING])

    def excuse_silence(self, now: float) -> None:
        """Nobody listened for a while: that was our silence, not the peer's."""
        self._heard_at = now

    # --- I/O ---

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(f"its connection broke: {error}")
            return
        if not data:
            self._lose("it closed its connection")
            return
        self._heard_at = time.monotonic()
        try:
            messages = self._conversation.receive(data)
        except ZmtpError as error:
            self._events.broke_protocol(str(error))
            self._lose(str(error))
            return
        if self._conversation.replies:
            replies, self._conversation.replies = self._conversation.replies, []
            self._write(replies)
        if messages:
            self._hand_over(messages)

    def _hand_over(self, messages: list[list[bytes]]) -> None:
        if self.closed:
            return
        rest = messages[_MESSAGES_PER_TURN:]
        if rest:  # let others have a turn
            del messages[_MESSAGES_PER_TURN:]
            self._loop.remove_reader(self._socket)
            self._loop.call_soon(self._hand_over_rest, rest)
        self._events.said(self, messages)

    def _hand_over_rest(self, messages: list[list[bytes]]) -> None:
        if not self.closed:
            self._loop.add_reader(self._socket, self._on_readable)
            self._hand_over(messages)

    def _write(self, pieces: list[bytes]) -> None:
        if self._unsent:
            self._unsent += b"".join(pieces)
            self._waiting += 1
            if self._waiting > _MAX_WAITING:
                self._lose("it takes no more messages")
            return
        if len(pieces) > _MAX_PIECES:
            pieces = [b"".join(pieces)]
        try:
            sent = self._socket.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lose(f"its connection broke: {error}")
            return
        if sent < sum(map(len, pieces)):
            self._unsent += memoryview(b"".join(pieces))[sent:]
            self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(f"its connection broke: {error}")
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._waiting = 0
            self._loop.remove_writer(self._socket)

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._events.lost(self, reason)


class Router:
    """Accepts peers, and tends them."""

    def __init__(self, events: PeerEvents) -> None:
        self._events = events
        self._peers: set[Peer] = set()
        self._tended_at = 0.0
        self._pause: asyncio.TimerHandle | None = None

    def start(self, host: str, port: int) -> int:
        """Listen; on which port. Raises `OSError` when the address is taken, or none of ours."""
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

    def tend(self, now: float) -> None:
        """Once a second."""
        listened = now - self._tended_at < _TIMEOUT_SECONDS / 2
        self._tended_at = now
        for peer in list(self._peers):
            if not listened:
                peer.excuse_silence(now)
            peer.tend(now)
        self._peers = {peer for peer in self._peers if not peer.closed}

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._on_connection)

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            logger.error("cannot accept containers: %s", error)
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(_EXHAUSTED_SECONDS, self._watch)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer = Peer(connection, self._events)
        if not peer.closed:
            self._peers.add(peer)


def _listen(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    is_everywhere = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=is_everywhere)
    listener.setblocking(False)
    return listener
