"""Counts the steps of long work."""

from typing import TypeVar

from clipper_common.long_work import Steps

Value = TypeVar("Value")


def in_steps(steps: Steps[Value]) -> tuple[Value, int]:
    """Return what the steps return, and how many there were."""
    number = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value, number
        number += 1
