"""Losses: how wrong an output is, from 0 to 1, given the label that came as feedback."""

from sys import float_info
from typing import Final, TypeGuard

from clipper_common import jsontext
from clipper_common.errors import JsonError
from clipper_common.selection_policies import Loss

_LONGEST_NUMBER: Final = 64
"""The most bytes of an output that may be a number."""
_LARGEST: Final = float_info.max


def check_label(loss: Loss, label: object) -> None:
    """Raise `JsonError` if no loss can be computed with this label, which is a value from JSON."""
    if loss is Loss.ZERO_ONE:
        return
    if not _is_number(label) or not abs(label) <= _LARGEST:
        raise JsonError(f"The loss '{loss}' needs a finite number as label")
    if loss is Loss.GIVEN and not 0 <= label <= 1:
        raise JsonError("A loss must be from 0 to 1")


def loss_of(loss: Loss, scale: float, label: object, output: bytes) -> float:
    """Return the loss of an output. `check_label` has accepted the label. What is no number is wholly wrong."""
    if loss is Loss.GIVEN:
        return _float(label)
    if loss is Loss.ZERO_ONE:
        return 0.0 if _is_equal(label, output) else 1.0
    number = number_in(output)
    if number is None:
        return 1.0
    error = distance(_float(label), number, scale)
    return error if loss is Loss.ABSOLUTE else error * error


def distance(one: float, other: float, scale: float) -> float:
    """Return the difference of two numbers as a part of the scale, at most 1."""
    return min(1.0, abs(one - other) / scale)


def number_in(output: bytes) -> float | None:
    """Return the number that an output is, or None."""
    if len(output) > _LONGEST_NUMBER:
        return None
    try:
        value = jsontext.parse(output)
    except JsonError:
        return None
    return float(value) if _is_number(value) else None


def _float(label: object) -> float:
    assert _is_number(label)
    return float(label)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_equal(label: object, output: bytes) -> bool:
    if isinstance(label, str) and label.encode() == output:  # text that is not quoted, as JSON or otherwise
        return True
    try:
        value = jsontext.parse(output)
    except JsonError:
        return False
    return bool(value == label) and isinstance(value, bool) == isinstance(label, bool)
