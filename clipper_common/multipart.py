"""Whole messages over a ZeroMQ socket, at half of what pyzmq's own `send_multipart` and `recv_multipart` take.

Those ask the socket for an option, and combine flags that are Python enums, for each frame.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

_NOBLOCK: Final = 1
_NOBLOCK_MORE: Final = 1 | 2


class Socket(Protocol):
    """What is used here of a `zmq.Socket`."""

    def send(self, data: bytes, flags: int) -> Any: ...
    def recv(self, flags: int, *, copy: bool) -> Any: ...


_LARGE_BYTES: Final = 1 << 14


def send_frames(socket: Socket, frames: Sequence[bytes]) -> None:
    """Send a message. Raises `zmq.Again`, having sent nothing of it, if that cannot be done at once."""
    send = socket.send
    for frame in frames[:-1]:
        send(frame, _NOBLOCK_MORE)
    send(frames[-1], _NOBLOCK)


def receive_frames(socket: Socket) -> list[bytes]:
    """Receive a message. Raises `zmq.Again` if there is none."""
    return [frame.bytes for frame in _receive(socket)]


def receive_views(socket: Socket) -> list[bytes | memoryview]:
    """As `receive_frames`, but what is large stays where ZeroMQ has put it.

    A copy of a large frame, made and dropped for each message, is memory that comes from the system each time.
    """
    return [frame.bytes if len(frame) < _LARGE_BYTES else frame.buffer for frame in _receive(socket)]


def _receive(socket: Socket) -> list[Any]:
    receive = socket.recv
    frame = receive(_NOBLOCK, copy=False)
    frames = [frame]
    while frame.more:
        frame = receive(_NOBLOCK, copy=False)
        frames.append(frame)
    return frames
