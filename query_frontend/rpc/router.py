"""A ZeroMQ ROUTER within the event loop: whom containers connect to.

libzmq would do its I/O in a thread of its own, and a batch would wake that thread on its way out, and both threads on
its way back; waking them takes more CPU than all that is done with the batch. Here the loop reads and writes itself,
and it knows at once when a connection is lost.
"""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from clipper_common import constants
from clipper_common.sockets import most_descriptors, unacknowledged_bytes
from clipper_common.wire import OutFrames
from query_frontend.rpc import zmtp
from query_frontend.rpc.zmtp import Conversation

_BACKLOG: Final = 1024
_READ_BYTES: Final = 1 << 16
_READS_PER_TURN: Final = 16
_MAX_PIECES: Final = 64
"""That are handed to the kernel without being put together."""
_WRITE_BYTES: Final = 1 << 20
"""The most bytes handed to the kernel in one turn of the loop: a peer that reads would take all there are."""
_MAX_WAITING: Final = 1000
"""Messages, as with libzmq. Then the peer does not read."""
_MESSAGES_PER_TURN: Final = 64
_MAX_MESSAGE_BYTES: Final = 1 << 30
_MAX_STRANGERS_BYTES: Final = 1 << 20
"""In a message of a peer that is not trusted yet: who it is takes less."""
_MAX_ALL_STRANGERS_BYTES: Final = 1 << 24
"""Of the messages of all of them."""
_MAX_STRANGERS: Final = 256
_STRANGERS_SHARE: Final = 1 / 8
"""Of the file descriptors, where that is less."""
_STRANGER_SECONDS: Final = constants.SILENCE_SECONDS
"""A container of version 3 that hears nothing speaks after five seconds, and one that computes after its batch. If it
was sent away meanwhile, libzmq has connected anew."""
_HANDSHAKE_SECONDS: Final = 10.0
_EXHAUSTED_SECONDS: Final = 0.5
_PING_SECONDS: Final = constants.TRANSPORT_HEARTBEAT_MILLIS / 1000
_TIMEOUT_SECONDS: Final = constants.TRANSPORT_TIMEOUT_MILLIS / 1000
_TCP_OPTIONS: Final = {
    "TCP_NODELAY": 1,
    # For peers that know no pings: whether their machine is there. Busy or not, its kernel answers.
    "TCP_KEEPIDLE": int(_TIMEOUT_SECONDS),
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": int(_TIMEOUT_SECONDS),
    "TCP_USER_TIMEOUT": int(constants.SILENCE_SECONDS * 1000),
}
"""Those that there are; macOS has not all of them."""


_CLOSED: Final = "it closed its connection"
_BROKE: Final = "its connection broke"


def has_ended(reason: str) -> bool:
    """Whether a peer was lost because its process ended, as far as TCP tells: not for silence or what it said."""
    return reason.startswith((_CLOSED, _BROKE))


@dataclass
class PeerEvents:
    """Whom peers report to."""

    said: Callable[["Peer", list[list[bytes]]], None]
    """Messages, in the order in which they came."""
    lost: Callable[["Peer", str], None]
    """It is gone, and why."""
    complain: Callable[[str], None]
    """Something that an operator should know."""
    held: Callable[["Peer", int, int], None] = lambda peer, held, change: None
    """Called with the bytes that are kept of an unfinished message, and by how many they changed."""


class Strangers:
    """Peers that have not said who they are, the oldest first: limited in number, and in what they say."""

    def __init__(self) -> None:
        self._peers: dict[Peer, int] = {}
        """How many bytes are kept of each one's messages."""
        self._bytes = 0
        self._most = max(int(min(most_descriptors() * _STRANGERS_SHARE, _MAX_STRANGERS)), 1)

    def add(self, peer: "Peer") -> None:
        """Another one has come. If there are too many, the oldest goes."""
        self.remove(peer)
        self._peers[peer] = 0
        if len(self._peers) > self._most:
            next(iter(self._peers)).send_away(f"there are more than {self._most} that have not said who they are")

    def remove(self, peer: "Peer") -> None:
        self._bytes -= self._peers.pop(peer, 0)

    def has_room(self, peer: "Peer", kept: int) -> bool:
        """Whether so many bytes may be kept of the peer's messages."""
        self._bytes += kept - self._peers.get(peer, 0)
        self._peers[peer] = kept
        return self._bytes <= _MAX_ALL_STRANGERS_BYTES


class Peer:
    """A connection."""

    def __init__(self, connection: socket.socket, events: PeerEvents, strangers: Strangers) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._events = events
        self._conversation = Conversation(_MAX_STRANGERS_BYTES)
        self._inbox: list[list[bytes]] = []
        """Messages that have not had their turn. While there are any, no more is read."""
        self._has_more = False
        """Besides, there may be something to read."""
        self._end = ""
        """Why nothing more will come."""
        self._unsent: deque[memoryview] = deque()
        """Pieces that were not sent yet. They are not put together: that would take long for large ones."""
        self._waiting = 0
        """How much of it came when there was some already, counted in messages."""
        self._lives_at = time.monotonic()
        """When it said something, or took something that we said."""
        self._unread = 0
        """Bytes that it had not taken yet from the kernel, when it was tended last."""
        self._is_mute = False
        """Writing failed. What the peer said before is read all the same, and then it is lost."""
        self.closed = False
        self._held = 0
        """How many bytes of an unfinished message were reported last."""
        self._strangers = strangers
        self._is_stranger = False
        self._stranger_since = 0.0

    def start(self) -> None:
        """Greet it, and hear what it says. It is a stranger until it is trusted."""
        self.distrust()
        self._loop.add_reader(self._socket, self._on_readable)
        self._write([zmtp.OPENING])

    def send(self, frames: list[bytes] | OutFrames) -> bool:
        """Send a message, or keep it until it can be sent. False when the peer is gone, which was reported.

        True does not say that it arrives: if not, the peer is lost soon.
        """
        self._write(zmtp.encode(frames))
        return not self.closed

    @property
    def knows_pings(self) -> bool:
        """Whether it is asked for signs of life, and lost when it gives none."""
        return self._conversation.knows_pings

    def trust(self) -> None:
        """It is known now: its messages may be as large as the outputs of a batch are."""
        self._conversation.allow(_MAX_MESSAGE_BYTES)
        self._is_stranger = False
        self._strangers.remove(self)

    def distrust(self) -> None:
        """It is not known, or not any more: it has a while to say who it is."""
        if not self.closed:
            self._is_stranger = True
            self._stranger_since = time.monotonic()
            self._strangers.add(self)

    def send_away(self, reason: str) -> None:
        self._break_off(reason)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._strangers.remove(self)
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self.tell_held()

    def tend(self, now: float) -> None:
        """Once in a while: see whether it lives, and let it see that we do."""
        if self.closed:  # by what came of the loss of another
            return
        if not self._conversation.is_open:
            if now - self._lives_at > _HANDSHAKE_SECONDS:
                self._break_off("it did not introduce itself")
        elif self._is_stranger and now - self._stranger_since > _STRANGER_SECONDS:
            self._break_off("it did not say who it is")
        elif self._conversation.knows_pings:
            unread, self._unread = self._unread, unacknowledged_bytes(self._socket)
            if self._unread < unread:
                self._lives_at = now
            silence = now - self._lives_at
            if silence > _TIMEOUT_SECONDS:
                self._lose("it does not answer")
            elif silence > _PING_SECONDS / 2:
                self._write([zmtp.PING])

    def reset_idle_timer(self, now: float) -> None:
        """Nobody listened for a while: that was our silence, not the peer's."""
        self._lives_at = self._stranger_since = now

    def tell_held(self) -> None:
        """Report how much is kept of a message, if that has changed. What strangers may send is limited apart."""
        held = 0 if self.closed or self._is_stranger else self._conversation.held_bytes()
        if held != self._held:
            change, self._held = held - self._held, held
            self._events.held(self, held, change)

    # --- I/O ---

    def _on_readable(self) -> None:
        """Read all that there is, to the end: where there was an error, uvloop calls this once and never again."""
        for _ in range(_READS_PER_TURN):
            try:
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._end = _why_broken(error)
                break
            if not data:
                self._end = _CLOSED
                break
            self._inbox += self._conversation.receive(data)
            if self._conversation.fault:
                break
            if self._conversation.is_open:
                self._lives_at = time.monotonic()
            if self._is_stranger and not self._strangers.has_room(self, self._conversation.held_bytes()):
                self._end = "those that have not said who they are send too much"
                self._events.complain(f"a connection for containers is given up: {self._end}")
                break
            if len(self._inbox) > _MESSAGES_PER_TURN:  # there may be thousands in what is read at once
                self._has_more = True
                break
        else:
            self._has_more = True
        if self._conversation.replies:
            self._write(self._conversation.take_replies())
        self._hand_over()

    def _hand_over(self) -> None:
        if self._held or self._has_more:  # of what comes more slowly, the router asks
            self.tell_held()
        if self.closed:
            return
        if len(self._inbox) <= _MESSAGES_PER_TURN:
            messages, self._inbox = self._inbox, []
        else:
            messages = self._inbox[:_MESSAGES_PER_TURN]
            del self._inbox[:_MESSAGES_PER_TURN]
        goes_on = bool(self._inbox) or self._has_more
        if goes_on:  # let others have a turn
            self._loop.remove_reader(self._socket)
            self._loop.call_soon(self._go_on)
        if messages:
            self._events.said(self, messages)
        if goes_on:
            return
        if self._conversation.fault:
            self._break_off(self._conversation.fault)
        elif self._end:
            self._lose(self._end)

    def _go_on(self) -> None:
        if self.closed:
            return
        self._has_more = False
        if not self._end:
            self._loop.add_reader(self._socket, self._on_readable)
        self._hand_over()

    def _write(self, pieces: list[bytes]) -> None:
        if self._is_mute or self.closed:
            return
        if self._unsent:
            self._unsent.extend(map(memoryview, pieces))
            self._waiting += 1
            if self._waiting > _MAX_WAITING:
                self._lose("it takes no more messages")
            return
        size = sum(map(len, pieces))
        sent = 0
        if size <= _WRITE_BYTES:
            if len(pieces) > _MAX_PIECES:
                pieces = [b"".join(pieces)]
            try:
                sent = self._socket.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._fall_silent()
                return
        if sent < size:
            self._unsent.extend(map(memoryview, pieces))
            self._forget_sent(sent)
            self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        try:
            sent = self._socket.sendmsg(_beginning(self._unsent))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._fall_silent()
            self._unsent.clear()
        else:
            self._lives_at = time.monotonic()
            self._forget_sent(sent)
        if not self._unsent:
            self._waiting = 0
            self._loop.remove_writer(self._socket)

    def _forget_sent(self, sent: int) -> None:
        unsent = self._unsent
        while unsent and sent >= len(unsent[0]):  # also those that are empty
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = unsent[0][sent:]

    def _fall_silent(self) -> None:
        self._is_mute = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # so that whoever reads what came gets to an end

    def _break_off(self, fault: str) -> None:
        if not self.closed:
            self._events.complain(f"a connection for containers is given up: {fault}")
            self._lose(fault)

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._events.lost(self, reason)


def _beginning(pieces: Iterable[memoryview]) -> list[memoryview]:
    """Return the pieces that are handed to the kernel in one turn of the loop."""
    found: list[memoryview] = []
    room = _WRITE_BYTES
    for piece in islice(pieces, _MAX_PIECES):
        found.append(piece[:room])
        room -= len(piece)
        if room <= 0:
            break
    return found


def _why_broken(error: OSError) -> str:
    if isinstance(error, TimeoutError):  # its kernel acknowledged nothing for long, which is no end of its process
        return "it takes nothing"
    return f"{_BROKE}: {error}"


class Router:
    """Accepts peers, and tends them."""

    def __init__(self, events: PeerEvents) -> None:
        self._events = events
        self._strangers = Strangers()
        self._peers: set[Peer] = set()
        self._tended_at = 0.0
        self.listened = False
        """Whether we did, between the last two times that peers were tended: else it is not they that were silent."""
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
        self.listened = now - self._tended_at < _TIMEOUT_SECONDS / 2
        self._tended_at = now
        self._peers = {peer for peer in self._peers if not peer.closed}
        for peer in list(self._peers):
            if not self.listened:
                peer.reset_idle_timer(now)
            peer.tend(now)
            peer.tell_held()

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._on_connection)

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._events.complain(f"cannot accept containers: {error}")
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(_EXHAUSTED_SECONDS, self._watch)
            return
        try:
            _configure(connection)
        except OSError:  # it is gone again
            connection.close()
            return
        peer = Peer(connection, self._events, self._strangers)
        self._peers.add(peer)
        peer.start()


def _configure(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listen(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Of a name that stands for addresses of both kinds, containers look at the older first.
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    is_everywhere = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=is_everywhere)
    listener.setblocking(False)
    return listener
