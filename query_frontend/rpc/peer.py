"""A ZeroMQ connection on the event loop, which reads and writes its socket.

libzmq does its I/O in a thread of its own: a batch would wake that thread when it is sent, and both threads when it is
answered, which takes more CPU than all other work on the batch. Here the event loop reads and writes the sockets
itself, and learns at once that a connection is lost.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Final

from clipper_common import constants, long_work
from clipper_common.sockets import unacknowledged_bytes
from clipper_common.wire import OutFrames
from query_frontend.rpc import zmtp
from query_frontend.rpc.strangers import Strangers
from query_frontend.rpc.zmtp import Conversation

_READ_BYTES: Final = 1 << 16
_READS_PER_STEP: Final = 16
_MESSAGES_PER_STEP: Final = 64
_MAX_PIECES: Final = 64
"""The most buffers that are passed to one `sendmsg`; more are joined first."""
_WRITE_BYTES: Final = 1 << 20
"""The most bytes that are passed to the kernel in one iteration of the event loop, so that no peer keeps it busy."""
_MAX_WAITING: Final = 1000
"""The most unsent messages, libzmq's high-water mark; a peer with more does not read, and is lost."""
_MAX_JOINED_BYTES: Final = 1 << 16
"""Smaller messages are joined when they must wait, since each buffer takes memory. A peer that has more than this
unsent is sent no larger message: a batch is sent after the answer to the one before, for which that must be read."""
MAX_MESSAGE_BYTES: Final = 1 << 30
_STRANGER_SECONDS: Final = constants.SILENCE_SECONDS
"""Seconds that a peer has to register. A version 3 container that receives nothing sends a heartbeat after five
seconds; one that computes does so after its batch. If it was disconnected meanwhile, its libzmq has reconnected."""
_HANDSHAKE_SECONDS: Final = 10.0
_PING_SECONDS: Final = constants.TRANSPORT_HEARTBEAT_MILLIS / 1000
TIMEOUT_SECONDS: Final = constants.TRANSPORT_TIMEOUT_MILLIS / 1000
_TCP_OPTIONS: Final = {
    "TCP_NODELAY": 1,
    # For peers without ZMTP heartbeats: their kernel answers keep-alive probes even if the process is busy.
    "TCP_KEEPIDLE": int(TIMEOUT_SECONDS),
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": int(TIMEOUT_SECONDS),
    "TCP_USER_TIMEOUT": int(constants.SILENCE_SECONDS * 1000),
}
"""Options of each TCP connection. An option that the platform does not have is skipped; macOS lacks some."""

_CLOSED: Final = "it closed its connection"
_BROKE: Final = "its connection broke"


def was_closed(reason: str) -> bool:
    """Whether a peer was lost because TCP reported the end of its connection, not for silence or a protocol error."""
    return reason.startswith((_CLOSED, _BROKE))


@dataclass
class PeerEvents:
    """The callbacks of peers."""

    received: Callable[["Peer", list[list[bytes]]], None]
    """Called with messages, in the order in which they arrived."""
    lost: Callable[["Peer", str], None]
    """Called once when the connection is lost, with the reason."""
    warn: Callable[[str], None]
    """Called with a warning for the operator."""
    held: Callable[["Peer", int, int], None] = lambda peer, held, change: None
    """Called with the number of bytes that are kept of an unfinished message, and by how much it changed."""
    opened: Callable[["Peer"], None] = lambda peer: None
    """Called once when the peer has introduced itself: messages may be sent to it from now on."""
    name: str = "a connection for containers"
    """The connection in warnings."""


class Peer:
    """An open connection to the socket of another process. `conversation` decodes what it sends."""

    def __init__(
        self, connection: socket.socket, events: PeerEvents, conversation: Conversation, strangers: Strangers
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._events = events
        self._conversation = conversation
        self._end = ""
        """The reason why no more data will be read; empty while the connection is readable."""
        self._unsent: deque[memoryview] = deque()
        """Buffers that were not sent yet. They are not joined, since copying large ones takes long."""
        self._waiting = 0
        """The number of messages that were appended to unsent ones."""
        self._unsent_bytes = 0
        self._lives_at = monotonic()
        """Monotonic time at which the peer last sent data, or acknowledged data that was sent to it."""
        self._unread = 0
        """Bytes in the kernel that the peer had not acknowledged at the last liveness check."""
        self._write_failed = False
        """Whether a write failed. Data that the peer sent before is still read; then the connection is lost."""
        self._is_open = False
        """Whether the peer was reported to have introduced itself."""
        self.closed = False
        self._held = 0
        """Bytes of an unfinished message that were reported last."""
        self._held_since = 0.0
        """Monotonic time at which `_held` changed last."""
        self._strangers = strangers
        self._is_stranger = False
        self._stranger_since = 0.0

    def start(self) -> None:
        """Greet the peer, and receive its messages from now on."""
        self._loop.add_reader(self._socket, self._on_readable)
        self._write([self._conversation.role.opening])

    def send(self, frames: list[bytes] | OutFrames) -> bool:
        """Send a message, or queue it until it can be sent. Return False if the peer is lost, which was reported.

        After True the message may still fail to arrive; then the loss of the peer is reported soon.
        """
        self._write(zmtp.encode(frames))
        return not self.closed

    @property
    def knows_pings(self) -> bool:
        """Whether the peer is sent ZMTP pings, and lost when it does not answer them."""
        return self._conversation.knows_pings

    def trust(self) -> None:
        """Treat the peer as registered: its messages may be as large as the outputs of a batch."""
        self._conversation.allow(MAX_MESSAGE_BYTES)
        self._is_stranger = False
        self._strangers.remove(self)

    def distrust(self) -> None:
        """Treat the peer as unregistered: it is disconnected unless it registers in `_STRANGER_SECONDS`."""
        if not self.closed:
            self._is_stranger = True
            self._stranger_since = monotonic()
            self._strangers.add(self)

    def disconnect(self, reason: str) -> None:
        self._fail(reason)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._strangers.remove(self)
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self.report_held()

    def check_liveness(self, now: float) -> None:
        """Lose the peer if a timeout has passed; otherwise send a ping if one is due. Called once a second."""
        if self.closed:  # as a consequence of the loss of another peer
            return
        if not self._conversation.is_open:
            if now - self._lives_at > _HANDSHAKE_SECONDS:
                self._fail("it did not introduce itself")
        elif self._is_stranger and now - self._stranger_since > _STRANGER_SECONDS:
            self._fail("it did not say who it is")
        elif self._held and now - self._held_since > constants.SILENCE_SECONDS:
            self._fail(f"it stopped in the middle of a message, of which {self._held} bytes are kept")
        elif self._conversation.knows_pings:
            unread, self._unread = self._unread, unacknowledged_bytes(self._socket)
            if self._unread < unread:
                self._lives_at = now
            silence = now - self._lives_at
            if silence > TIMEOUT_SECONDS:
                self._lose("it does not answer")
            elif silence > _PING_SECONDS / 2:
                self._write([zmtp.PING])

    def reset_idle_timer(self, now: float) -> None:
        """Restart the timeouts after a time in which the event loop did not read."""
        self._lives_at = self._stranger_since = self._held_since = now

    def report_held(self) -> None:
        """Report the bytes that are kept of an unfinished message, if their number has changed.

        Unregistered peers have a limit of their own, and report none.
        """
        held = 0 if self.closed or self._is_stranger else self._conversation.held_bytes()
        if held != self._held:
            change, self._held = held - self._held, held
            self._held_since = monotonic()
            self._events.held(self, held, change)

    # --- I/O ---

    def _on_readable(self) -> None:
        if self._read():
            self._loop.remove_reader(self._socket)
            long_work.start_soon(self._read_rest())

    def _read_rest(self) -> Iterator[None]:
        """Read, in steps of long work, so that peers that send much share a little of each turn of the event loop."""
        while not self.closed and self._read():
            yield
        if not self.closed:
            self._loop.add_reader(self._socket, self._on_readable)

    def _read(self) -> bool:
        """Make a step: read, and deliver the messages. Return whether there may be more.

        It returns False only if all data are known to be read: after a socket error, uvloop calls `_on_readable` only
        once.
        """
        conversation = self._conversation
        messages: list[list[bytes]] = []
        has_more = True
        for _ in range(_READS_PER_STEP):
            data = b"" if conversation.is_behind else self._receive()
            if data is None:
                has_more = False
                break
            messages += conversation.receive(data)
            if conversation.is_open:
                self._lives_at = monotonic()
            if self._is_stranger:
                self._check_room()
            if conversation.is_behind or conversation.fault or self._end or len(messages) >= _MESSAGES_PER_STEP:
                break
        if conversation.pong:
            self._write([conversation.take_pong()])
        self._deliver(messages, has_more)
        if conversation.fault:
            self._fail(conversation.fault)
        elif self._end:
            self._lose(self._end)
        return has_more and not self.closed

    def _receive(self) -> bytes | None:
        """Return data from the socket. If there are none, return None; `_end` is set if none will arrive."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self._end = _why_broken(error)
            return None
        if not data:
            self._end = _CLOSED
            return None
        return data

    def _check_room(self) -> None:
        if not self._conversation.fault and not self._strangers.has_room(self, self._conversation.held_bytes()):
            self._end = "those that have not said who they are send too much"
            self._events.warn(f"{self._events.name} is given up: {self._end}")

    def _deliver(self, messages: list[list[bytes]], has_more: bool) -> None:
        if self._held or has_more:  # slower changes are found by the router's liveness check
            self.report_held()
        if self.closed:
            return
        if not self._is_open and self._conversation.is_open:
            self._is_open = True
            self._events.opened(self)
        if messages:
            self._events.received(self, messages)

    def _write(self, pieces: list[bytes]) -> None:
        if self._write_failed or self.closed:
            return
        size = 0
        for piece in pieces:
            size += len(piece)
        if self._unsent:
            self._append(pieces, size)
            return
        sent = 0
        if size <= _WRITE_BYTES:
            if len(pieces) > _MAX_PIECES:
                pieces = [b"".join(pieces)]
            try:
                sent = self._socket.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._on_write_error()
                return
        if sent < size:
            self._unsent.extend(map(memoryview, pieces))
            self._unsent_bytes = size
            self._forget_sent(sent)
            self._loop.add_writer(self._socket, self._on_writable)

    def _append(self, pieces: list[bytes], size: int) -> None:
        """Append a message to unsent ones."""
        self._waiting += 1
        if self._waiting > _MAX_WAITING or min(size, self._unsent_bytes) > _MAX_JOINED_BYTES:
            self._lose("it takes no more messages")
            return
        if size <= _MAX_JOINED_BYTES:
            pieces = [b"".join(pieces)]
        self._unsent.extend(map(memoryview, pieces))
        self._unsent_bytes += size

    def _on_writable(self) -> None:
        try:
            sent = self._socket.sendmsg(_beginning(self._unsent))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._on_write_error()
            self._unsent.clear()
        else:
            self._lives_at = monotonic()
            self._forget_sent(sent)
        if not self._unsent:
            self._waiting = 0
            self._loop.remove_writer(self._socket)

    def _forget_sent(self, sent: int) -> None:
        self._unsent_bytes -= sent
        unsent = self._unsent
        while unsent and sent >= len(unsent[0]):  # also those that are empty
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = unsent[0][sent:]

    def _on_write_error(self) -> None:
        self._write_failed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # so that reading the remaining data comes to an end

    def _fail(self, fault: str) -> None:
        if not self.closed:
            self._events.warn(f"{self._events.name} is given up: {fault}")
            self._lose(fault)

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._events.lost(self, reason)


def _beginning(pieces: Iterable[memoryview]) -> list[memoryview]:
    """Return the buffers that are passed to the kernel in one iteration of the event loop."""
    found: list[memoryview] = []
    room = _WRITE_BYTES
    for piece in islice(pieces, _MAX_PIECES):
        found.append(piece[:room])
        room -= len(piece)
        if room <= 0:
            break
    return found


def _why_broken(error: OSError) -> str:
    if isinstance(error, TimeoutError):  # the kernel acknowledged nothing; the process may still run
        return "it takes nothing"
    return f"{_BROKE}: {error}"


def configure(connection: socket.socket) -> None:
    """Set the options of a connection. Raises `OSError` if the peer has closed it already."""
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
