"""How connections live and end: with the fast path as without it."""

import asyncio
import gc
import re
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import psutil
import pytest
from aiohttp import web
from aiohttp.web import RequestHandler

from clipper_common import changes, http_connection
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType
from clipper_common.http_connection import HttpConnection
from clipper_common.records import Application
from clipper_common.redis_client import RedisClient
from query_frontend.app import create_app
from query_frontend.config import Config
from query_frontend.http.fast_path_connection import FastPathConnection, close_all_idle, make_runner
from query_frontend.serving.query import Query
from tests.conftest import find_free_port
from tests.query_frontend.conftest import wait_for
from tests.query_frontend.http.fast_path_pair import Line, Pair, Server, has_response, post, running_pair

ONE: Final = b'{"input": [1.5]}'
PLAIN: Final = post("doubles", ONE)
LIVE: Final = b"GET /livez HTTP/1.1\r\nHost: s\r\n\r\n"
RESET: Final = struct.pack("ii", 1, 0)
"""A linger time of 0 s: closing the connection resets it."""


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Idle connections live for a second, bodies must come within one, and answers are cached."""
    with running_pair(tmp_path_factory.mktemp("hasty"), timeout_request=1, timeout_content=1) as pair:
        yield pair


def on_both(pair: Pair, scenario: Callable[[Server, Line], object]) -> list[object]:
    """What `scenario` says of each, on a connection that was used before."""

    def run(server: Server) -> object:
        line = Line(server.frontend.port)
        try:
            line.warm_up()
            return scenario(server, line)
        finally:
            line.close()

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (pair.fast_path, pair.general)))


def without_date(data: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*|\"query_id\":\d+", b"", data)


def never(_: bytes) -> bool:
    return False


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("requests", [b"", PLAIN, PLAIN + LIVE, PLAIN * 3])
def test_an_idle_connection_is_closed_after_its_time(hasty: Pair, requests: bytes) -> None:
    def scenario(_: Server, line: Line) -> str:
        line.send(requests)
        start = time.monotonic()
        line.read_until(never, 4.0)
        assert 0.9 < time.monotonic() - start < 2.5
        return line.end

    assert on_both(hasty, scenario) == ["closed", "closed"]


@pytest.mark.integration
def test_a_connection_with_a_query_under_way_is_not_idle(hasty: Pair) -> None:
    def scenario(server: Server, line: Line) -> tuple[bytes, str]:
        server.echo.holds.set()
        line.send(post("doubles", b'{"input": [77]}') + PLAIN)
        assert not line.read_until(has_response, 2.5)
        assert line.end == "silent"
        server.echo.holds.clear()
        answered = time.monotonic()
        line.read_until(never, 4.0)
        assert 0.9 < time.monotonic() - answered < 2.5
        assert line.received.count(b"200 OK") == 2
        return without_date(line.received), line.end

    fast_path, general = on_both(hasty, scenario)
    assert fast_path == general


@pytest.mark.integration
@pytest.mark.parametrize("app", ["doubles", "bare", "unknown"])
@pytest.mark.parametrize("part", [0, 7])
def test_a_body_that_does_not_come_is_a_timeout(hasty: Pair, app: str, part: int) -> None:
    def scenario(_: Server, line: Line) -> tuple[bytes, bytes, str]:
        start = time.monotonic()
        line.send(post(app, ONE[:part], length=16))
        line.read_until(has_response, 4.0)
        first = line.received
        if app != "unknown":
            assert 0.9 < time.monotonic() - start < 2.5
            assert b"408 Request Timeout" in first
        line.send(ONE[part:] + PLAIN)  # now it comes, and something behind it
        line.read_until(lambda data: has_response(data, len(first)), 2.0)
        return without_date(first), without_date(line.received), line.end

    fast_path, general = on_both(hasty, scenario)
    assert fast_path == general


@pytest.mark.integration
def test_a_body_that_comes_slowly_is_waited_for(hasty: Pair) -> None:
    def scenario(_: Server, line: Line) -> bytes:
        for _ in range(3):
            known = len(line.received)
            line.send(PLAIN[:-8])
            time.sleep(0.3)
            line.send(PLAIN[-8:-2])
            time.sleep(0.3)
            line.send(PLAIN[-2:])
            assert line.read_until(partial(has_response, start=known), 2.0)
        return without_date(line.received)

    fast_path, general = on_both(hasty, scenario)
    assert fast_path == general
    assert isinstance(fast_path, bytes)
    assert fast_path.count(b"200 OK") == 3


# --- clients that leave --------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_the_query_of_a_client_that_left_is_not_answered(hasty: Pair, how: str, request: pytest.FixtureRequest) -> None:
    value = {"close": 101, "half": 102, "reset": 103}[how]

    def scenario(server: Server, line: Line) -> tuple[str, str]:
        before = answered(server)
        server.echo.holds.set()
        line.send(post("ints", b'{"input": [%d]}' % value) + LIVE)
        wait_for(lambda: value.to_bytes(4, "little") in server.echo.inputs, "the query is with the model")
        if how == "half":
            line.sock.shutdown(1)
            line.read_until(never, 3.0)
            assert (line.end, line.received) == ("closed", b"")
        if how == "reset":
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        line.close()
        other = Line(server.frontend.port)
        other.send(LIVE)
        other.read_until(has_response, 2.0)
        other.close()
        server.echo.holds.clear()
        time.sleep(0.1)
        return before, answered(server)

    for before, after in on_both(hasty, scenario):  # type: ignore[misc]
        assert before == after


@pytest.mark.integration
def test_clients_that_reset_their_connections_all_at_once_are_not_logged(hasty: Pair) -> None:
    """The event loop works them off in several turns, in which there are requests of theirs to be answered."""

    def scenario(server: Server, _: Line) -> str:
        for _ in range(3):
            lines = [Line(server.frontend.port) for _ in range(100)]
            for line in lines:
                line.send(post("bare", ONE) * 40)
                line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            for line in lines:
                line.close()
        other = Line(server.frontend.port)
        other.send(LIVE)
        assert other.read_until(has_response, 5.0)
        other.close()
        return server.frontend.log.read_text()

    for log in on_both(hasty, scenario):
        assert "Traceback" not in cast(str, log), log


def answered(server: Server) -> str:
    latency = server.frontend.metric("histograms", "app:ints:prediction_latency")
    assert latency is not None
    return latency["size"]


# --- clients that do not read --------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("at_once", [True, False])
def test_memory_is_bounded_when_a_client_does_not_read(hasty: Pair, at_once: bool) -> None:
    """Neither its requests nor its answers pile up, the connection is not idle, and all is answered once it reads."""
    request = post("big", b'{"input": [1.25]}')

    def scenario(server: Server, _: Line) -> int:
        line = Line(server.frontend.port, receive_bytes=4096)
        try:
            before = resident_bytes(server)
            sent = flood(line, request, at_once)
            grown = resident_bytes(server) - before
            answered = count_answers(line, sent // len(request))
        finally:
            line.close()
        assert answered == sent // len(request)
        return grown

    for grown in on_both(hasty, scenario):
        assert isinstance(grown, int)
        assert grown < 8 << 20


def flood(line: Line, request: bytes, at_once: bool) -> int:
    """Send at most 2000 requests without reading, until nothing goes for longer than idle connections live."""
    stream = request * 2000
    sent = 0
    line.sock.settimeout(1.5)
    try:
        while sent < len(stream):
            sent += line.sock.send(stream[sent : sent + (len(stream) if at_once else len(request))])
            if not at_once:
                time.sleep(0.0005)
    except TimeoutError:
        pass
    time.sleep(1.5)
    return sent


def count_answers(line: Line, most: int) -> int:
    count = 0
    line.sock.settimeout(3.0)
    rest = b""
    while count < most:
        data = line.sock.recv(1 << 20)
        if not data:
            break
        parts = (rest + data).split(b"default_explanation")
        count += len(parts) - 1
        rest = parts[-1][-100:]
    return count


def resident_bytes(server: Server) -> int:
    (worker,) = psutil.Process(server.frontend.process.pid).children()
    resident: int = worker.memory_info().rss
    return resident


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_shutdown_answers_what_is_under_way(tmp_path: Path) -> None:
    with running_pair(tmp_path) as pair:

        def scenario(server: Server, line: Line) -> tuple[object, ...]:
            lines = [line, *(Line(server.frontend.port) for _ in range(3))]
            for other in lines[1:]:
                other.warm_up()
            querying, pipelining, sending, idle = lines
            server.echo.holds.set()
            querying.send(PLAIN)
            pipelining.send(post("ints", b'{"input": [1]}') + PLAIN)
            sending.send(PLAIN[:-5])
            wait_for(lambda: len(server.echo.inputs) == 2, "both queries are with their models")
            server.frontend.process.send_signal(signal.SIGTERM)
            assert not idle.read_until(never, 1.0)
            server.echo.holds.clear()
            sending.send(PLAIN[-5:])
            seen = []
            for each in lines:
                each.read_until(never, 8.0)
                seen.append((without_date(each.received), each.end))
                each.close()
            return *seen, server.frontend.process.wait(10)

        fast_path, general = on_both(pair, scenario)
    assert fast_path == general
    assert isinstance(fast_path, tuple)
    assert b'"output":"000000000000f83f"' in fast_path[0][0]
    assert [end for _, end in fast_path[:4]] == ["closed"] * 4
    assert fast_path[4] == 0


# --- inside --------------------------------------------------------------------------------------


def run_inside(redis_port: int, loop_factory: Callable[[], asyncio.AbstractEventLoop], work: "Work") -> None:
    """A frontend in this process; `work` gets its port and what came to aiohttp's handlers."""

    async def main() -> None:
        redis_client = RedisClient("127.0.0.1", redis_port)
        store = ConfigStore(redis_client)
        writes = changes.put_application(Application("bare", InputType.DOUBLES, "[1, 2]", 1000))
        await store.commit(await store.read(), writes)
        await redis_client.close()
        port = find_free_port()
        config = Config("127.0.0.1", redis_port, find_free_port(), host="127.0.0.1", port=port)
        app = await create_app(config)
        general: list[str] = []

        @web.middleware
        async def note(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> object:
            general.append(request.path)
            return await handler(request)

        app.middlewares.append(note)  # type: ignore[arg-type]
        runner = make_runner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            await work(port, general)
        finally:
            await runner.cleanup()

    thresholds = gc.get_threshold()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


Work = Callable[[int, list[str]], Awaitable[None]]


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    found = [asyncio.new_event_loop]
    try:
        import uvloop
    except ImportError:
        return found
    return [*found, uvloop.new_event_loop]


def alive(kind: type) -> int:
    return sum(isinstance(each, kind) for each in gc.get_objects())


@pytest.mark.integration
@pytest.mark.parametrize("loop_factory", loops(), ids=lambda factory: factory.__module__)
def test_plain_requests_take_the_lane_and_leave_nothing_behind(
    redis_port: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """No cycles either: the garbage collector runs rarely in a frontend, here it is off."""

    async def work(port: int, general: list[str]) -> None:
        async def ask(times: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LIVE)
            await reader.readuntil(b"ok")
            for _ in range(times):
                writer.write(post("bare", ONE))
                await reader.readuntil(b'"default_explanation":"No connected models found for query"}')
            writer.write(PLAIN[:-3].replace(b"doubles", b"bare"))  # and leaves with a body half sent
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        await ask(10)
        general.clear()
        gc.disable()
        try:
            await ask(3000)
            assert general == ["/livez"]
            for _ in range(100):
                await ask(1)
            for _ in range(200):  # until the connections are lost
                if not alive(FastPathConnection):
                    break
                await asyncio.sleep(0.01)
            assert (alive(FastPathConnection), alive(Query)) == (0, 0)
        finally:
            gc.enable()

    run_inside(redis_port, loop_factory, work)


BODY: Final = b"POST /bare/predict HTTP/1.1\r\nHost: s\r\n%b\r\n\r\n"
GENERAL: Final = {
    "another route": [LIVE],
    "chunks": [BODY % b"Transfer-Encoding: chunked" + b"6\r\n" + ONE[:6] + b"\r\na\r\n" + ONE[6:] + b"\r\n0\r\n\r\n"],
    "chunks in packets": [BODY % b"Transfer-Encoding: chunked" + b"1", b"0\r\n" + ONE + b"\r", b"\n0\r\n\r", b"\n"],
    "a head in packets": [PLAIN[:30].replace(b"doubles", b"bare"), PLAIN[30:]],
    "an expectation": [post("bare", ONE, "Expect: 100-continue")],
    "a body that is refused": [post("bare", b"{")],
    "an unknown application": [post("unknown", ONE)],
    "a route that does not exist": [b"PUT /bare/predict HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\n{}"],
}


@pytest.mark.integration
@pytest.mark.parametrize("loop_factory", loops(), ids=lambda factory: factory.__module__)
def test_after_a_request_of_any_other_kind_the_next_plain_one_takes_the_lane(
    redis_port: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def work(port: int, general: list[str]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for packets in GENERAL.values():
            for packet in packets:
                writer.write(packet)
                await asyncio.sleep(0.002)  # so that they are packets
            writer.write(post("bare", ONE))
            writer.write(post("bare", ONE))
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 100 Continue" in head:
                    head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
                for _ in range(2):
                    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                    assert b"No connected models" in await reader.readuntil(b"}")
            assert len(general) == 1, packets
            general.clear()
        writer.close()
        await writer.wait_closed()

    run_inside(redis_port, loop_factory, work)


@pytest.mark.integration
def test_where_nobody_knows_the_end_of_a_request_the_connection_closes_with_its_answer(hasty: Pair) -> None:
    def scenario(_: Server, line: Line) -> tuple[bytes, str]:
        line.send(post("doubles", ONE, "Connection: Upgrade", "Upgrade: websocket"))
        line.read_until(never, 4.0)
        assert b"\r\nConnection: close\r\n" in line.received
        return without_date(line.received), line.end

    fast_path, general = on_both(hasty, scenario)
    assert fast_path == general
    assert isinstance(fast_path, tuple) and fast_path[1] == "closed"


def test_idle_connections_are_closed_in_steps() -> None:
    """A server that ends may have thousands of them."""
    busy = cast(HttpConnection, SimpleNamespace(seconds_idle=lambda: None))
    assert len(list(close_all_idle([busy] * 100))) == 100


async def test_an_application_without_the_fast_path_has_connections_without_it() -> None:
    runner = make_runner(web.Application())
    await runner.setup()
    try:
        assert runner.server is not None
        assert type(runner.server()) is HttpConnection
    finally:
        await runner.cleanup()


@pytest.mark.integration
@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_a_body_of_known_length_is_parsed_in_the_pieces_in_which_it_comes(
    redis_port: int, expects: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends chunks may make the parser work hard, and gets it in small pieces."""
    parsed: list[int] = []
    feed = RequestHandler.data_received

    def count(self: RequestHandler, data: bytes) -> None:
        parsed.append(len(data))
        feed(self, data)

    async def work(port: int, _: list[str]) -> None:
        size = 1 << 20
        body = b'{"input":[%b1.5]}' % (b"1.5," * (size // 4))
        for framing in (b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /bare/predict HTTP/1.1\r\nHost: s\r\n%b%b\r\n\r\n" % (expects, framing))
            writer.write(body if b"Length" in framing else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            await reader.readuntil(b'"default_explanation":"No connected models found for query"}')
            writer.close()
            await writer.wait_closed()
            pieces = [many for many in parsed if many]
            parsed.clear()
            if b"Length" in framing:
                assert len(pieces) < size // (4 * http_connection.PIECE_BYTES)
            else:
                assert max(pieces) <= http_connection.PIECE_BYTES

    monkeypatch.setattr(RequestHandler, "data_received", count)
    run_inside(redis_port, asyncio.new_event_loop, work)
