"""Long work leaves the event loop to others, however much of it there is."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Iterator
from math import inf

import pytest

from clipper_common import long_work
from clipper_common.long_work import Steps

STEPS_IN_A_TURN = 4


class Clock:
    """A clock by which each step takes a part of the time that steps may take in a turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def step(self) -> None:
        self.now += long_work.TURN_SECONDS / STEPS_IN_A_TURN


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(long_work, "perf_counter", clock)
    return clock


class Work:
    """A number of steps, each of which is noted."""

    def __init__(self, clock: Clock, name: str, number: int, made: list[str]) -> None:
        self._clock = clock
        self._name = name
        self._number = number
        self._made = made

    def steps(self) -> Steps[str]:
        for _ in range(self._number):
            self._clock.step()
            self._made.append(self._name)
            yield
        return f"{self._name} is done"


async def turns_of_others(made: list[str], turns: int) -> list[int]:
    """Return the number of steps in each of the next turns of the loop."""
    seen = []
    for _ in range(turns):
        before = len(made)
        await asyncio.sleep(0)
        seen.append(len(made) - before)
    return seen


async def test_all_work_together_makes_a_bounded_part_of_its_steps_in_a_turn(clock: Clock) -> None:
    made: list[str] = []
    for name in "abc":
        long_work.start_soon(Work(clock, name, 8, made).steps())
    assert made == [], "it begins in the next turn"
    seen = await turns_of_others(made, 8)
    assert max(seen) == STEPS_IN_A_TURN and sum(seen) == 24
    assert "".join(made[:6]) == "abcabc", "no work waits for the end of another"


async def test_it_tells_when_a_turn_began_at_the_earliest(clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    assert long_work.turn_began_after(loop) == -inf
    long_work.start_soon(Work(clock, "a", 2 * STEPS_IN_A_TURN, []).steps())
    await asyncio.sleep(0)
    assert long_work.turn_began_after(loop) == -inf, "no turn with steps has ended yet"
    ended, clock.now = clock.now, clock.now + 1.0
    await asyncio.sleep(0)
    assert long_work.turn_began_after(loop) == ended


async def test_what_is_small_is_finished_at_once(clock: Clock) -> None:
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "had their turn")
    long_work.start_now(iter([]))
    assert await long_work.finish(Work(clock, "a", 0, []).steps()) == "a is done"
    assert not others


async def test_the_first_step_of_what_is_begun_is_made_at_once(clock: Clock) -> None:
    made: list[str] = []
    long_work.start_now(Work(clock, "a", 10, made).steps())
    assert len(made) == 1
    assert await turns_of_others(made, 3) == [STEPS_IN_A_TURN, STEPS_IN_A_TURN, 1]


async def test_all_who_ask_in_a_turn_share_the_time_for_what_is_done_at_once(clock: Clock) -> None:
    assert long_work.seconds_left() == long_work.TURN_SECONDS
    clock.now += long_work.TURN_SECONDS
    assert long_work.seconds_left() == 0.0
    await asyncio.sleep(0)
    assert long_work.seconds_left() == long_work.TURN_SECONDS


async def test_the_end_is_waited_for(clock: Clock) -> None:
    made: list[str] = []
    finished = asyncio.create_task(long_work.finish(Work(clock, "a", 20, made).steps()))
    seen = await turns_of_others(made, 8)
    assert max(seen) <= STEPS_IN_A_TURN + 1 and sum(seen) == 20
    assert await finished == "a is done"


async def test_nobody_makes_what_nobody_waits_for(clock: Clock) -> None:
    made: list[str] = []
    task = asyncio.create_task(long_work.finish(Work(clock, "a", 1000, made).steps()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    so_far = len(made)
    await turns_of_others(made, 5)
    assert len(made) == so_far


def failing() -> Steps[None]:
    yield
    raise ZeroDivisionError


async def test_what_fails_is_told_and_the_others_go_on(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    made: list[str] = []

    def fail() -> Iterator[None]:
        yield from failing()

    long_work.start_soon(fail())
    long_work.start_soon(Work(clock, "a", 10, made).steps())
    with pytest.raises(ZeroDivisionError):
        await long_work.finish(failing())
    await turns_of_others(made, 4)
    assert len(made) == 10 and "some long work failed" in caplog.text


class Large:
    """An object that steps work on."""


async def test_what_fails_leaves_no_cycle_behind() -> None:
    """Or what it worked on would be kept until there is a garbage collection, or for ever: it may be frozen."""
    kept: list[weakref.ref[Large]] = []

    def fail() -> Steps[None]:
        large = Large()
        kept.append(weakref.ref(large))
        yield from failing()

    gc.disable()
    try:
        with contextlib.suppress(ZeroDivisionError):
            await long_work.finish(fail())
        await asyncio.sleep(0)
        assert [each() for each in kept] == [None]
    finally:
        gc.enable()
