"""Inflates the bodies of requests that were compressed, in steps, and never beyond the size that a body may have."""

import io
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from clipper_common.long_work import Steps

ENCODINGS: Final = frozenset({"deflate", "gzip", "x-gzip"})
"""The values of ``Content-Encoding`` that are understood."""
_ANY_HEADER: Final = 32 + zlib.MAX_WBITS
"""The ``wbits`` for data that begin with the header of gzip or of zlib, which tells the two apart."""
_COMPRESSED_BYTES: Final = 1 << 14
_PIECE_BYTES: Final = 1 << 16


class InflationError(Exception):
    """The body is not what its ``Content-Encoding`` says."""


class TooLargeError(Exception):
    """The inflated body is larger than a body may be."""


def inflate(parts: Iterable[bytes], most: int) -> Steps[bytes]:
    """Return the body that comes in `parts`, inflated.

    Raises InflationError, or TooLargeError for more than `most` bytes.
    """
    inflated = io.BytesIO()  # it hands out its buffer, where a bytearray would be copied in one long step
    try:
        for piece in _pieces(parts):
            inflated.write(piece)
            if inflated.tell() > most:
                raise TooLargeError
            yield
    except zlib.error as error:
        raise InflationError(str(error)) from None
    return inflated.getvalue()


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_ANY_HEADER)
    for data in _cut(parts):
        while data:
            if inflater.eof:  # gzip may have several members
                inflater = zlib.decompressobj(_ANY_HEADER)
            yield inflater.decompress(data, _PIECE_BYTES)
            data = inflater.unconsumed_tail or inflater.unused_data
    while not inflater.eof:  # what it held back may be more than a piece
        piece = inflater.decompress(b"", _PIECE_BYTES)
        if not piece:
            raise zlib.error("the data end too early")
        yield piece


def _cut(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        for begin in range(0, len(part), _COMPRESSED_BYTES):
            yield part[begin : begin + _COMPRESSED_BYTES]
