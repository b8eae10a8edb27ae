"""The delays before programs that keep ending are restarted."""

from typing import Final

_FIRST_SECONDS: Final = 0.1
LONGEST_SECONDS: Final = 10.0
STABLE_SECONDS: Final = 30.0
"""A program that lived longer than this is started again as if it had never ended."""


class RestartBackoff:
    """The delays before the starts that follow each other: each is twice as long as the one before, up to a limit."""

    def __init__(self, first_seconds: float = _FIRST_SECONDS) -> None:
        """Begin with `first_seconds`. After 0, the second delay is `_FIRST_SECONDS`."""
        self.longest_seconds = LONGEST_SECONDS
        self._first = first_seconds
        self._next = first_seconds

    def delay_after(self, lived_seconds: float) -> float:
        """Return the seconds until the next start of a program that has just ended."""
        if lived_seconds > STABLE_SECONDS:
            self._next = self._first
        delay = min(self._next, self.longest_seconds)
        self._next = 2 * delay or _FIRST_SECONDS
        return delay
