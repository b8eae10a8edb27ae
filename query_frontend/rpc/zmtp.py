"""ZMTP 3, ZeroMQ's protocol over TCP, for ROUTER and DEALER sockets without security: bytes in, messages out, no I/O.

RFC 23 of ZeroMQ (https://rfc.zeromq.org/spec/23/) defines version 3.0; RFC 37 defines 3.1, which adds heartbeats.
libzmq 4 and its bindings speak one of them.
"""

import io
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from clipper_common.constants import MAX_BATCH_SIZE
from clipper_common.wire import Parts

_SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"
_MECHANISM: Final = b"NULL".ljust(20, b"\0")
_GREETING: Final = _SIGNATURE + b"\x03\x01" + _MECHANISM + bytes(32)
_MORE: Final = 1
_LONG: Final = 2
_COMMAND: Final = 4
_SHORT_HEADER: Final = struct.Struct(">BB")
_LONG_HEADER: Final = struct.Struct(">Bq")
_U32: Final = struct.Struct(">I")
_FRAME_COST: Final = 64
"""Bytes of memory that a frame takes besides its content."""
_MAX_FRAMES: Final = MAX_BATCH_SIZE + 16
"""The most frames in a message. Version 3 of the RPC has one frame for each output."""
_FRAMES_AT_ONCE: Final = 64
"""The most frames that are parsed in one call, commands among them. A short frame takes as long as any other."""
_SHORT_BYTES: Final = 255
_MAX_COMMAND_BYTES: Final = 4096
_MAX_CONTEXT_BYTES: Final = 16
"""The most bytes of a PING that its PONG repeats, according to RFC 37."""
_LARGE_FRAME_BYTES: Final = 1 << 20
"""Larger frames are written into one buffer as they arrive, so that they are not copied at once at their end."""


class ZmtpError(Exception):
    """The peer violates the protocol."""


def _header(flags: int, size: int) -> bytes:
    return _SHORT_HEADER.pack(flags, size) if size <= _SHORT_BYTES else _LONG_HEADER.pack(flags | _LONG, size)


def _command(name: bytes, body: bytes) -> bytes:
    text = bytes([len(name)]) + name + body
    return _header(_COMMAND, len(text)) + text


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + _U32.pack(len(value)) + value


def _opening(socket_type: bytes) -> bytes:
    return _GREETING + _command(b"READY", _property(b"Socket-Type", socket_type) + _property(b"Identity", b""))


class Role(NamedTuple):
    """A type of socket."""

    opening: bytes
    """The greeting and the READY command. They do not depend on the peer's, so they are sent at once. All other data
    must wait for the peer's READY command: libzmq accepts none before."""
    peers: tuple[bytes, ...]
    """The types of socket that it may be connected to, the usual one first."""


ROUTER: Final = Role(_opening(b"ROUTER"), (b"DEALER", b"REQ", b"ROUTER"))
DEALER: Final = Role(_opening(b"DEALER"), (b"ROUTER",))
PING: Final = _command(b"PING", bytes(2))


def encode(frames: Sequence[bytes | Parts]) -> list[bytes]:
    """Return the buffers that make up a message, in the order in which they must be sent."""
    pieces: list[bytes] = []
    for frame in frames[:-1]:
        _add(pieces, _MORE, frame)
    _add(pieces, 0, frames[-1])
    return pieces


def _add(pieces: list[bytes], flags: int, frame: bytes | Parts) -> None:
    if isinstance(frame, bytes):
        pieces.append(_header(flags, len(frame)))
        pieces.append(frame)
    else:
        pieces.append(_header(flags, frame.size))
        pieces += frame.parts


class Conversation:
    """The decoder of the data that the peer of a socket of type `role` sends.

    A message of more than `max_bytes` or `_MAX_FRAMES` frames is a fault.
    """

    def __init__(self, max_bytes: int, role: Role = ROUTER) -> None:
        self.role = role
        self._max_bytes = max_bytes
        self.is_open = False
        """Whether the peer has sent its READY command."""
        self.knows_pings = False
        """Whether the peer supports heartbeats: it speaks 3.1, or has sent a PING. libzmq 4.2 to 4.3.3 speak 3.0 and
        support them; older ones would take a PING for a message."""
        self.is_behind = False
        """Whether data that were received may contain frames that are not parsed yet."""
        self.pong = b""
        """The answer to the last PING, until it is taken; empty if there is none. One answer is enough for many PINGs:
        it tells that this side lives."""
        self.fault = ""
        """The violation of the protocol by the peer, or empty. Data after the violation are ignored."""
        self._greeted = False
        self._rest = bytearray()
        """The beginning of an incomplete frame."""
        self._needed = 0
        """Bytes that `_rest` must have before it is parsed again."""
        self._large: io.BytesIO | None = None
        """The buffer of an incomplete large frame. `io.BytesIO` returns its content without a copy."""
        self._missing = 0
        """Bytes that the large frame still lacks."""
        self._large_flags = 0
        self._frames: list[bytes] = []
        """The frames of an incomplete message."""
        self._bytes = 0

    def allow(self, max_bytes: int) -> None:
        """Take messages of this size from now on."""
        self._max_bytes = max_bytes

    def take_pong(self) -> bytes:
        """Return the command that the peer must be sent, and forget it."""
        pong, self.pong = self.pong, b""
        return pong

    def held_bytes(self) -> int:
        """Return the number of bytes that are kept of an incomplete message."""
        return len(self._rest) + self._bytes + (0 if self._large is None else self._large.tell())

    def receive(self, data: bytes) -> list[list[bytes]]:
        """Return the messages that `data` completes, up to a `fault`.

        A call parses a limited number of frames. If it leaves some, `is_behind` is set; the next call parses those
        first, and `data` may be empty.
        """
        messages: list[list[bytes]] = []
        if self._large is not None:
            data = self._fill(self._large, data, messages)
            if not data:
                return messages
        self._rest += data
        if not self.fault and len(self._rest) >= self._needed:
            self.is_behind = False
            try:
                end = self._read(self._rest, messages)
            except ZmtpError as error:
                self.fault = str(error)
            else:
                del self._rest[:end]
        return messages

    def _read(self, data: bytearray, messages: list[list[bytes]]) -> int:
        """Parse complete frames. Return the offset of the first that is incomplete or left."""
        at = 0
        if not self._greeted:
            at = self._read_greeting(data)
            if not self._greeted:
                return at
        many = len(data)
        most = _FRAMES_AT_ONCE
        for _ in range(most):
            self._needed = start = at + 2
            if start > many:
                break
            flags, size = data[at], data[at + 1]
            if flags & _LONG:
                self._needed = start = at + _LONG_HEADER.size
                if start > many:
                    break
                size = _LONG_HEADER.unpack_from(data, at)[1]
            self._check(flags, size)
            self._needed = end = start + size
            if end > many:
                return self._await_frame(flags, size, at, start, data)
            raw = data  # compiled, a pointer: slices of it are `bytes`, and made without a slice object
            frame = bytes(raw[start:end])
            at = end
            if flags & _COMMAND:
                self._handle_command(frame)
                continue
            self._frames.append(frame)  # `_add_frame` in place: this runs for every batch
            self._bytes += size + _FRAME_COST
            if not flags & _MORE:
                messages.append(self._frames)
                self._frames = []
                self._bytes = 0
        else:
            self._needed = at
            self.is_behind = at < many
        self._needed -= at
        return at

    def _await_frame(self, flags: int, size: int, at: int, start: int, data: bytearray) -> int:
        """Move an incomplete large frame into its buffer. Return how many bytes of `data` have been consumed."""
        if size <= _LARGE_FRAME_BYTES:
            self._needed -= at
            return at
        self._large, self._large_flags, self._missing = io.BytesIO(bytes(size)), flags, start + size - len(data)
        self._large.write(memoryview(data)[start:])
        self._needed = 0
        return len(data)

    def _fill(self, large: io.BytesIO, data: bytes, messages: list[list[bytes]]) -> bytes:
        """Append the beginning of `data` to the large frame. Return the rest."""
        large.write(memoryview(data)[: self._missing])
        left = data[self._missing :]
        self._missing -= len(data) - len(left)
        if not self._missing:
            self._large = None
            self._add_frame(self._large_flags, large.getvalue(), messages)
        return left

    def _add_frame(self, flags: int, frame: bytes, messages: list[list[bytes]]) -> None:
        self._frames.append(frame)
        self._bytes += len(frame) + _FRAME_COST
        if not flags & _MORE:
            messages.append(self._frames)
            self._frames = []
            self._bytes = 0

    def _read_greeting(self, data: bytearray) -> int:
        """Return the length of the greeting, or 0 while it is incomplete.

        Raises `ZmtpError` as soon as it is known to be wrong, since the sender may wait for an answer to its beginning.
        """
        known = len(_SIGNATURE)
        if data[:1] not in (b"", _SIGNATURE[:1]) or data[known - 1 : known] not in (b"", _SIGNATURE[-1:]):
            raise ZmtpError("it does not speak ZeroMQ's protocol")
        if len(data) > known and data[known] < 3:
            raise ZmtpError("it speaks ZMTP 2 or older; ZeroMQ 4 is needed")
        mechanism = bytes(data[known + 2 : known + 2 + len(_MECHANISM)])
        if not _MECHANISM.startswith(mechanism):
            name = mechanism.rstrip(b"\0").decode("ascii", "replace")
            raise ZmtpError(f"it wants ZeroMQ's security mechanism {name!r}, which is not spoken here")
        if len(data) < len(_GREETING):
            self._needed = len(data) + 1
            return 0
        self._greeted = True
        self.knows_pings = (data[known], data[known + 1]) >= (3, 1)
        return len(_GREETING)

    def _check(self, flags: int, size: int) -> None:
        if size < 0:
            raise ZmtpError("it sent a frame of a size that ZMTP does not know")
        if flags & _COMMAND:
            if size > _MAX_COMMAND_BYTES:
                raise ZmtpError(f"it sent a command of {size} bytes")
        elif not self.is_open:
            raise ZmtpError("it sent a message before it introduced itself")
        elif size > self._max_bytes - self._bytes - _FRAME_COST:
            raise ZmtpError(f"it sent a message of more than {self._max_bytes} bytes")
        elif len(self._frames) == _MAX_FRAMES:
            raise ZmtpError(f"it sent a message of more than {_MAX_FRAMES} frames")

    # --- commands ---

    def _handle_command(self, command: bytes) -> None:
        """Handle a command. Unknown ones are ignored, as the RFC demands."""
        many = command[0] if command else 0
        name, body = command[1 : 1 + many], command[1 + many :]
        if not self.is_open:
            if name != b"READY":
                raise ZmtpError(f"it said {name.decode('ascii', 'replace')!r} where it should have introduced itself")
            self._handle_ready(body)
        elif name == b"PING":
            self.knows_pings = True
            self.pong = _command(b"PONG", body[2 : 2 + _MAX_CONTEXT_BYTES])  # 2 bytes are its time to live
        elif name == b"ERROR":
            raise ZmtpError(f"it said {body[1:].decode('ascii', 'replace')!r}")

    def _handle_ready(self, properties: bytes) -> None:
        kind = _read_properties(properties).get(b"socket-type", b"")
        if kind not in self.role.peers:
            expected = self.role.peers[0].decode()
            raise ZmtpError(f"it is a socket of type {kind.decode('ascii', 'replace')!r}, not {expected}")
        self.is_open = True


def _read_properties(data: bytes) -> dict[bytes, bytes]:
    """Return the properties of a READY command by their names in lower case."""
    found = {}
    at = 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + len(name)
        if len(data) < at + _U32.size:
            raise ZmtpError("its introduction breaks off")
        size = _U32.unpack_from(data, at)[0]
        at += _U32.size + size
        if len(data) < at:
            raise ZmtpError("its introduction breaks off")
        found[name.lower()] = data[at - size : at]
    return found
