"""Whole messages over a ZeroMQ socket, at half of what pyzmq's own `send_multipart` and `recv_multipart` take.

Those ask the socket for an option, combine flags that are Python enums, and pass through a function of Python, for each
frame.
"""

from collections.abc import Sequence
from typing import Any, Final

import zmq
from zmq.backend import Socket as Backend

_NOBLOCK: Final = 1
_NOBLOCK_MORE: Final = 1 | 2
_LARGE_BYTES: Final = 1 << 14

Socket = zmq.Socket[bytes]


def send_frames(socket: Socket, frames: Sequence[bytes]) -> None:
    """Send a message. Raises `zmq.Again`, having sent nothing of it, if that cannot be done at once."""
    send = Backend.send
    for frame in frames[:-1]:
        send(socket, frame, _NOBLOCK_MORE)
    send(socket, frames[-1], _NOBLOCK)


def receive_views(socket: Socket) -> list[bytes | memoryview]:
    """Receive a message, of which what is large stays where ZeroMQ has put it. Raises `zmq.Again` if there is none.

    A copy of a large frame, made and dropped for each message, is memory that comes from the system each time.
    """
    receive = socket.recv
    frame: Any = receive(_NOBLOCK, copy=False)
    frames = [_open(frame)]
    while frame.more:
        frame = receive(_NOBLOCK, copy=False)
        frames.append(_open(frame))
    return frames


def _open(frame: Any) -> bytes | memoryview:
    content: bytes | memoryview = frame.bytes if len(frame) < _LARGE_BYTES else frame.buffer
    return content
