"""Facts about sockets and file descriptors that the operating system is asked for."""

import fcntl
import resource
import select
import socket
import termios
from array import array
from contextlib import suppress


def unacknowledged_bytes(connection: socket.socket) -> int:
    """How many of the bytes that the kernel was given the other side has not acknowledged; 0 where it does not say."""
    many = array("i", [0])
    with suppress(OSError, ValueError):  # the latter of one that is closed
        fcntl.ioctl(connection, termios.TIOCOUTQ, many)
    return many[0]


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel find out in time that the other side is gone for good."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def has_unread_bytes(connection: socket.socket) -> bool:
    """Whether the kernel holds something that the other side sent and nobody here has read."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def most_descriptors() -> float:
    """How many file descriptors this process may have open; infinity if there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft
