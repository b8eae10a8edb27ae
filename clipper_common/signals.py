"""Waking a program that waits for file descriptors when a signal arrives."""

import contextlib
import signal
import socket
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None
"""The type of handlers, as `signal.signal` takes and returns them."""


class SignalWakeup:
    """A file descriptor that is readable once a signal has arrived, even before Python runs the signal's handler."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def listen_to(self, numbers: Iterable[int], handler: Handler = lambda number, frame: None) -> None:
        """Install `handler`, and have these signals make the descriptor readable. Only the main thread may do that."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, handler)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the descriptor readable without a signal. Any thread may call this."""
        self._writer.send(b"\0")

    def arrived(self) -> set[int]:
        """Return the signals that have arrived. They are still there for `read`."""
        return self._receive(socket.MSG_PEEK)

    def read(self) -> set[int]:
        """Return the signals that have arrived since the last call; the descriptor is readable no more."""
        return self._receive(0)

    def _receive(self, flags: int) -> set[int]:
        with contextlib.suppress(OSError):  # there is no data, or the socket is closed
            return set(self._reader.recv(4096, flags)) - {0}
        return set()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


def forget(numbers: Iterable[int]) -> None:
    """Undo `SignalWakeup.listen_to` in a process that inherited it: the signals do there what they do by default."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
