"""Requests to stop this process: signals, and the end of the process."""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Final, NoReturn

from clipper_common import signals
from clipper_common.signals import SignalWakeup

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A request to stop, set by the first SIGTERM or SIGINT; the second signal ends the process at once.

    Its file descriptor becomes readable when a signal arrives, so that it wakes up a poll.
    """

    def __init__(self) -> None:
        self.requested_at: float | None = None
        """Monotonic time of the request; None before."""
        self._replaced: dict[int, signals.Handler] = {}
        """The signal handlers that the model installed in place of this object's, by signal."""
        self._listens = False
        self._number = int(signal.SIGTERM)
        self._wakeup = SignalWakeup()

    def listen_to_signals(self) -> None:
        """Install the signal handlers. Only the main thread may call this."""
        self._wakeup.listen_to(_SIGNALS, self._on_signal)
        self._process = os.getpid()
        self._listens = True

    def listen_again(self) -> None:
        """Install the signal handlers again where the model has replaced them, so that signals stop this process."""
        if not self._listens or self.requested_at is not None:
            return
        for number in _SIGNALS:
            if signal.getsignal(number) != self._on_signal:
                self._replaced[number] = signal.signal(number, self._on_signal)

    def tell_model(self) -> None:
        """Call the handler that the model had installed for the signal that stopped this process."""
        if callable(handler := self._replaced.get(self._number)) and handler is not signal.default_int_handler:
            handler(self._number, None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested_at = time.monotonic()
        self._number = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        # A signal ends processes that the model has forked, as usual: worker pools rely on it.
        if os.getpid() != self._process:
            os.kill(os.getpid(), number)

    @property
    def was_signalled(self) -> bool:
        """Whether a signal has arrived, even if the model computes in C, so that Python has not run a handler yet."""
        return self.requested_at is not None or not self._wakeup.arrived().isdisjoint(_SIGNALS)

    def request(self) -> None:
        """Request a stop. Any thread may call this."""
        self.requested_at = time.monotonic()
        self._wakeup.wake()

    def fileno(self) -> int:
        return self._wakeup.fileno()

    def clear_wakeups(self) -> None:
        """Read all data of the file descriptor, which other signals make readable, too."""
        self._wakeup.read()

    def close(self) -> None:
        self._wakeup.close()


def end_now(reason: str) -> NoReturn:
    """Print a reason and end this process at once, without exit handlers."""
    sys.stderr.write(f"{reason}\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def end_within(seconds: float) -> None:
    """End this process from a thread if it has not exited after `seconds`.

    At exit, the interpreter waits for threads, child processes and exit handlers of the model, which may never end.
    """

    def end() -> None:
        time.sleep(seconds)
        end_now(f"Threads or exit handlers still run {seconds:g} s after the last batch: they are cut off.")

    threading.Thread(target=end, name="end", daemon=True).start()
