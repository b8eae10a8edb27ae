"""HTTP at the border, without a frontend behind it: what is refused before anybody looks at a body."""

import asyncio
import json
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import compression_utils, web

from clipper_common import webapp
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
    runner = webapp.Runner(app, access_log=None)
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
    body = webapp.json_response(value).body
    assert isinstance(body, bytes)
    assert body.decode() == '{"a\\n\\u007f\\u202eb":"Ä \\"\\\\\\u2066"}'
    assert json.loads(body) == value
