"""The wheel: nothing expires early or is forgotten, and it costs no memory for what was taken out."""

import asyncio
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from query_frontend.serving import deadlines
from query_frontend.serving.deadlines import DeadlineWheel, Slot


class Clock:
    """Time and the loop's timers, under control."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self.asked = 0

    def monotonic(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> "Timer":
        self.asked += 1
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def advance(self, seconds: float, step: float = 0.001) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + step, end)
            due = [timer for timer in self.timers if timer.when <= self.now]
            self.timers = [timer for timer in self.timers if timer.when > self.now and not timer.cancelled]
            for timer in due:
                if not timer.cancelled:
                    timer.callback()


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Item:
    def __init__(self, clock: Any, then: Callable[[], None] = lambda: None) -> None:
        self.clock = clock
        self.then = then
        self.expired: list[float] = []

    def expire(self) -> None:
        self.expired.append(self.clock.monotonic())
        self.then()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def wheel(clock: Clock) -> DeadlineWheel:
    return DeadlineWheel(clock)  # type: ignore[arg-type]


def test_everything_expires_once_never_early_and_soon(clock: Clock, wheel: DeadlineWheel) -> None:
    rng = random.Random(1)
    items: list[tuple[float, Item]] = []
    for _ in range(3000):
        deadline = clock.now + rng.choice([0.0, 0.0004, 0.02, 0.5, 3.0]) * rng.random()
        items.append((deadline, Item(clock)))
        wheel.add(items[-1][1], deadline)
        clock.advance(rng.choice([0.0, 0.0003, 0.002]), step=0.0003)
    clock.advance(4.0)
    for deadline, item in items:
        assert len(item.expired) == 1
        assert deadline <= item.expired[0] <= deadline + 0.004


def test_what_is_taken_out_does_not_expire_and_costs_nothing(clock: Clock, wheel: DeadlineWheel) -> None:
    rng = random.Random(2)
    waiting: list[tuple[Slot, Item]] = []
    for number in range(50_000):
        item = Item(clock)
        waiting.append((wheel.add(item, clock.now + rng.uniform(0.1, 30.0)), item))
        if len(waiting) > 20:
            slot, gone = waiting.pop(rng.randrange(len(waiting)))
            assert slot.pop(gone, 0) is None
        if not number % 10:
            clock.advance(0.001)
    assert len(wheel._slots) == len(wheel._order) < 200
    kept = [item for _, item in waiting]
    clock.advance(31.0)
    assert all(len(item.expired) == 1 for item in kept)
    assert not wheel._slots
    assert not wheel._order
    assert clock.asked < 40_000


def test_a_slot_that_was_emptied_is_used_again(clock: Clock, wheel: DeadlineWheel) -> None:
    """Also when the wheel forgot it in between."""
    first = Item(clock)
    wheel.add(first, clock.now + 1.0).pop(first)
    for number in range(1000):
        other = Item(clock)
        wheel.add(other, clock.now + 2.0 + number / 500).pop(other)
    again = Item(clock)
    wheel.add(again, clock.now + 1.0)
    clock.advance(1.01)
    assert len(again.expired) == 1
    clock.advance(5.0)
    last = Item(clock)
    wheel.add(last, clock.now + 1.0)
    clock.advance(1.01)
    assert len(last.expired) == 1


def test_deadlines_in_the_past_and_very_far(clock: Clock, wheel: DeadlineWheel) -> None:
    past, far, soon = Item(clock), Item(clock), Item(clock)
    wheel.add(past, clock.now - 100.0)
    wheel.add(far, clock.now + 1e9)
    wheel.add(soon, clock.now + 0.01)
    clock.advance(0.02)
    assert (len(past.expired), len(soon.expired), len(far.expired)) == (1, 1, 0)
    clock.now += 1e9
    clock.advance(0.01)
    assert len(far.expired) == 1


def test_expiring_may_add_and_take_out(clock: Clock, wheel: DeadlineWheel) -> None:
    deadline = clock.now + 0.01
    second, third = Item(clock), Item(clock)

    def then() -> None:
        slot.pop(second)
        wheel.add(third, clock.now + 0.005)

    slot = wheel.add(Item(clock, then), deadline)
    assert wheel.add(second, deadline) is slot
    clock.advance(0.1)
    assert (len(second.expired), len(third.expired)) == (0, 1)


def test_expiring_may_add_what_is_over_too(clock: Clock, wheel: DeadlineWheel) -> None:
    deadline = clock.now + 0.01
    last, second = Item(clock), Item(clock)
    third = Item(clock, lambda: wheel.add(last, deadline) and None)
    first = Item(clock, lambda: wheel.add(third, deadline) and None)
    for item in (first, second):
        wheel.add(item, deadline)
    clock.advance(1.0)
    assert [len(item.expired) for item in (first, second, third, last)] == [1, 1, 1, 1]


def test_after_a_stall_what_arrived_meanwhile_is_read_before_anything_expires(
    clock: Clock, wheel: DeadlineWheel
) -> None:
    answered, unanswered = Item(clock), Item(clock)
    slot = wheel.add(answered, clock.now + 0.010)
    wheel.add(unanswered, clock.now + 0.020)
    clock.advance(0.1, step=0.1)
    assert not answered.expired and not unanswered.expired
    del slot[answered]  # its answer lay in the buffer of a socket
    clock.advance(0.002)
    assert not answered.expired and len(unanswered.expired) == 1


def test_stalls_that_follow_each_other_put_nothing_off_for_ever(clock: Clock, wheel: DeadlineWheel) -> None:
    item = Item(clock)
    wheel.add(item, clock.now + 0.010)
    clock.advance(0.3, step=0.1)
    assert len(item.expired) == 1


def test_one_that_fails_does_not_harm_the_others(
    clock: Clock, wheel: DeadlineWheel, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("cannot expire")

    items = [Item(clock), Item(clock, fail), Item(clock)]
    for item in items:
        wheel.add(item, clock.now + 0.01)
    later = Item(clock)
    wheel.add(later, clock.now + 0.5)
    clock.advance(1.0)
    assert [len(item.expired) for item in [*items, later]] == [1, 1, 1, 1]
    assert "cannot expire" in caplog.text


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
def test_on_a_real_loop(name: str) -> None:
    async def main() -> None:
        wheel = DeadlineWheel(asyncio.get_running_loop())
        items = []
        for number in range(200):
            deadline = time.monotonic() + 0.0005 * number
            items.append((deadline, Item(time)))
            wheel.add(items[-1][1], deadline)
        deadline = time.monotonic() + 5
        while not all(item.expired for _, item in items):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert all(item.expired[0] >= deadline and len(item.expired) == 1 for deadline, item in items)

    factory = pytest.importorskip("uvloop").new_event_loop if name == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
