"""Whether this process was asked to stop."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

SignalHandler = Callable[[int, FrameType | None], Any] | int | None


class StopRequest:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once.

    Its file descriptor becomes readable when a signal came, so that a poll wakes up for it.
    """

    def __init__(self) -> None:
        self.requested_at: float | None = None
        self._replaced: dict[int, SignalHandler] = {}
        """Signal handlers that the model installed in place of ours."""
        self._listens = False
        self._number = int(signal.SIGTERM)
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def listen_to_signals(self) -> None:
        """Follow the signals of this process from now on. Only the main thread may call this."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        self._process = os.getpid()
        self._listens = True

    def listen_again(self) -> None:
        """Put our handlers back where the model has replaced them: without them nothing would stop this process."""
        if not self._listens or self.requested_at is not None:
            return
        for number in _SIGNALS:
            if signal.getsignal(number) != self._on_signal:
                self._replaced[number] = signal.signal(number, self._on_signal)

    def tell_model(self) -> None:
        """Call what the model wanted to be called for the signal that stopped us, now that its work is done."""
        if callable(handler := self._replaced.get(self._number)) and handler is not signal.default_int_handler:
            handler(self._number, None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested_at = time.monotonic()
        self._number = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        # A process that the model forked dies of a signal as ever: worker pools rely on it.
        if os.getpid() != self._process:
            os.kill(os.getpid(), number)

    @property
    def was_signalled(self) -> bool:
        """Whether a signal came, also if the model computes in C, so that no handler of Python's has run yet."""
        if self.requested_at is not None:
            return True
        try:
            return not set(_SIGNALS).isdisjoint(self._reader.recv(4096, socket.MSG_PEEK))
        except OSError:  # nothing is there, or it is closed
            return False

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


def end_now(reason: str) -> NoReturn:
    """End this process, whatever its other threads do."""
    sys.stderr.write(f"{reason}\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def end_within(seconds: float) -> None:
    """End this process by itself, if it has not ended after `seconds`.

    The interpreter waits at its end for threads, child processes and exit handlers of the model's, which may never end.
    """

    def end() -> None:
        time.sleep(seconds)
        end_now(f"Threads or exit handlers still run {seconds:g} s after the last batch: they are cut off.")

    threading.Thread(target=end, name="end", daemon=True).start()
