"""Tests of how requests with large bodies share the memory for bodies."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from clipper_common import body_budget
from clipper_common.body_budget import BodyBudget, Held, OverBudgetError, default_limit
from clipper_common.constants import MAX_BODY_BYTES


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Asking:
    """A request that wants memory, and keeps it until it is told to let go."""

    def __init__(self, budget: BodyBudget, app_name: str, size: int) -> None:
        self.held: Held | None = None
        self._ends = asyncio.Event()
        self.task = asyncio.create_task(self._ask(budget, app_name, size))

    async def _ask(self, budget: BodyBudget, app_name: str, size: int) -> None:
        async with budget.hold(app_name, size) as self.held:
            await self._ends.wait()

    async def end(self) -> None:
        self._ends.set()
        await self.task


async def test_what_fits_is_let_in_and_counted() -> None:
    budget = BodyBudget(100)
    async with budget.hold("a", 40) as first, budget.hold("b", 60):
        assert budget.held_bytes == 100
        first.resize(10)
        assert budget.held_bytes == 70
    assert budget.held_bytes == 0


async def test_a_body_of_any_size_is_let_in_where_there_is_no_other() -> None:
    budget = BodyBudget(10)
    async with budget.hold("a", 1000):
        assert budget.held_bytes == 1000
    assert budget.held_bytes == 0


async def test_applications_take_turns() -> None:
    budget = BodyBudget(10)
    first = Asking(budget, "greedy", 10)
    await turns()
    greedy = [Asking(budget, "greedy", 10) for _ in range(5)]
    await turns()
    modest = Asking(budget, "modest", 10)
    await turns()
    assert modest.held is None
    await first.end()
    await turns()
    assert greedy[0].held is not None and modest.held is None
    await greedy[0].end()
    await turns()
    assert modest.held is not None and greedy[1].held is None
    await modest.end()
    for each in greedy[1:]:
        await turns()
        assert each.held is not None
        await each.end()
    assert budget.held_bytes == 0


async def test_a_small_one_does_not_overtake_a_large_one() -> None:
    budget = BodyBudget(100)
    first = Asking(budget, "a", 60)
    await turns()
    large = Asking(budget, "b", 90)
    await turns()
    small = Asking(budget, "c", 10)
    await turns()
    assert (large.held, small.held) == (None, None)
    await first.end()
    await turns()
    assert large.held is not None and small.held is not None
    await large.end()
    await small.end()


async def test_who_waits_for_too_long_is_told_and_does_not_block_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "_WAIT_SECONDS", 0.02)
    budget = BodyBudget(100)
    first = Asking(budget, "a", 60)
    await turns()
    with pytest.raises(OverBudgetError):
        async with budget.hold("b", 90):
            pass
    async with budget.hold("c", 40):
        assert budget.held_bytes == 100
    await first.end()
    assert budget.held_bytes == 0


async def test_who_hangs_up_while_waiting_holds_nothing() -> None:
    budget = BodyBudget(100)
    first = Asking(budget, "a", 60)
    await turns()
    large, small = Asking(budget, "b", 90), Asking(budget, "c", 40)
    await turns()
    large.task.cancel()
    await turns()
    assert small.held is not None
    await small.end()
    await first.end()
    assert budget.held_bytes == 0


async def test_who_hangs_up_when_let_in_gives_it_back() -> None:
    budget = BodyBudget(10)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(budget.hold("a", 10))
        waiting = Asking(budget, "b", 10)
        await turns()
    waiting.task.cancel()  # in the turn in which it was let in
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert budget.held_bytes == 0


def test_the_default_holds_eight_of_the_largest_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_limit(64) >= 8 * MAX_BODY_BYTES
    monkeypatch.setattr(body_budget, "_memory_bytes", lambda: 64 << 30)
    assert default_limit(1) == 16 << 30
    assert default_limit(4) == 4 << 30
