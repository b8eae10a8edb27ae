"""Delays of restarts."""

from clipper_common.backoff import RestartBackoff


def delays(backoff: RestartBackoff, *lives: float) -> list[float]:
    return [backoff.delay_after(lived) for lived in lives]


def test_delays_double_up_to_a_limit() -> None:
    assert delays(RestartBackoff(), *[0.0] * 9) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_the_first_start_may_follow_at_once() -> None:
    assert delays(RestartBackoff(first_seconds=0.0), 0.0, 0.0, 0.0) == [0.0, 0.1, 0.2]


def test_a_long_life_begins_anew() -> None:
    assert delays(RestartBackoff(), 1.0, 30.0, 30.1, 1.0) == [0.1, 0.2, 0.1, 0.2]
    assert delays(RestartBackoff(first_seconds=0.0), 1.0, 1.0, 31.0, 1.0) == [0.0, 0.1, 0.0, 0.1]


def test_a_lower_limit_holds_from_the_next_delay_on() -> None:
    backoff = RestartBackoff()
    assert delays(backoff, *[0.0] * 6)[-1] == 3.2
    backoff.longest_seconds = 1.0
    assert delays(backoff, 6.0, 6.0) == [1.0, 1.0]
