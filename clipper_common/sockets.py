"""Queries of the operating system about sockets and file descriptors."""

import fcntl
import resource
import select
import socket
import termios
from array import array
from contextlib import suppress


def unacknowledged_bytes(connection: socket.socket) -> int:
    """Return the number of sent bytes that the peer has not acknowledged; 0 if the operating system does not tell."""
    many = array("i", [0])
    with suppress(OSError, ValueError):  # ValueError for a closed socket
        fcntl.ioctl(connection, termios.TIOCOUTQ, many)
    return many[0]


def prepare(connection: socket.socket) -> None:
    """Let the kernel send each answer at once, and detect in time that the other side is lost."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not for what others accepted


def has_unread_bytes(connection: socket.socket) -> bool:
    """Whether the kernel has received bytes that have not been read."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def most_descriptors() -> float:
    """Return the number of file descriptors that this process may open; infinity if there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft
