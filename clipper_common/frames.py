"""Numbers, text and sizes in the frames of messages. Each reader raises `WireError`, which names what is wrong."""

import struct
from collections.abc import Sequence
from typing import Final, TypeVar

from clipper_common.datatypes import View, is_plain_text, printable
from clipper_common.errors import WireError

U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
MAX_TEXT_BYTES: Final = 1024

Frame = TypeVar("Frame", bound=View)


def read_u64s(frame: View, what: str) -> tuple[int, ...]:
    if len(frame) % 8:
        raise WireError(f"{what} of {len(frame)} bytes, not a multiple of 8")
    return struct.unpack(f"<{len(frame) // 8}Q", frame)


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


def pack_sizes(parts: Sequence[View]) -> bytes:
    return struct.pack(f"<{len(parts)}Q", *map(len, parts))


def check_frames(frames: Sequence[Frame], count: int, sizes: Sequence[int], what: str) -> list[Frame]:
    """Version 3: a frame for each."""
    if count != len(frames) or list(sizes) != list(map(len, frames)):
        raise WireError(f"the {what} sizes that a message announces are not those of its {what}s")
    return list(frames)
