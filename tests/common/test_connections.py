"""A server's connections are limited in number, and those whose clients do not read are cut off."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web

from clipper_common import connections, http_connection, http_server, long_work, webapp
from clipper_common.connections import ConnectionKeeper, Kept, Limits, default_limit
from clipper_common.constants import MAX_CONNECTIONS
from clipper_common.sockets import most_descriptors

LARGE = 1 << 25
MANY = 100
GIVE_UP_SECONDS = 10.0


def ask(path: str) -> bytes:
    return b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()


class Server:
    """One with a route that answers at once, one that answers with much, and one that waits."""

    def __init__(self, limits: Limits, **options: Any) -> None:
        self.goes_on = asyncio.Event()
        self.waiting = 0
        app = webapp.create_app()
        app[webapp.LIMITS] = limits
        app.router.add_get("/small", self._small)
        app.router.add_get("/large", self._large)
        app.router.add_get("/waits", self._wait)
        app.router.add_post("/echo", self._echo)
        app.router.add_post("/patient", self._echo_patiently)
        self.runner = webapp.Runner(app, **options)

    @staticmethod
    async def _small(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    @staticmethod
    async def _large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(LARGE))

    async def _wait(self, _: web.Request) -> web.Response:
        await self.goes_on.wait()
        return web.Response(text="ok")

    @staticmethod
    async def _echo(request: web.Request) -> web.Response:
        return web.Response(body=await webapp.read_body(request, 0.1))

    async def _echo_patiently(self, request: web.Request) -> web.Response:
        self.waiting += 1
        return web.Response(body=await webapp.read_body(request))

    @property
    def open(self) -> int:
        assert self.runner.server is not None
        return len(self.runner.server.open_connections)


@asynccontextmanager
async def serving(limits: Limits, **options: Any) -> AsyncIterator[Server]:
    server = Server(limits, **options)
    await server.runner.setup()
    await web.TCPSite(server.runner, "127.0.0.1", 0).start()
    try:
        yield server
    finally:
        server.goes_on.set()
        await server.runner.cleanup()


@asynccontextmanager
async def connected(server: Server, request: bytes = b"") -> AsyncIterator[socket.socket]:
    client = socket.socket()
    with client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, server.runner.addresses[0][:2])
        client.sendall(request)
        yield client


async def receive(client: socket.socket, size: int = 1 << 16) -> bytes:
    async with asyncio.timeout(GIVE_UP_SECONDS):
        return await asyncio.get_running_loop().sock_recv(client, size)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked after often, and go soon."""
    monkeypatch.setattr(connections, "_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(http_connection, "_HALF_CLOSED_SECONDS", 0.05)


def test_the_usual_limit_leaves_descriptors() -> None:
    assert 0 < default_limit() <= MAX_CONNECTIONS
    assert default_limit() < most_descriptors()


async def test_one_too_many_is_told_to_come_back() -> None:
    async with serving(Limits(2)) as server, connected(server, ask("waits")), connected(server, ask("small")) as second:
        assert (await receive(second)).startswith(b"HTTP/1.1 200")
        async with connected(server, ask("small")) as third:
            answer = await receive(third)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"\r\nRetry-After: 1\r\n" in answer and b"\r\nConnection: close\r\n" in answer
            assert answer.endswith(b'come back later"}')
            assert await receive(third) == b""
        second.close()
        await until(lambda: server.open == 1)
        async with connected(server, ask("small")) as fourth:
            assert (await receive(fourth)).startswith(b"HTTP/1.1 200")


async def test_each_connection_is_kept_alive_and_sends_at_once() -> None:
    """Also one that another process accepted, and asyncio knows nothing of but that it is a socket."""
    async with serving(Limits()) as server:
        assert server.runner.server is not None
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(server.runner.server, accepted)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_refusals_are_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_REFUSAL_SECONDS", 0.05)
    async with serving(Limits(1)) as server, connected(server, ask("waits")):
        await until(lambda: server.open == 1)
        async with connected(server) as first, connected(server) as second:
            assert (await receive(first)).startswith(b"HTTP/1.1 503")
            with contextlib.suppress(ConnectionResetError):
                assert await receive(second) == b""
            assert await receive(first) == b""
        async with connected(server) as third:
            assert (await receive(third)).startswith(b"HTTP/1.1 503")


async def test_of_many_the_idle_ones_go_and_the_longest_first(often: None) -> None:
    async with contextlib.AsyncExitStack() as stack, serving(Limits(16)) as server:
        busy = await stack.enter_async_context(connected(server, ask("waits")))
        idle = []
        for _ in range(14):
            idle.append(await stack.enter_async_context(connected(server)))
            await asyncio.sleep(0.002)  # the clock of the event loop counts milliseconds
        idle[0].sendall(ask("small"))
        assert (await receive(idle[0])).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.1)
        assert server.open == 15, "there is room for another"
        await stack.enter_async_context(connected(server))
        assert await receive(idle[1]) == b""
        assert await receive(idle[2]) == b""
        await until(lambda: server.open == 14)
        for client in (idle[0], *idle[3:]):
            client.sendall(ask("small"))
            assert (await receive(client)).startswith(b"HTTP/1.1 200")
        server.goes_on.set()
        assert (await receive(busy)).startswith(b"HTTP/1.1 200")


async def test_who_does_not_read_is_cut_off_and_who_reads_slowly_is_not(often: None) -> None:
    unread: list[int] = []
    limits = Limits(unread_seconds=lambda: 0.5, unread_changed=unread.append)
    async with serving(limits) as server, connected(server, ask("large")), connected(server, ask("large")) as slow:
        await until(lambda: len(unread) == 2)
        assert LARGE < sum(unread) < 2 * LARGE
        for _ in range(30):
            await receive(slow, 1 << 12)
            await asyncio.sleep(0.05)
        assert server.open == 1
        assert unread[2] == -unread[0]
        await until(lambda: server.open == 0)
        assert sum(unread) == 0


async def test_who_reads_late_gets_everything(often: None) -> None:
    unread: list[int] = []
    limits = Limits(unread_changed=unread.append)
    async with serving(limits) as server, connected(server, ask("large")) as client:
        await until(lambda: bool(unread))
        got = 0
        while got < LARGE:
            got += len(await receive(client, 1 << 20))
        await until(lambda: sum(unread) == 0)
        assert server.open == 1


async def test_a_connection_that_closes_is_cut_off_too(often: None) -> None:
    """It would not close before its client had read everything."""
    request = ask("large").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with serving(Limits(unread_seconds=lambda: 0.2)) as server, connected(server, request):
        await until(lambda: server.open == 1)
        await until(lambda: server.open == 0)


@pytest.mark.parametrize("before", [b"", ask("small")])
async def test_a_head_that_comes_byte_by_byte_does_not_keep_a_connection(before: bytes) -> None:
    async with serving(Limits(), keepalive_timeout=0.3) as server, connected(server, before) as client:
        if before:
            assert (await receive(client)).startswith(b"HTTP/1.1 200")
        await until(lambda: server.open == 1)
        started = asyncio.get_running_loop().time()
        for byte in b"GET /small HTTP/1.1\r\n" + b"x" * 1000:
            with contextlib.suppress(OSError):
                client.sendall(bytes([byte]))
            await asyncio.sleep(0.02)
            if not server.open:
                break
        assert 0.2 < asyncio.get_running_loop().time() - started < 5


async def test_a_body_that_does_not_come_is_a_timeout() -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"
    async with serving(Limits()) as server, connected(server, request) as client:
        answer = await receive(client)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.1 seconds" in answer
        client.sendall(b"cde")  # else the server waits for it a while longer


async def test_a_chunked_body_that_breaks_off_is_an_error_at_once() -> None:
    head = b"POST /patient HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    async with serving(Limits()) as server, connected(server, head) as client:
        await until(lambda: server.waiting == 1)
        client.sendall(b"zz\r\n")
        answer = await receive(client)
        assert answer.startswith(b"HTTP/1.1 400"), answer
        assert b"The body cannot be read: it is malformed" in answer
        assert await receive(client) == b""


async def test_others_have_their_turn_while_many_connections_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "TURN_SECONDS", 0.0)
    async with contextlib.AsyncExitStack() as stack, serving(Limits()) as server:
        for _ in range(MANY):
            await stack.enter_async_context(connected(server))
        await until(lambda: server.open == MANY)
        assert server.runner.server is not None
        for connection in server.runner.server.open_connections:
            assert connection.transport is not None
            connection.transport.abort()
        seen = [server.open]
        while server.open:
            await asyncio.sleep(0)
            seen.append(server.open)
        assert max(before - after for before, after in zip(seen, seen[1:], strict=False)) == 1


async def test_others_have_their_turn_while_many_clients_hang_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_CLOSED_AT_ONCE", 10)
    async with serving(Limits()) as server:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MANY):
                await stack.enter_async_context(connected(server))
            await until(lambda: server.open == MANY)
            assert server.runner.server is not None
            transports = list(server.runner.server.open_connections.values())
        closing = [0]
        while server.open:
            await asyncio.sleep(0)
            closing.append(sum(transport.is_closing() for transport in transports))
        assert closing[-1] == MANY
        assert max(after - before for before, after in zip(closing, closing[1:], strict=False)) <= 10


async def test_others_have_their_turn_while_many_connections_are_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "TURN_SECONDS", 0.0)
    looks = 0

    class _Busy:
        def seconds_idle(self) -> float | None:
            return None

    class Transport:
        def get_write_buffer_size(self) -> int:
            nonlocal looks
            looks += 1
            return 0

    transport = cast(asyncio.Transport, Transport())
    keeper = ConnectionKeeper(Limits(), {cast(Kept, _Busy()): transport for _ in range(MANY)}, 75.0)
    steps = asyncio.create_task(long_work.finish(keeper._close_stuck_and_idle()))
    seen = [0]
    while not steps.done():
        await asyncio.sleep(0)
        seen.append(looks)
    assert looks == MANY
    assert max(after - before for before, after in zip(seen, seen[1:], strict=False)) == connections._AT_ONCE
