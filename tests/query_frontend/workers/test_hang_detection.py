"""Tests of telling from heartbeats and the process whether a worker hangs."""

import os

import pytest

from query_frontend.workers.hang_detection import CHECK_SECONDS, Process, Verdict, Watch, read_process


def checks(watch: Watch, number: int, state: str, share: float = 0.0, start: int = 1) -> list[Verdict]:
    """Checks without a beat, of a process that has so large a share of a processor."""
    times = [CHECK_SECONDS * check for check in range(start, start + number)]
    return [watch.check(time, 7, Process(state, time * share)) for time in times]


@pytest.mark.parametrize(
    ("state", "share", "verdicts"),
    [
        ("T", 0.0, [Verdict.ALIVE] * 4 + [Verdict.HANGS, Verdict.STILL_HANGS, Verdict.STILL_HANGS]),
        ("S", 0.0, [Verdict.ALIVE] * 4 + [Verdict.HANGS, Verdict.STILL_HANGS, Verdict.STILL_HANGS]),
        ("R", 1.0, [Verdict.ALIVE] * 5 + [Verdict.HANGS, Verdict.STILL_HANGS]),
        ("R", 0.1, [Verdict.ALIVE] * 7),
        ("D", 0.0, [Verdict.ALIVE] * 7),
        ("t", 0.0, [Verdict.ALIVE] * 7),
    ],
    ids=["stopped", "waits", "computes", "has no processor", "has no memory", "is debugged"],
)
def test_without_a_beat(state: str, share: float, verdicts: list[Verdict]) -> None:
    assert checks(Watch(0.0, 7), 7, state, share) == verdicts


def test_all_time_counts_where_the_system_does_not_say() -> None:
    watch = Watch(0.0, 7)
    verdicts = [watch.check(CHECK_SECONDS * check, 7, None) for check in range(1, 7)]
    assert verdicts == [Verdict.ALIVE] * 4 + [Verdict.HANGS, Verdict.STILL_HANGS]


def test_a_beat_ends_it() -> None:
    watch = Watch(0.0, 7)
    assert checks(watch, 5, "S")[-1] is Verdict.HANGS
    assert watch.check(3.0, 8, Process("S", 0.0)) is Verdict.ALIVE
    assert watch.check(3.5, 8, Process("S", 0.0)) is Verdict.ALIVE
    assert watch.silent_seconds == CHECK_SECONDS


def test_the_time_in_which_nobody_checked_does_not_count() -> None:
    """The machine slept, or the supervisor was stopped, with its workers."""
    watch = Watch(0.0, 7)
    assert watch.check(3600.0, 7, Process("S", 0.0)) is Verdict.ALIVE
    assert watch.silent_seconds <= 2 * CHECK_SECONDS


def test_what_the_system_says_of_a_process() -> None:
    found = read_process(os.getpid())
    if found is not None:  # there is no /proc on macOS
        assert found.state in "RS"
        assert abs(found.cpu_seconds - sum(os.times()[:2])) < 1.0
    assert read_process(2**22 + 1) is None
