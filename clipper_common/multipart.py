"""Sends and receives whole messages over a ZeroMQ socket, in half the time of pyzmq's own functions.

For each frame, `send_multipart` and `recv_multipart` query a socket option, combine flags that are Python enums, and
call a Python function.
"""

from collections.abc import Sequence
from typing import Any, Final

import zmq
from zmq.backend import Socket as Backend

_NOBLOCK: Final = 1
_NOBLOCK_MORE: Final = 1 | 2
_LARGE_FRAME_BYTES: Final = 1 << 14

Socket = zmq.Socket[bytes]


def send_frames(socket: Socket, frames: Sequence[bytes]) -> None:
    """Send a message. Raises `zmq.Again`, having sent none of its frames, if it cannot be sent at once."""
    send = Backend.send
    for frame in frames[:-1]:
        send(socket, frame, _NOBLOCK_MORE)
    send(socket, frames[-1], _NOBLOCK)


def receive_views(socket: Socket) -> list[bytes | memoryview]:
    """Receive a message. Large frames are views of ZeroMQ's buffers. Raises `zmq.Again` if there is no message.

    Copying large frames would allocate memory from the operating system for each message.
    """
    receive = socket.recv
    frame: Any = receive(_NOBLOCK, copy=False)
    frames = [_open(frame)]
    while frame.more:
        frame = receive(_NOBLOCK, copy=False)
        frames.append(_open(frame))
    return frames


def _open(frame: Any) -> bytes | memoryview:
    content: bytes | memoryview = frame.bytes if len(frame) < _LARGE_FRAME_BYTES else frame.buffer
    return content
