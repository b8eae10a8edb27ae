"""Ports on the loopback interface."""

import errno
import random
import socket
from collections.abc import Container
from typing import Final

from clipper_common.errors import ClipperException

LOOPBACK: Final = "127.0.0.1"

# Below the ranges from which Linux and macOS take the ports of outgoing connections: those come and go.
_FREE_RANGE: Final = range(10000, 32768)
_ATTEMPTS: Final = 1000
_CONNECT_SECONDS: Final = 1.0


def can_listen(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as sock:
        # As servers do: without it, yesterday's connections (TIME_WAIT) would make the port look taken.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
            sock.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    # macOS lets a second socket listen on 127.0.0.1 beside one that listens on all addresses.
    return not accepts(LOOPBACK, port)


def accepts(host: str, port: int) -> bool:
    """Whether a server listens there."""
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def find_port(wanted: int, taken: Container[int] = ()) -> int:
    """`wanted` if it is free, else another that is (`wanted` 0: any)."""
    if wanted and wanted not in taken and can_listen(wanted):
        return wanted
    for port in random.choices(_FREE_RANGE, k=_ATTEMPTS):
        if port not in taken and can_listen(port):
            return port
    raise ClipperException(f"No free port found between {_FREE_RANGE.start} and {_FREE_RANGE.stop - 1}")
