"""Tests of the HTTP server without a frontend: requests that are refused before their body is read."""

import asyncio
import json
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import compression_utils, web
from aiohttp.web_protocol import RequestHandler

from clipper_common import http_connection, http_server, long_work, webapp
from clipper_common.constants import MAX_BODY_BYTES

HEAD = "POST /echo HTTP/1.1\r\nHost: localhost\r\n"
BOMB = zlib.compress(bytes(10_000_000))


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an application that answers with what it reads."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def forbid(request: web.Request) -> web.Response:
        raise web.HTTPForbidden(text="No.")

    app = webapp.create_app()
    app.router.add_post("/echo", echo)
    app.router.add_post("/forbidden", forbid)
    runner = webapp.Runner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    try:
        yield reader, writer
    finally:
        writer.close()
        await runner.cleanup()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers, await reader.readexactly(int(headers["Content-Length"]))


@pytest.mark.parametrize("framing", [f"Content-Length: {len(BOMB)}", "Transfer-Encoding: chunked"])
async def test_nothing_is_inflated(framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp's parser would do it, before a handler and after the answer."""
    inflated: list[bytes] = []
    inflate = compression_utils.ZLibDecompressor.decompress_sync

    def note(self: compression_utils.ZLibDecompressor, data: bytes, max_length: int = 0) -> bytes:
        inflated.append(data)
        return inflate(self, data, max_length)

    monkeypatch.setattr(compression_utils.ZLibDecompressor, "decompress_sync", note)
    body = BOMB
    if framing.startswith("Transfer"):
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BOMB), BOMB)
    async with serving() as (reader, writer):
        writer.write(f"{HEAD}Content-Encoding: deflate\r\n{framing}\r\n\r\n".encode() + body)
        status, headers, answered = await answer(reader)
    assert status == 415
    assert headers["Accept-Encoding"] == "identity"
    assert json.loads(answered) == {
        "error": "Unsupported Media Type",
        "cause": "The body has the Content-Encoding 'deflate', and is not inflated here. Send the JSON as it is.",
    }
    assert not inflated


async def test_each_of_several_headers_counts() -> None:
    async with serving() as (reader, writer):
        writer.write(
            f"{HEAD}Content-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx".encode()
        )
        assert (await answer(reader))[0] == 415


async def test_a_chunked_body_that_is_too_large_ends_its_connection() -> None:
    async with serving() as (reader, writer):
        writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = bytes(1 << 20)
        for _ in range(MAX_BODY_BYTES // len(chunk) + 1):
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        status, headers, _ = await answer(reader)
        assert (status, headers["Connection"]) == (413, "close")
        writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(10):
            assert await reader.read() == b""


async def test_a_body_that_nobody_may_send_is_not_waited_for() -> None:
    async with serving() as (reader, writer):
        writer.write(b"POST /forbidden HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        status, headers, body = await answer(reader)
        assert (status, headers["Connection"], json.loads(body)["cause"]) == (403, "close", "No.")
        writer.write(b"123456789")
        async with asyncio.timeout(10):
            assert await reader.read() == b""


async def test_what_the_parser_refuses_is_json_though_it_is_no_text() -> None:
    async with serving() as (reader, writer):
        writer.write(b"POST /\xff\xfe\x01 HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, body = await answer(reader)
        assert (status, headers["Content-Type"]) == (400, "application/json")
        assert json.loads(body)["error"] == "Bad Request"
        async with asyncio.timeout(10):
            assert await reader.read() == b""


def test_a_message_stays_in_its_line() -> None:
    """Names come from clients, containers and Redis."""
    program = (
        "import logging; from clipper_common import webapp; webapp.configure_logging(); "
        "logging.getLogger('x').info('%s connected', 'a\\n26-01-01 ERROR \\u202eb')"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=20, check=True)
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.endswith("] a\\n26-01-01 ERROR \\u202eb connected\n")


def test_json_shows_what_cannot_be_seen() -> None:
    value = {"a\n\x7f\u202eb": 'Ä "\\\u2066'}
    body = http_server.json_response(value).body
    assert isinstance(body, bytes)
    assert body.decode() == '{"a\\n\\u007f\\u202eb":"Ä \\"\\\\\\u2066"}'
    assert json.loads(body) == value


class Body:
    """A request whose body comes in pieces, as far as `read_in_parts` looks at it."""

    def __init__(self, pieces: list[bytes], limit: int = 1 << 30) -> None:
        self._pieces = iter(pieces)
        self.client_max_size = limit
        self.content = self

    async def readany(self) -> bytes:
        return next(self._pieces, b"")


async def test_large_pieces_of_a_body_are_not_copied() -> None:
    pieces = [bytes([number]) * webapp.PART_BYTES for number in range(10)]
    request: Any = Body(pieces)
    assert list(map(id, await webapp.read_in_parts(request))) == list(map(id, pieces))


@pytest.mark.parametrize("size", [1, 1000, 50_000])
async def test_small_pieces_of_a_body_are_put_together(size: int) -> None:
    pieces = [bytes([number % 256]) * size for number in range(400_000 // size)] + [b"x" * 300_000, b"y"]
    request: Any = Body(pieces)
    parts = await webapp.read_in_parts(request)
    assert b"".join(parts) == b"".join(pieces)
    assert min(map(len, parts[:-1])) >= webapp.PART_BYTES


async def test_a_body_that_turns_out_to_be_too_large_is_not_read_on() -> None:
    pieces = [b"x" * 100] * 10
    request: Any = Body(pieces, limit=250)
    with pytest.raises(web.HTTPRequestEntityTooLarge):
        await webapp.read_in_parts(request)
    assert len(list(request._pieces)) == 7


async def test_a_body_that_breaks_off_is_what_came_of_it() -> None:
    request: Any = Body([b"12", b"3"])
    assert await webapp.read_in_parts(request) == [b"123"]


async def test_chunks_of_many_connections_share_the_time_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10_000
    pieces: Counter[int] = Counter()
    turns = 0
    feed = RequestHandler.data_received

    def count(self: RequestHandler, data: bytes) -> None:
        pieces[turns] += len(data) > 2 * len(HEAD)
        feed(self, data)

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(RequestHandler, "data_received", count)
    monkeypatch.setattr(long_work, "TURN_SECONDS", 0.0)  # one step in each turn
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(serving()) for _ in range(5)]
        counting = asyncio.create_task(count_turns())
        for _, writer in clients:
            writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + b"1\r\nx\r\n" * size + b"0\r\n\r\n")
        async with asyncio.timeout(60):
            for reader, _ in clients:
                assert (await answer(reader))[2] == b"x" * size
        counting.cancel()
    assert sum(pieces.values()) >= 5 * 6 * size // http_connection.PIECE_BYTES
    assert max(pieces.values()) <= 2, "turns are counted before or after the step of a turn"


async def test_the_parser_is_not_called_for_each_chunk_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    size, calls = 50_000, 0
    feed = RequestHandler.data_received

    def count(self: RequestHandler, data: bytes) -> None:
        nonlocal calls
        calls += 1
        feed(self, data)

    monkeypatch.setattr(RequestHandler, "data_received", count)
    async with serving() as (reader, writer):
        writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + b"1\r\nx\r\n" * size + b"0\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await answer(reader))[2] == b"x" * size
    assert calls < size / 10


async def test_a_connection_that_waits_its_turn_can_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Iterator[None]] = []
    start = long_work.start_soon

    def note(steps: Iterator[None]) -> None:
        waiting.append(steps)
        start(steps)

    monkeypatch.setattr(long_work, "start_soon", note)
    async with serving() as (_, writer):
        writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + b"1\r\nx\r\n" * 200_000)
        async with asyncio.timeout(10):
            while not waiting:
                await asyncio.sleep(0)
        writer.transport.abort()
        async with asyncio.timeout(10):
            while next(waiting[0], "is over") != "is over":
                await asyncio.sleep(0)
    async with serving() as (reader, writer):
        writer.write(f"{HEAD}Content-Length: 1\r\n\r\nx".encode())
        assert (await answer(reader))[0] == 200
