"""ZMTP 3, what ZeroMQ speaks over TCP, as a ROUTER without security needs it: bytes in, messages out, no I/O.

RFC 23 of ZeroMQ (https://rfc.zeromq.org/spec/23/) has version 3.0, RFC 37 has 3.1, which adds heartbeats. libzmq 4 and
all that builds on it speak one of them.
"""

import io
import struct
from collections.abc import Sequence
from typing import Final

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
"""Of holding a frame, beside its bytes."""
_MAX_FRAMES: Final = MAX_BATCH_SIZE + 16
"""Version 3 of the RPC has one for each output."""
_SHORT_BYTES: Final = 255
_MAX_COMMAND_BYTES: Final = 4096
_LARGE_BYTES: Final = 1 << 20
"""The frame is put together in its place, rather than copied in one go when it is all here."""
_SOCKET_TYPES: Final = (b"DEALER", b"REQ", b"ROUTER")
"""Who may speak with a ROUTER."""


class ZmtpError(Exception):
    """The peer does not keep to the protocol."""


def _header(flags: int, size: int) -> bytes:
    return _SHORT_HEADER.pack(flags, size) if size <= _SHORT_BYTES else _LONG_HEADER.pack(flags | _LONG, size)


def _command(name: bytes, body: bytes) -> bytes:
    text = bytes([len(name)]) + name + body
    return _header(_COMMAND, len(text)) + text


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + _U32.pack(len(value)) + value


OPENING: Final = _GREETING + _command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))
"""What a ROUTER says first. Nothing in it depends on the other side, so it need not wait for that. With all that comes
behind it, it must: libzmq takes nothing else before it has introduced itself."""
PING: Final = _command(b"PING", bytes(2))


def encode(frames: Sequence[bytes | Parts]) -> list[bytes]:
    """A message, as pieces to be sent one behind the other."""
    pieces: list[bytes] = []
    for frame in frames[:-1]:
        _add(pieces, _MORE, frame)
    _add(pieces, 0, frames[-1])
    return pieces


def _add(pieces: list[bytes], flags: int, frame: bytes | Parts) -> None:
    if isinstance(frame, bytes):
        pieces += _header(flags, len(frame)), frame
    else:
        pieces.append(_header(flags, frame.size))
        pieces += frame.parts


class Conversation:
    """What one peer says. A message of more than `max_bytes`, or of more frames than a batch needs, is a fault."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.is_open = False
        """Whether the peer has introduced itself."""
        self.knows_pings = False
        """Whether it speaks 3.1, or sent one: libzmq 4.2 to 4.3.3 speak 3.0, and have them. To older ones a ping is a
        message."""
        self.replies: list[bytes] = []
        """The messages that it must be sent, until they are taken."""
        self.fault = ""
        """How it broke the protocol. What it says after that is not read."""
        self._greeted = False
        self._rest = bytearray()
        """The beginning of a frame."""
        self._needed = 0
        """How long that must be before it makes sense to look at it again."""
        self._large: io.BytesIO | None = None
        """The place of a large frame that is not all here. It hands out what is written to it without a copy."""
        self._missing = 0
        """How many bytes of that are."""
        self._large_flags = 0
        self._frames: list[bytes] = []
        """Of a message of which more is to come."""
        self._bytes = 0

    def allow(self, max_bytes: int) -> None:
        """Take messages of this size from now on."""
        self._max_bytes = max_bytes

    def take_replies(self) -> list[bytes]:
        """Return the messages that the peer must be sent, and forget them."""
        replies, self.replies = self.replies, []
        return replies

    def held_bytes(self) -> int:
        """How much is kept of a message of which more is to come."""
        return len(self._rest) + self._bytes + (0 if self._large is None else self._large.tell())

    def receive(self, data: bytes) -> list[list[bytes]]:
        """The messages that `data` completes, up to a `fault`."""
        messages: list[list[bytes]] = []
        if self._large is not None:
            data = self._fill(self._large, data, messages)
            if not data:
                return messages
        self._rest += data
        if not self.fault and len(self._rest) >= self._needed:
            try:
                end = self._read(self._rest, messages)
            except ZmtpError as error:
                self.fault = str(error)
            else:
                del self._rest[:end]
        return messages

    def _read(self, data: bytearray, messages: list[list[bytes]]) -> int:
        """Where the frame begins that is not all here."""
        at = 0
        if not self._greeted:
            at = self._read_greeting(data)
            if not self._greeted:
                return at
        many = len(data)
        while True:
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
            frame = bytes(memoryview(data)[start:end])
            at = end
            if flags & _COMMAND:
                self._obey(frame)
                continue
            self._frames.append(frame)  # `_add_frame` in place: this runs for every batch
            self._bytes += size + _FRAME_COST
            if not flags & _MORE:
                messages.append(self._frames)
                self._frames = []
                self._bytes = 0
        self._needed -= at
        return at

    def _await_frame(self, flags: int, size: int, at: int, start: int, data: bytearray) -> int:
        """Give a large frame its place. Return where the frame begins that is neither all here nor has such a place."""
        if size <= _LARGE_BYTES:
            self._needed -= at
            return at
        self._large, self._large_flags, self._missing = io.BytesIO(bytes(size)), flags, start + size - len(data)
        self._large.write(memoryview(data)[start:])
        self._needed = 0
        return len(data)

    def _fill(self, large: io.BytesIO, data: bytes, messages: list[list[bytes]]) -> bytes:
        """Write the beginning of `data` into the place of the large frame. Return what is left."""
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
        """Where it ends, if it is all here; said early where it is none, since whoever sent it waits for ours."""
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

    def _obey(self, command: bytes) -> None:
        """What is unknown is passed over, as the RFC has it."""
        many = command[0] if command else 0
        name, body = command[1 : 1 + many], command[1 + many :]
        if not self.is_open:
            if name != b"READY":
                raise ZmtpError(f"it said {name.decode('ascii', 'replace')!r} where it should have introduced itself")
            self._meet(body)
        elif name == b"PING":
            self.knows_pings = True
            self.replies.append(_command(b"PONG", body[2:]))  # behind the 2 bytes of its patience
        elif name == b"ERROR":
            raise ZmtpError(f"it said {body[1:].decode('ascii', 'replace')!r}")

    def _meet(self, properties: bytes) -> None:
        kind = _read_properties(properties).get(b"socket-type", b"")
        if kind not in _SOCKET_TYPES:
            raise ZmtpError(f"it is a socket of type {kind.decode('ascii', 'replace')!r}, not DEALER")
        self.is_open = True


def _read_properties(data: bytes) -> dict[bytes, bytes]:
    """By their names in lower case."""
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
