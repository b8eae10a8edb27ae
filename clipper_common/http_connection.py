"""A client's HTTP connection: it finds where each request ends, and has aiohttp answer one after the other.

aiohttp's handler is made for the first request that is for it, and is given the bytes of one request at a time. It
writes to a transport that `HttpConnection` makes for it, and `http_server`, which makes the handler, tells
`HttpConnection` when a request is answered. So a subclass may answer other requests by itself in between, through
public interfaces alone.

Where nobody but aiohttp can tell the end of a request, everything goes to aiohttp from then on, and the connection
closes with the next answer.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Final

from aiohttp import StreamReader, web

from clipper_common import long_work
from clipper_common.http_framing import END_OF_HEAD, ChunkReader, Head, UnknownChunkError
from clipper_common.sockets import has_unread_bytes, prepare

if TYPE_CHECKING:
    from clipper_common.http_server import Server

PIECE_BYTES: Final = 4096
"""The bytes of one piece of larger data without a known length, which aiohttp's parser gets in pieces: each may have
hundreds of chunks."""
_SMALL_BYTES: Final = 1024
"""Data of at most this many bytes are parsed as soon as they arrive."""
_MAX_HELD_BYTES: Final = 1 << 16
_MAX_BEGUN_BYTES: Final = 1 << 16
_MAX_AT_ONCE: Final = 8
"""The most requests of one connection that are taken in one turn of the event loop."""
_HALF_CLOSED_SECONDS: Final = 1.0
"""Seconds that a half-closed connection waits for the client to close its half."""
NOT_OURS: Final = -1


class HttpConnection:
    """The asyncio protocol of one HTTP connection."""

    def __init__(self, server: "Server") -> None:
        self.transport: asyncio.Transport | None = None
        self.answered_at = monotonic()
        """Monotonic time at which the last request was answered, or the connection was made."""
        self._server = server
        self._heads = server.heads
        self._handler: web.RequestHandler | None = None
        """The handler of aiohttp; None before the first request that is for it."""
        self._head: Head | None = None
        """The last head that was recognized. It is kept since the heads of a client are all alike."""
        self._is_answering = False
        """Whether a request is under way. Data after it are held."""
        self._owed = 0
        """The number of the next bytes that are the rest of a request that aiohttp has begun to read."""
        self._chunks: ChunkReader | None = None
        """The reader that finds the end of the chunked body that aiohttp is given."""
        self._begun = b""
        """The beginning of an incomplete head. aiohttp has been given it already, since the head may be malformed."""
        self._passes = False
        """Whether all data go to aiohttp from now on."""
        self._ends = False
        """Whether no further request is answered."""
        self._is_paused = False
        """Whether the client does not read its answers."""
        self._is_full = False
        """Whether aiohttp takes no more data at present."""
        self._is_parsing = False
        """Whether held data are being given to aiohttp in pieces."""
        self._held: deque[bytes] = deque()
        """Received data that are not looked at yet."""
        self._held_bytes = 0
        self._holds_back = False
        """Whether the transport reads nothing."""
        self._content: StreamReader | None = None
        """The body of the request that aiohttp answers."""
        self._is_malformed = False
        """Whether this body is malformed."""
        self.body_due: float | None = None
        """Monotonic time by which the body of a request must be complete, of which aiohttp was given a part."""

    # --- the transport ---

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        prepare(transport.get_extra_info("socket"))
        self._server.add(self, transport)

    def data_received(self, data: bytes) -> None:
        if self._is_answering or self._held or self._ends or self._is_paused or self._is_parsing:
            self._receive(data)
        else:
            self._take(data, monotonic())

    def eof_received(self) -> bool:
        """Close soon, since the client has hung up. Return that the transport is not to close by itself at once."""
        self._ends = True
        self._server.close_soon(self)
        return True

    def pause_writing(self) -> None:
        self._is_paused = True
        if self.transport is not None:
            self._server.keeper.add_unread(self, self.transport.get_write_buffer_size())
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._is_paused = False
        self.answered_at = monotonic()
        self._server.keeper.remove_unread(self)
        if self._handler is not None:
            self._handler.resume_writing()
        self._go_on()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Handle the loss in steps of long work, since thousands of clients may disconnect at once."""
        self.transport = None  # uvloop raises an error for what is written from now on
        long_work.start_soon(map(self.lose, (exc,)))

    def lose(self, exc: BaseException | None) -> None:
        """Release all resources of the connection, which was lost in this iteration of the event loop or before."""
        self._ends = True
        self._held.clear()
        self._server.remove(self)
        handler, self._handler = self._handler, None
        self._content = None
        if handler is not None:
            handler.connection_lost(exc)

    # --- data ---

    def _receive(self, data: bytes) -> None:
        """Take data that arrive when no further request can be taken: aiohttp may still read the body of the last."""
        if self._held or self._is_parsing:
            self._hold(data)
        elif self._is_aiohttps():
            self._take(data, monotonic())
        elif not self._ends:
            self._hold(data)

    def _is_aiohttps(self) -> bool:
        """Whether the next byte is for aiohttp."""
        return self._owed > 0 or self._chunks is not None or self._passes

    def _take(self, data: bytes, arrival: float) -> None:
        """Answer each request in `data` or give it to aiohttp, until one is under way or incomplete."""
        num_taken = 0
        while data:
            if self._owed:
                size = min(self._owed, len(data))
                self._owed -= size
                data = self._feed(data, size)
                continue
            if self._passes or self._chunks is not None:
                if len(data) > _SMALL_BYTES and not self._is_parsing:
                    self._parse_in_pieces(data)
                    return
                data = self._feed(data, self._find_end(data))
                continue
            if self._ends:
                return
            if self._is_answering or self._is_paused:
                self._put_back(data)
                return
            if num_taken == _MAX_AT_ONCE:  # others have their turn, and slicing what is left is not free
                self._put_back(data)
                self._server.loop.call_soon(self._go_on)
                return
            num_taken += 1
            head = None if self._begun else self._find_head(data)
            if head is None:
                data = self._feed(data, self._begin(data))
                continue
            size = self._answer(head, data, arrival)
            if size >= 0:
                data = data[size:] if len(data) > size else b""
            else:
                self._expect(head)
                data = self._feed(data, len(head.text))

    def _find_head(self, data: bytes) -> Head | None:
        """Return the head of the next request; None if it is incomplete, or aiohttp alone can tell where it ends."""
        head = self._head
        if head is None or not data.startswith(head.text):
            end = data.find(END_OF_HEAD)
            head = self._head = None if end < 0 else self._heads.find(data[: end + 4])
        return head

    def _answer(self, head: Head, data: bytes, arrival: float) -> int:
        """Answer a request of which at least the head is there, and return its size, as far as it is there.

        Returns `NOT_OURS` if it is for aiohttp.
        """
        return NOT_OURS

    def _begin(self, data: bytes) -> int:
        """Return how many bytes of `data` are left of a head that is incomplete or not understood."""
        before = len(self._begun)
        begun = self._begun + data
        end = begun.find(END_OF_HEAD, max(0, before - 3))
        if end < 0 and len(begun) <= _MAX_BEGUN_BYTES:
            self._begun = begun
            return len(data)
        self._begun = b""
        head = None if end < 0 else self._heads.find(begun[: end + 4])
        if head is None:
            self._passes = True
            return len(data)
        self._expect(head)
        return end + 4 - before

    def _expect(self, head: Head) -> None:
        """Have aiohttp answer the request with this head."""
        self._is_answering = True
        if head.is_chunked:
            self._chunks = ChunkReader()
        else:
            self._owed = head.length

    def _find_end(self, data: bytes) -> int:
        """Return how many bytes of `data` are left of what aiohttp alone reads."""
        if self._chunks is None:
            return len(data)
        try:
            end = self._chunks.find_end(data)
        except UnknownChunkError as error:
            self._chunks = None
            self._passes = True
            if error.is_malformed:
                self._break_off_body()
            return len(data)
        if end < 0:
            return len(data)
        self._chunks = None
        return end

    def _feed(self, data: bytes, size: int) -> bytes:
        """Give aiohttp the first `size` bytes. Return the others."""
        handler = self._handler
        if handler is None:
            if self.transport is None:
                return b""
            handler = self._handler = self._server.make_handler(self)
            if self._is_paused:
                handler.pause_writing()
        if size >= len(data):
            handler.data_received(data)
            return b""
        handler.data_received(data[:size])
        return data[size:]

    # --- held data ---

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        self._adjust_reading()

    def _put_back(self, data: bytes) -> None:
        """Hold data that are earlier than those which are held."""
        if data:
            self._held.appendleft(data)
            self._held_bytes += len(data)
            self._adjust_reading()

    def _go_on(self) -> None:
        """Handle held data, until a request is under way."""
        waits = self._is_answering or self._is_paused
        if self._held and not self._is_parsing and self.transport is not None and (self._is_aiohttps() or not waits):
            data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            self._take(data, monotonic())
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        """Read from the socket if there is room for data."""
        holds_back = self._is_full or self._is_parsing or self._held_bytes > _MAX_HELD_BYTES
        if holds_back is not self._holds_back and self.transport is not None:
            self._holds_back = holds_back
            if holds_back:
                self.transport.pause_reading()
            elif not self.transport.is_closing():
                self.transport.resume_reading()

    def _parse_in_pieces(self, data: bytes) -> None:
        self._is_parsing = True
        self._put_back(data)
        long_work.start_soon(self._parse_pieces())

    def _parse_pieces(self) -> Iterator[None]:
        while self._held and self._is_aiohttps():
            data = self._held.popleft()
            self._held_bytes -= len(data)
            for begin in range(0, len(data), PIECE_BYTES):
                piece = data[begin : begin + PIECE_BYTES]
                end = self._find_end(piece)
                self._feed(piece, end)
                if not self._is_aiohttps():
                    self._put_back(data[begin + end :])
                    break
                yield
        self._is_parsing = False
        self._go_on()

    # --- what aiohttp's side tells ---

    def passes(self) -> bool:
        """Whether the connection closes with the next answer, because the end of a request cannot be told."""
        return self._passes

    def begin_answer(self, content: StreamReader) -> None:
        """Note that aiohttp has begun to answer a request with this body."""
        self._is_answering = True
        self._content = content
        if self._is_malformed:
            self._break_off_body()

    def end_answer(self, keep_alive: bool) -> None:
        """Note that aiohttp has written its answer."""
        self._is_answering = False
        self._content = None
        self.answered_at = monotonic()
        if not keep_alive:
            self._ends = True
        elif self._ends and not self._is_aiohttps():
            self.shut()
        elif self._held:
            self._server.loop.call_soon(self._go_on)

    def _break_off_body(self) -> None:
        """Fail the body that is being read, since it is malformed. aiohttp's parser does not do this."""
        self._is_malformed = True
        content = self._content
        if content is not None and not content.is_eof() and content.exception() is None:
            content.set_exception(web.RequestPayloadError("it is malformed"))

    def is_full(self) -> bool:
        """Whether aiohttp takes no more data at present."""
        return self._is_full

    def set_full(self, is_full: bool) -> None:
        """Read nothing for a while, or go on."""
        self._is_full = is_full
        self._adjust_reading()

    # --- the end ---

    def _is_busy(self) -> bool:
        """Whether a part of a request is here whose head has come, or something of an answer."""
        return bool(self._is_answering or self._is_paused or self._owed or self._held or self._chunks is not None)

    def seconds_idle(self) -> float | None:
        """Return the seconds since the last request was answered; None during a request."""
        return None if self._is_busy() else monotonic() - self.answered_at

    def is_between_requests(self) -> bool:
        """Whether nothing of a request or of an answer is here, so that another process may go on with it."""
        transport = self.transport
        if transport is None or transport.is_closing() or self._is_busy():
            return False
        return not (self._begun or self._passes or self._ends or transport.get_write_buffer_size())

    def close_idle(self) -> bool:
        """Half-close an idle connection, and close it later. Return False if data has just arrived on it."""
        transport = self.transport
        if transport is None or transport.is_closing() or self._ends:
            return True
        if has_unread_bytes(transport.get_extra_info("socket")):
            return False
        self._ends = True  # what arrives is read and discarded, so that closing it causes no reset
        if transport.can_write_eof():
            transport.write_eof()
        self._server.loop.call_later(_HALF_CLOSED_SECONDS, self.shut)
        return True

    def shut(self) -> None:
        """Close the transport when everything is written, and take no more requests."""
        self._ends = True
        if self.transport is not None:
            self.transport.close()

    def close(self) -> None:
        """Take no more requests, and close when the one that has begun to arrive is answered."""
        self._ends = True
        if not self._is_busy():
            self.shut()

    async def shutdown(self, seconds: float | None) -> None:
        """Wait for the answer to the request under way, but at most so long, and close."""
        self.close()
        handler = self._handler
        if handler is not None:
            if not self._is_answering:
                handler.close()
            await handler.shutdown(seconds)
        self.shut()
