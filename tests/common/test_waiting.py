"""Time limits and repeated attempts."""

import asyncio
import time

import pytest

from clipper_common.waiting import TimeLimit


class Clock:
    """A monotonic clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr("clipper_common.waiting.asyncio.sleep", clock.sleep_async)
    return clock


def test_attempts_are_made_until_the_time_is_over(clock: Clock) -> None:
    limit = TimeLimit(1.0)
    assert [clock.now for _ in limit.attempts(0.5)] == [100.0, 100.5, 101.0, 101.5]
    assert limit.is_over


def test_the_same_in_an_event_loop(clock: Clock) -> None:
    async def attempts() -> list[float]:
        return [clock.now async for _ in TimeLimit(1.0).attempts(0.5)]

    running = asyncio.new_event_loop()
    try:
        assert running.run_until_complete(attempts()) == [100.0, 100.5, 101.0, 101.5]
    finally:
        running.close()


def test_there_is_one_attempt_at_least(clock: Clock) -> None:
    limit = TimeLimit(1.0)
    clock.now += 5.0
    assert [clock.now for _ in limit.attempts(0.5)] == [105.0]


def test_a_pause_of_no_length_is_no_end(clock: Clock) -> None:
    limit, attempts = TimeLimit(1.0), 0
    for _ in limit.attempts(0.0):
        attempts += 1
        clock.now += 0.4
    assert attempts == 3


def test_limits_can_be_shared(clock: Clock) -> None:
    limit = TimeLimit(1.0)
    assert len([clock.now for _ in limit.attempts(0.5)]) == 4
    assert len([clock.now for _ in limit.attempts(0.5)]) == 1
    assert limit.elapsed_seconds == 1.5


def test_temporary_errors_are_retried(clock: Clock) -> None:
    answers = iter([OSError("away"), OSError("away"), "here"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert TimeLimit(1.0).retry(call, 0.1, lambda error: isinstance(error, OSError)) == "here"
    assert clock.now == pytest.approx(100.2)


def test_other_errors_and_those_after_the_time_limit_are_raised(clock: Clock) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        TimeLimit(1.0).retry(call, 0.1, lambda error: isinstance(error, ValueError))
    assert calls == 1
    with pytest.raises(OSError, match="away"):
        TimeLimit(1.0).retry(call, 0.5, lambda error: True)
    assert calls == 1 + 4
