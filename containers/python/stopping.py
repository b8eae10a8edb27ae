"""Whether this process was asked to stop."""

import contextlib
import os
import signal
import socket
import time
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once.

    Its file descriptor becomes readable when a signal came, so that a poll wakes up for it.
    """

    def __init__(self) -> None:
        self.requested_at: float | None = None
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def listen_to_signals(self) -> None:
        """Follow the signals of this process from now on. Only the main thread may call this."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        self._process = os.getpid()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested_at = time.monotonic()
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        # A process that the model forked dies of a signal as ever: worker pools rely on it.
        if os.getpid() != self._process:
            os.kill(os.getpid(), number)

    def request(self) -> None:
        """Ask this process to stop, from any of its threads."""
        self.requested_at = time.monotonic()
        self._writer.send(b"\0")

    def fileno(self) -> int:
        return self._reader.fileno()

    def clear_wakeups(self) -> None:
        """Make the file descriptor unreadable again; other signals wake it too."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
