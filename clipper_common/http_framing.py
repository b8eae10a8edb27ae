"""Finds where HTTP requests end: heads, read by aiohttp's parser and known again by their bytes, and chunked bodies."""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from aiohttp import hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

END_OF_HEAD: Final = b"\r\n\r\n"
_MAX_HEAD_BYTES: Final = 4096
_MAX_KNOWN_HEADS: Final = 4096
_MAX_LINE_BYTES: Final = 8192
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,15})(?:;[^\r\n]*)?")
_CHUNK_SIZE_BEGUN: Final = re.compile(rb"[0-9a-fA-F]{0,15}(?:;[^\r\n]*)?\r?")
_CHUNKED_HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_LINE_END: Final = b"\r\n"
_NOT_PLAIN: Final = (hdrs.CONTENT_ENCODING, hdrs.EXPECT, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE)


class Head:
    """The head of a request, and what it says of the body."""

    def __init__(self, text: bytes, length: int, is_chunked: bool, plain_path: str | None) -> None:
        self.text = text
        self.length = length
        self.is_chunked = is_chunked
        self.plain_path = plain_path
        """The path of a plain request: a POST of HTTP/1.1 with a body of known length that leaves the connection open,
        and that asks for nothing else. None for all other requests."""
        self.app: str | None = None
        """The application of a plain request for a prediction."""


class Heads:
    """The heads that were seen before, by their bytes: those of a client are all alike."""

    def __init__(self, app_of: Callable[[Head], str | None] = lambda _: None) -> None:
        self._app_of = app_of
        self._known: dict[bytes, Head | None] = {}

    def find(self, text: bytes) -> Head | None:
        """Return the head with this text. None if aiohttp alone can tell where its request ends."""
        return self._known.get(text) or self._recognise(text)

    def _recognise(self, text: bytes) -> Head | None:
        if text in self._known:
            return None
        head = read_head(text)
        if head is not None:
            head.app = self._app_of(head)
        if len(text) <= _MAX_HEAD_BYTES:
            if len(self._known) >= _MAX_KNOWN_HEADS:
                self._known.clear()
            self._known[text] = head
        return head


def read_head(text: bytes) -> Head | None:
    """Parse the head of one request. None if it is malformed, or changes the protocol after it."""
    try:
        messages, upgraded, _ = _make_parser().feed_data(text)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or upgraded:
        return None
    message, payload = messages[0]
    length = message.headers.get(hdrs.CONTENT_LENGTH, "0")
    if message.upgrade or message.method == hdrs.METH_CONNECT or not _LENGTH.fullmatch(length):
        return None
    is_plain = _is_plain(message) and int(length) > 0 and not payload.is_eof() and not payload.total_bytes
    return Head(text, int(length), message.chunked, message.path if is_plain else None)


def _is_plain(message: RawRequestMessage) -> bool:
    return (
        message.method == hdrs.METH_POST
        and message.version == HttpVersion11
        and not message.should_close
        and not any(name in message.headers for name in _NOT_PLAIN)
    )


def _make_parser() -> HttpRequestParser:
    loop = asyncio.get_running_loop()
    return HttpRequestParser(BaseProtocol(loop), loop, 1 << 16, auto_decompress=False)


class UnknownChunkError(Exception):
    """A chunked body has a form that `ChunkReader` does not know. `is_malformed` is the verdict of aiohttp's parser."""

    def __init__(self, is_malformed: bool) -> None:
        super().__init__("unknown form of a chunk")
        self.is_malformed = is_malformed


class ChunkReader:
    """Finds the end of a chunked body, which comes in pieces."""

    def __init__(self) -> None:
        self._missing = 0
        """Bytes of the present chunk that have not come."""
        self._ends_chunk = False
        """The end of a line is next that ends a chunk."""
        self._in_trailer = False
        self._begun = b""
        """A line of which only the beginning has come."""

    def find_end(self, data: bytes) -> int:
        """Return how many bytes of `data` are left of the body; -1 if all are, and more will come.

        Raises `UnknownChunkError`.
        """
        before = len(self._begun)
        text = self._begun + data if before else data
        self._begun = b""
        at, size = 0, len(text)
        while True:
            if self._missing:
                if size - at <= self._missing:
                    self._missing -= size - at
                    return -1
                at += self._missing
                self._missing = 0
            end = text.find(_LINE_END, at)
            if end < 0:
                self._begun = text[at:]
                self._check_begun()
                return -1
            if self._ends_chunk:
                if end != at:
                    raise UnknownChunkError(_is_malformed(b"1\r\nx" + text[at:]))
                self._ends_chunk = False
            elif self._in_trailer:
                if end == at:
                    return end + 2 - before
            else:
                found = _CHUNK_SIZE.fullmatch(text, at, end)
                if found is None:
                    raise UnknownChunkError(_is_malformed(text[at:]))
                self._missing = int(found[1], 16)
                self._in_trailer = not self._missing
                self._ends_chunk = not self._in_trailer
            at = end + 2

    def _check_begun(self) -> None:
        begun = self._begun
        if self._ends_chunk:
            if begun not in (b"", b"\r"):
                raise UnknownChunkError(_is_malformed(b"1\r\nx" + begun))
        elif len(begun) > _MAX_LINE_BYTES or not (self._in_trailer or _CHUNK_SIZE_BEGUN.fullmatch(begun)):
            raise UnknownChunkError(_is_malformed(begun))


def _is_malformed(chunks: bytes) -> bool:
    try:
        _make_parser().feed_data(_CHUNKED_HEAD + chunks)
    except HttpProcessingError:
        return True
    return False
