"""The dealer beside real ROUTERs of libzmq, the router of the query frontend, and bare sockets that misbehave."""

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import pytest
import zmq
import zmq.asyncio

from clipper_common.rpc_client import RECONNECT_MILLIS, split_tcp_address, tcp_address
from query_frontend.rpc import dealer as dealers
from query_frontend.rpc.dealer import Dealer, DealerEvents
from query_frontend.rpc.peer import PeerEvents
from query_frontend.rpc.router import Router
from tests.conftest import find_free_port

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 10.0


class Client:
    """A dealer, and what it reports."""

    def __init__(self, address: str) -> None:
        self.messages: list[list[bytes]] = []
        self.changes: list[str] = []
        self.dealer = Dealer(address)
        self.dealer.start(
            DealerEvents(
                self.messages.append,
                lambda: self.changes.append("connected"),
                lambda: self.changes.append("lost"),
            )
        )


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.002)


Connect = Callable[[int], Client]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    made: list[Client] = []

    def connect(port: int) -> Client:
        made.append(Client(f"tcp://127.0.0.1:{port}"))
        return made[-1]

    yield connect
    for client in made:
        client.dealer.close()


def listen(port: int = 0) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
    listener.setblocking(False)
    return listener


@pytest.mark.parametrize("size", [0, 255, 256, 1 << 15, 1 << 24])
async def test_messages_travel_both_ways(connect: Connect, size: int) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        client = connect(router.bind_to_random_port("tcp://127.0.0.1"))
        assert not client.dealer.send([b"too early"])
        await until(lambda: client.changes, "it is connected")
        assert client.dealer.send([b"", bytes(size), b"x"])
        async with asyncio.timeout(PATIENCE_SECONDS):
            identity, *frames = await router.recv_multipart()
            assert frames == [b"", bytes(size), b"x"], "what could not be sent is not sent later"
            await router.send_multipart([identity, *frames, b"!"])
        await until(lambda: client.messages, "it has its answer")
        assert client.messages == [[b"", bytes(size), b"x", b"!"]]


async def test_our_own_router_and_dealer_speak_to_each_other(connect: Connect) -> None:
    router = Router(
        PeerEvents(lambda peer, messages: [peer.send([*frames, b"!"]) for frames in messages], Mute(), Mute())
    )
    client = connect(router.start("127.0.0.1", 0))
    await until(lambda: client.changes, "it is connected")
    for number in range(100):
        assert client.dealer.send([b"%d" % number])
    await until(lambda: len(client.messages) == 100, "all are answered")
    assert client.messages == [[b"%d" % number, b"!"] for number in range(100)]
    router.stop()
    await until(lambda: client.changes == ["connected", "lost"], "the loss is reported")
    assert not client.dealer.send([b"too late"])


class Mute:
    def __call__(self, *_: object) -> None:
        pass


async def test_a_connection_is_made_anew_at_once(connect: Connect) -> None:
    port = find_free_port()
    client = connect(port)
    for _ in range(3):
        client.changes.clear()
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.bind(f"tcp://127.0.0.1:{port}")
            await until(lambda: client.changes, "it is connected")
        await until(lambda: len(client.changes) == 2, "the loss is noticed")
        assert client.changes == ["connected", "lost"]


@pytest.mark.parametrize("host", ["127.0.0.1", f"{64 * 'a'}.example.org"])
async def test_waits_between_attempts_grow(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noting(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(min(seconds, 0.001))

    monkeypatch.setattr(dealers.asyncio, "sleep", noting)
    client = Client(tcp_address(host, find_free_port()))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(pauses) < 6 and time.monotonic() < deadline:
        await sleep(0.002)
    assert pauses[:6] == [0.0, 0.05, 0.1, 0.2, 0.2, 0.2]
    assert client.changes == [] and pauses[1] == RECONNECT_MILLIS / 1000
    client.dealer.close()


async def test_who_is_no_router_is_warned_of_once(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with closing(listen()) as listener:
        client = connect(listener.getsockname()[1])
        loop = asyncio.get_running_loop()
        for _ in range(3):
            async with asyncio.timeout(PATIENCE_SECONDS):
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    await loop.sock_sendall(connection, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    while await loop.sock_recv(connection, 1000):
                        pass
    assert client.changes == []
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"the connection to the query frontend at {client.dealer.address} is given up: "
        "it does not speak ZeroMQ's protocol"
    ]


async def test_what_arrives_after_it_is_closed_is_not_reported(connect: Connect) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        client = connect(router.bind_to_random_port("tcp://127.0.0.1"))
        await until(lambda: client.changes, "it is connected")
        client.dealer._events.received = lambda frames: (client.messages.append(frames), client.dealer.close())
        client.dealer.send([b"hello"])
        async with asyncio.timeout(PATIENCE_SECONDS):
            identity, _ = await router.recv_multipart()
            for number in range(3):
                await router.send_multipart([identity, b"%d" % number])
        await until(lambda: client.messages, "a message is there")
        await asyncio.sleep(0.05)
    assert client.messages == [[b"0"]]
    assert client.changes == ["connected"]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


@pytest.mark.parametrize("state", ["connecting", "greeting", "connected", "waiting"])
async def test_a_closed_dealer_leaves_nothing(connect: Connect, state: str) -> None:
    with closing(listen()) as listener:
        port = listener.getsockname()[1] if state != "waiting" else find_free_port()
        before, tasks = open_descriptors(), len(asyncio.all_tasks())
        client = connect(port)
        connection = None
        if state in ("greeting", "connected"):
            async with asyncio.timeout(PATIENCE_SECONDS):
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        if state == "connected" and connection is not None:
            connection.sendall(dealers.zmtp.ROUTER.opening)
            await until(lambda: client.changes == ["connected"], "it is connected")
        client.dealer.close()
        if connection is not None:
            connection.close()
        await until(lambda: len(asyncio.all_tasks()) == tasks, "no task is left")
        assert open_descriptors() == before
        assert "lost" not in client.changes


async def test_a_reset_is_a_loss(connect: Connect) -> None:
    with closing(listen()) as listener:
        client = connect(listener.getsockname()[1])
        async with asyncio.timeout(PATIENCE_SECONDS):
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.sendall(dealers.zmtp.ROUTER.opening)
        await until(lambda: client.changes, "it is connected")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        await until(lambda: client.changes == ["connected", "lost"], "the loss is noticed")
        async with asyncio.timeout(PATIENCE_SECONDS):
            again, _ = await asyncio.get_running_loop().sock_accept(listener)
        again.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "frontend-1.example.org"])
def test_addresses_are_taken_apart(host: str) -> None:
    assert split_tcp_address(tcp_address(host, 7000)) == (host, 7000)


@pytest.mark.parametrize(
    "address", ["", "nonsense", "tcp://", "tcp://host:port", "tcp://host:65536", "tcp://::1:7000", "ipc:///tmp/x"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a TCP port"):
        split_tcp_address(address)
    with pytest.raises(ValueError, match="is not the address of a TCP port"):
        Dealer(address)
