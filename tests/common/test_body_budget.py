"""Tests of how requests with large bodies share the memory for bodies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web

from clipper_common import body_budget
from clipper_common.body_budget import BodyBudget, Held, OverBudgetError, default_limit
from clipper_common.constants import MAX_BODY_BYTES


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Asking:
    """A request that wants memory, bit by bit, and keeps it until it is told to let go."""

    def __init__(self, budget: BodyBudget, app_name: str, *sizes: int) -> None:
        self.held: Held | None = None
        self.left = list(sizes)
        self._ends = asyncio.Event()
        self.task = asyncio.create_task(self._ask(budget, app_name))

    async def _ask(self, budget: BodyBudget, app_name: str) -> None:
        with budget.count(app_name) as self.held:
            while self.left:
                await self.held.reserve(self.left[0])
                del self.left[0]
            await self._ends.wait()

    @property
    def is_whole(self) -> bool:
        return not self.left

    async def end(self) -> None:
        self._ends.set()
        await self.task


class Body:
    """An unfinished body of a request, as far as it has arrived."""

    client_max_size = 1 << 30

    def __init__(self, size: int) -> None:
        self.content = self
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.bring(size)

    def bring(self, size: int) -> None:
        self._pieces.put_nowait(bytes(size))

    async def readany(self) -> bytes:
        return await self._pieces.get()


@asynccontextmanager
async def unfinished(budget: BodyBudget, app_name: str, body: Body) -> AsyncIterator[asyncio.Task[list[bytes]]]:
    """Read the body, which never ends."""
    with budget.count(app_name) as held:
        reading = asyncio.create_task(budget.read(cast(Any, body), held))
        await turns()
        yield reading
        reading.cancel()
        await asyncio.wait([reading])


@pytest.fixture
def short_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "_STALL_SECONDS", 0.2)
    monkeypatch.setattr(body_budget, "_REVIEW_SECONDS", 0.01)


@pytest.mark.usefixtures("short_stall")
async def test_of_bodies_that_do_not_move_the_largest_of_the_largest_application_gives_way() -> None:
    budget = BodyBudget(100)
    async with (
        unfinished(budget, "a", Body(40)) as one,
        unfinished(budget, "b", Body(20)) as small,
        unfinished(budget, "b", Body(30)) as large,
        unfinished(budget, "c", Body(11)) as beyond,
    ):
        await Asking(budget, "d", 20).end()
        assert large.done() and not (one.done() or small.done() or beyond.done())
        error = large.exception()
        assert isinstance(error, web.HTTPRequestTimeout) and error.headers["Retry-After"] == "1"
    assert budget.held_bytes == 0


@pytest.mark.usefixtures("short_stall")
async def test_a_body_that_nobody_waits_for_does_not_give_way() -> None:
    budget = BodyBudget(100)
    async with unfinished(budget, "a", Body(100)) as first, unfinished(budget, "a", Body(1)) as beyond:
        await asyncio.wait([first, beyond], timeout=0.5)
        assert not (first.done() or beyond.done())


@pytest.mark.usefixtures("short_stall")
async def test_a_body_that_moves_does_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "_WAIT_SECONDS", 0.6)
    monkeypatch.setattr(body_budget, "_PROGRESS_BYTES", 1)
    budget, body = BodyBudget(100), Body(50)
    full = Asking(budget, "a", 100)
    await turns()
    async with unfinished(budget, "a", body) as beyond:
        asking = Asking(budget, "b", 50)
        while not asking.task.done():
            body.bring(1)
            await asyncio.sleep(0.02)
        assert isinstance(asking.task.exception(), OverBudgetError)
        assert not beyond.done()
    await full.end()
    assert budget.held_bytes == 0


async def test_what_fits_is_let_in_and_counted() -> None:
    budget = BodyBudget(100)
    with budget.count("a") as first, budget.count("b") as second:
        await first.reserve(40)
        await second.reserve(60)
        assert budget.held_bytes == 100
        first.resize(10)
        assert budget.held_bytes == 70
    assert budget.held_bytes == 0
    assert not budget.was_short_within(1000)


async def test_a_body_of_any_size_is_let_in_at_once_where_there_is_no_other() -> None:
    budget = BodyBudget(10)
    with budget.count("a") as held:
        for _ in range(3):
            await held.reserve(1000)
        assert budget.held_bytes == 3000
        assert not budget.was_short_within(1000)
    assert budget.held_bytes == 0


@pytest.mark.parametrize("apps", ["abcde", "aabbb", "aaaaa"])
async def test_one_body_that_has_begun_can_always_be_finished(apps: str) -> None:
    """All others wait at the limit, half-way; then one after the other is finished."""
    budget = BodyBudget(100)
    several = [Asking(budget, app_name, *[10] * 10) for app_name in apps]
    whole: list[Asking] = []
    while len(whole) < 5:
        await turns(100)
        assert budget.held_bytes <= budget.limit + 100
        ready = [each for each in several if each.is_whole and each not in whole]
        assert ready, "there is one that goes on"
        for each in ready:
            await each.end()
        whole += ready
    assert budget.held_bytes == 0


async def test_only_one_goes_beyond_the_limit() -> None:
    budget = BodyBudget(100)
    full = Asking(budget, "a", 100)
    await turns()
    several = [Asking(budget, app_name, 50) for app_name in "bbc"]
    for number in range(3):
        await turns()
        assert budget.held_bytes == 150
        assert [each.is_whole for each in several] == [each <= number for each in range(3)]
        await several[number].end()
    await full.end()
    assert budget.held_bytes == 0


async def test_applications_take_turns() -> None:
    budget = BodyBudget(10)
    first, beyond = Asking(budget, "greedy", 10), Asking(budget, "greedy", 1)
    await turns()
    greedy = [Asking(budget, "greedy", 9) for _ in range(5)]
    await turns()
    modest = Asking(budget, "modest", 9)
    await turns()
    assert not greedy[0].is_whole and not modest.is_whole
    await first.end()
    await turns()
    assert greedy[0].is_whole and modest.is_whole and not greedy[1].is_whole
    for each in [greedy[0], modest, *greedy[1:], beyond]:
        await turns()
        assert each.is_whole
        await each.end()
    assert budget.held_bytes == 0


async def test_what_is_announced_and_does_not_arrive_holds_nothing_and_blocks_nobody() -> None:
    budget = BodyBudget(100)
    full = Asking(budget, "a", 88)
    await turns()
    beyond, large = Asking(budget, "a", 32), Asking(budget, "a", 32)
    await turns()
    assert beyond.is_whole and not large.is_whole
    beyond.task.cancel()
    await turns()
    assert large.is_whole
    await large.end()
    stuck, others = Asking(budget, "a", 5), Asking(budget, "b", 7)
    await turns()
    assert stuck.is_whole and others.is_whole
    for each in (full, stuck, others):
        await each.end()
    assert budget.held_bytes == 0


async def test_who_waits_for_too_long_is_told_and_does_not_block_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "_WAIT_SECONDS", 0.02)
    budget = BodyBudget(100)
    first, beyond = Asking(budget, "a", 60), Asking(budget, "a", 60)
    await turns()
    with budget.count("b") as held:
        with pytest.raises(OverBudgetError):
            await held.reserve(90)
        assert budget.was_short_within(1000)
    await beyond.end()
    with budget.count("c") as held:
        await held.reserve(40)
        assert budget.held_bytes == 100
    await first.end()
    assert budget.held_bytes == 0


async def test_of_those_whose_time_is_over_some_get_what_the_others_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "_WAIT_SECONDS", 0.02)
    budget = BodyBudget(100)
    with ExitStack() as stack:
        several = [stack.enter_context(budget.count("a")) for _ in range(8)]
        for held in several:
            await held.reserve(12)
        await stack.enter_context(budget.count("b")).reserve(50)
        outcomes = await asyncio.gather(*[held.reserve(10) for held in several], return_exceptions=True)
        assert isinstance(outcomes[0], OverBudgetError)
        assert None in outcomes
    assert budget.held_bytes == 0


async def test_who_hangs_up_while_waiting_holds_nothing() -> None:
    budget = BodyBudget(100)
    first, beyond = Asking(budget, "a", 60), Asking(budget, "a", 60)
    await turns()
    large = Asking(budget, "b", 90)
    await turns()
    large.task.cancel()
    await turns()
    await beyond.end()
    assert budget.held_bytes == 60
    await first.end()
    assert budget.held_bytes == 0


async def test_a_request_that_has_ended_is_given_nothing() -> None:
    budget = BodyBudget(100)
    with budget.count("a") as other:
        await other.reserve(150)
        with budget.count("b") as held:
            reading = asyncio.create_task(held.reserve(10))
            await turns()
        reading.cancel()
    assert budget.held_bytes == 0, "there is room before the task that reads has its turn, and ends"
    await asyncio.wait([reading])
    assert budget.held_bytes == 0


async def test_who_hangs_up_when_let_in_gives_it_back() -> None:
    budget = BodyBudget(10)
    first, beyond = Asking(budget, "a", 10), Asking(budget, "a", 10)
    await turns()
    waiting = Asking(budget, "b", 10)
    await turns()
    budget.give_back(10)
    budget.count_more(10)
    await first.end()
    waiting.task.cancel()  # in the turn in which it was let in
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    await beyond.end()
    assert budget.held_bytes == 0


def test_the_default_holds_eight_of_the_largest_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_limit(64) >= 8 * MAX_BODY_BYTES
    monkeypatch.setattr(body_budget, "_memory_bytes", lambda: 64 << 30)
    assert default_limit(1) == 16 << 30
    assert default_limit(4) == 4 << 30
