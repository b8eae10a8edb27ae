"""Functions by which tests wait for a condition instead of a fixed time."""

import time
from collections.abc import Callable
from typing import Any, Final

GIVE_UP_SECONDS: Final = 60.0
"""Long, since what a test waits for takes many times as long on a busy machine."""
_LEAST_PAUSE_SECONDS: Final = 0.005
_MOST_PAUSE_SECONDS: Final = 0.2
_PAUSE_GROWTH: Final = 1.2


def wait_for(condition: Callable[[], Any], what: str, seconds: float = GIVE_UP_SECONDS) -> Any:
    """Poll until `condition` returns a value that is true, and return that. The pauses between the polls grow.

    Raises AssertionError, which names `what` did not happen, after so many seconds.
    """
    deadline = time.monotonic() + seconds
    pause = _LEAST_PAUSE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"this did not happen within {seconds:g} s: {what}"
        time.sleep(pause)
        pause = min(pause * _PAUSE_GROWTH, _MOST_PAUSE_SECONDS)
    return value
