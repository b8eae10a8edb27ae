"""Waking up when signals arrive."""

import os
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from clipper_common import signals
from clipper_common.signals import SignalWakeup


@pytest.fixture
def wakeup() -> Iterator[SignalWakeup]:
    replaced = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    made = SignalWakeup()
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in replaced.items():
        signal.signal(number, handler)
    made.close()


def is_readable(wakeup: SignalWakeup, seconds: float = 0.0) -> bool:
    return bool(select.select([wakeup], [], [], seconds)[0])


def test_signals_wake_up_and_are_told(wakeup: SignalWakeup) -> None:
    wakeup.listen_to([signal.SIGUSR1, signal.SIGUSR2])
    assert not is_readable(wakeup)
    assert wakeup.read() == set()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    assert is_readable(wakeup, 10.0)
    assert wakeup.arrived() == wakeup.arrived() == {signal.SIGUSR1, signal.SIGUSR2}
    assert wakeup.read() == {signal.SIGUSR1, signal.SIGUSR2}
    assert not is_readable(wakeup)


def test_a_handler_may_be_called_too(wakeup: SignalWakeup) -> None:
    called: list[int] = []
    wakeup.listen_to([signal.SIGUSR1], lambda number, frame: called.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert is_readable(wakeup, 10.0)
    assert called == [signal.SIGUSR1]


def test_any_thread_wakes_up_without_a_signal(wakeup: SignalWakeup) -> None:
    thread = threading.Thread(target=wakeup.wake)
    thread.start()
    thread.join()
    assert is_readable(wakeup)
    assert wakeup.arrived() == wakeup.read() == set()
    assert not is_readable(wakeup)


def test_more_signals_than_have_room_do_no_harm(wakeup: SignalWakeup, capfd: pytest.CaptureFixture[str]) -> None:
    wakeup.listen_to([signal.SIGUSR1])
    for _ in range(2000):
        signal.raise_signal(signal.SIGUSR1)
    assert wakeup.read() == {signal.SIGUSR1}
    assert capfd.readouterr().err == ""


def test_a_child_forgets_them(wakeup: SignalWakeup) -> None:
    wakeup.listen_to([signal.SIGUSR1])
    if not (pid := os.fork()):
        signals.forget([signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGUSR1
    assert wakeup.arrived() == set()


def test_nothing_arrives_once_it_is_closed(wakeup: SignalWakeup) -> None:
    wakeup.close()
    assert wakeup.arrived() == set()
