"""Numbers, texts and sizes in the frames of messages. Each reader raises `WireError`, which names what is wrong."""

import re
import struct
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Final, TypeVar

from clipper_common.constants import MAX_NAME_LENGTH
from clipper_common.datatypes import InputType, View, is_model_text, is_plain_text, printable
from clipper_common.errors import WireError

U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
HEADER: Final = struct.Struct("<II")
"""Begins the header of version 4: a message id, and the input type of a batch or the number of its outputs."""
MAX_TEXT_BYTES: Final = 1024
_DIGITS: Final = re.compile(rb"\d+")

Frame = TypeVar("Frame", bound=View)


def read_u64s(frame: View, what: str, count: int | None = None) -> tuple[int, ...]:
    """Read all numbers in a frame, of which there must be `count` if that is given."""
    return _read_numbers(frame, what, "Q", U64.size, count)


def read_u32s(frame: View, what: str, count: int) -> tuple[int, ...]:
    """Read `count` numbers, which must be all in a frame."""
    return _read_numbers(frame, what, "I", U32.size, count)


def _read_numbers(frame: View, what: str, code: str, size: int, count: int | None) -> tuple[int, ...]:
    found, left = divmod(len(frame), size)
    if left:
        raise WireError(f"{what} of {len(frame)} bytes, not a multiple of {size}")
    if count is not None and found != count:
        raise WireError(f"{found} {what} for {count}")
    return struct.unpack(f"<{found}{code}", frame)


def read_u32(frame: View, what: str) -> int:
    if len(frame) != 4:
        raise WireError(f"{what} of {len(frame)} bytes, not 4")
    number: int = U32.unpack(frame)[0]
    return number


def read_text(frame: View, what: str) -> str:
    if not 0 < len(frame) <= MAX_TEXT_BYTES:
        raise WireError(f"{what} of {len(frame)} bytes")
    try:
        text = bytes(frame).decode()
    except UnicodeDecodeError as error:
        raise WireError(f"{what} is not UTF-8") from error
    if not is_plain_text(text, MAX_TEXT_BYTES):
        raise WireError(f"{what} '{printable(text, 80)}' contains control characters")
    return text


def read_model_text(frame: bytes, what: str) -> str:
    """Read the name or version of a model. The check is as strict as over HTTP, since both become part of the same
    keys."""
    text = read_text(frame, what)
    if not is_model_text(text):
        raise WireError(
            f"{what} '{printable(text, 80)}' is longer than {MAX_NAME_LENGTH} characters, or contains one of: ',', ':'"
        )
    return text


def read_input_type(frame: bytes) -> InputType:
    # R and C++ containers send digits, a NUL, and whatever lies behind it in their memory.
    digits = _DIGITS.match(frame[:8])
    try:
        return InputType(int(digits[0]) if digits else -1)
    except ValueError:
        raise WireError(f"unknown input type {frame[:16]!r}") from None


def check_count(count: int, most_outputs: int) -> None:
    """Check the number of outputs before the time is spent that their decoding takes."""
    if count > most_outputs:
        raise WireError(f"an answer of {count} outputs, where {most_outputs} are the most")


def as_input_type(number: int) -> InputType:
    try:
        return InputType(number)
    except ValueError as error:
        raise WireError(f"unknown input type {number}") from error


def pack_u32s(numbers: Collection[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def pack_u64s(numbers: Collection[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def check_packed(frames: Sequence[Frame], what: str, most_frames: int) -> Sequence[Frame]:
    """Check a message of version 4, of which the first frame is a header and the second its data."""
    if not 2 <= len(frames) <= most_frames or len(frames[0]) < HEADER.size:
        raise WireError(f"a {what} of version 4 is a header and its data")
    return frames


def read_sizes(frame: View, data: View, what: str) -> tuple[int, ...]:
    """Read the sizes of all parts of `data`."""
    sizes = read_u64s(frame, f"{what} sizes")
    if len(data) != sum(sizes):
        raise WireError(f"the {what} sizes that a message announces are not those of its {what}s")
    return sizes


def split(data: bytes, sizes: tuple[int, ...]) -> list[View]:
    """Return the parts of `data` that are of these sizes."""
    parts: list[View] = []
    raw = data  # compiled, a pointer: slices of it are made without a slice object
    end = 0
    for size in sizes:
        begin, end = end, end + size
        parts.append(raw[begin:end])
    return parts


def views(data: bytes, sizes: tuple[int, ...]) -> list[View]:
    """Return the same parts as `split`, without copying them."""
    whole = memoryview(data)
    return [whole[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def pack_sizes(parts: Sequence[View]) -> bytes:
    return pack_u64s(list(map(len, parts)))


def check_frames(frames: Sequence[Frame], count: int, sizes: Sequence[int], what: str) -> list[Frame]:
    """Return the frames of a version 3 message, which has one for each item, if their sizes are as announced."""
    if count != len(frames) or list(sizes) != list(map(len, frames)):
        raise WireError(f"the {what} sizes that a message announces are not those of its {what}s")
    return list(frames)
