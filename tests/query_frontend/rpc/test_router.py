"""The router beside real DEALERs of libzmq, and beside bare sockets that misbehave."""

import asyncio
import errno
import socket
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import Mock

import pytest
import zmq
import zmq.asyncio

from clipper_common import constants
from clipper_common.wire import Parts
from query_frontend.rpc import peer as peers
from query_frontend.rpc import router, strangers, zmtp
from query_frontend.rpc.peer import Peer, PeerEvents
from query_frontend.rpc.router import Router
from tests.query_frontend.rpc.test_zmtp import GREETING, NEWER_GREETING, READY, stream

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 10.0
SHORT_PING = b"\x04\x07\x04PING\x00\x00"


class Room:
    """A router, and what it reports."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []
        self.turns: list[int] = []
        """How many messages came at once."""
        self.peers: list[Peer] = []
        self.lost: list[str] = []
        self.warnings: list[str] = []
        self.answer: Callable[[Peer, list[bytes]], object] = lambda peer, frames: None
        self.router = Router(
            PeerEvents(self._said, lambda peer, reason: self.lost.append(reason), self.warnings.append)
        )
        self.port = self.router.start("127.0.0.1", 0)

    def _said(self, peer: Peer, messages: list[list[bytes]]) -> None:
        self.turns.append(len(messages))
        self.messages += messages
        if peer not in self.peers:
            self.peers.append(peer)
        for frames in messages:
            self.answer(peer, frames)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain until {what}"
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def stranger(self, data: bytes = b"") -> AsyncIterator[socket.socket]:
        """A bare connection, not read from."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(connection, data)
            yield connection


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    yield room
    room.router.stop()


@asynccontextmanager
async def dealing(room: Room) -> AsyncIterator[Any]:
    with zmq.asyncio.Context() as context:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{room.port}")
        try:
            yield dealer
        finally:
            dealer.close()


@pytest.mark.parametrize("size", [0, 255, 256, 1 << 15, 1 << 24])
async def test_messages_travel_both_ways(room: Room, size: int) -> None:
    def answer(peer: Peer, frames: list[bytes]) -> None:
        peer.trust()
        peer.send([*frames, b"", b"!"])

    room.answer = answer
    async with dealing(room) as dealer, asyncio.timeout(30):
        await dealer.send_multipart([b"small"])
        assert await dealer.recv_multipart() == [b"small", b"", b"!"]
        await dealer.send_multipart([b"", bytes(size), b"x"])
        assert await dealer.recv_multipart() == [b"", bytes(size), b"x", b"", b"!"]
        await dealer.send_multipart([b"%d" % at for at in range(1000)])
        assert await dealer.recv_multipart() == [*(b"%d" % at for at in range(1000)), b"", b"!"]


async def test_who_goes_is_reported_once_and_sent_nothing_more(room: Room) -> None:
    async with dealing(room) as dealer:
        await dealer.send_multipart([b"hello"])
        await room.until(lambda: room.peers, "it spoke")
    await room.until(lambda: room.lost, "it is gone")
    assert room.lost == ["it closed its connection"]
    assert room.warnings == []
    room.router.check_liveness(time.monotonic())


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def test_a_reset_is_a_loss(room: Room) -> None:
    async with room.stranger(GREETING + READY + stream([[b"x"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        reset(connection)
        await room.until(lambda: room.lost, "it is gone")
    assert not room.peers[0].send([b"too late"])
    assert len(room.lost) == 1


@pytest.mark.parametrize("ticks", [0, 10])
async def test_what_was_said_before_a_reset_counts(room: Room, ticks: int) -> None:
    """Also where we write to it, and check it, before we have read that; and the loss is reported, once."""
    async with room.stranger(GREETING + READY + stream([[b"x"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        connection.send(stream([[b"an answer"]]))
        reset(connection)
        peer = room.peers[0]
        assert peer.send([b"a batch"]) and peer.send([b"another"])
        now = time.monotonic()
        for seconds in range(ticks):
            room.router.check_liveness(now + seconds)
        assert room.lost == []
        await room.until(lambda: room.lost, "it is gone")
    assert room.messages == [[b"x"], [b"an answer"]]
    assert len(room.lost) == 1


@pytest.mark.parametrize(
    "last", [stream([[b"an answer"]]), stream([[b"answer"]] * 300), stream([[bytes(1 << 21)]])[:-1]]
)
async def test_a_reset_behind_what_is_not_read_yet_is_a_loss(room: Room, last: bytes) -> None:
    async with room.stranger(GREETING + READY + stream([[b"x"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        with suppress(BlockingIOError):
            connection.sendall(last)
        reset(connection)
        await room.until(lambda: room.lost, "it is gone")
    assert len(room.messages) == 1 + last.count(b"answer")
    assert len(room.lost) == 1


async def test_what_was_said_before_a_fault_counts(room: Room) -> None:
    many = 100
    async with room.stranger(GREETING + READY + stream([[b"x"]] * many) + b"\x06" + bytes([255] * 8)):
        await room.until(lambda: room.lost, "it is given up")
    assert room.messages == [[b"x"]] * many


async def test_what_is_no_zeromq_is_sent_away(room: Room) -> None:
    async with room.stranger(b"GET / HTTP/1.1\r\n\r\n") as connection:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.get_running_loop().sock_recv(connection, 1000):
                pass
    assert room.warnings == ["a connection for containers is given up: it does not speak ZeroMQ's protocol"]
    assert room.messages == []


async def test_who_does_not_introduce_itself_is_sent_away(room: Room) -> None:
    async with room.stranger(GREETING):
        await room.until(lambda: room.router._peers, "it is accepted")
        started = time.monotonic()
        for seconds in range(int(peers._HANDSHAKE_SECONDS)):
            room.router.check_liveness(started + seconds)
        assert room.lost == []
        for seconds in (0, 1):
            room.router.check_liveness(started + peers._HANDSHAKE_SECONDS + seconds)
        assert room.lost == ["it did not introduce itself"]
        assert len(room.warnings) == 1


async def test_who_introduces_itself_slowly_is_sent_away(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_HANDSHAKE_SECONDS", 0.2)
    async with room.stranger() as connection:
        for byte in GREETING[:30]:
            connection.send(bytes([byte]))
            await asyncio.sleep(0.02)
            room.router.check_liveness(time.monotonic())
            if room.lost:
                break
    assert room.lost == ["it did not introduce itself"]


async def test_who_answers_no_pings_is_given_up_if_it_knows_them(room: Room) -> None:
    timeout = constants.TRANSPORT_TIMEOUT_MILLIS / 1000
    async with room.stranger(GREETING + READY), room.stranger(NEWER_GREETING + READY + stream([[b"x"]])):
        await room.until(lambda: room.peers, "it spoke")
        started = time.monotonic()
        for seconds in range(int(timeout) + 1):
            room.router.check_liveness(started + seconds)
        assert room.lost == []
        room.router.check_liveness(started + timeout + 1)
        assert room.lost == ["it does not answer"]


async def test_our_own_silence_is_nobody_elses(room: Room) -> None:
    async with room.stranger(NEWER_GREETING + READY + stream([[b"x"]])):
        await room.until(lambda: room.peers, "it spoke")
        now = time.monotonic()
        room.router.check_liveness(now)
        room.router.check_liveness(now + 3600)
        assert room.lost == []


async def test_who_takes_what_we_send_lives(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our ping waits behind a large batch on a slow line, and so does its answer."""
    monkeypatch.setattr(peers, "TIMEOUT_SECONDS", 1.5)
    many = 1 << 26
    async with room.stranger(NEWER_GREETING + READY + stream([[b"x"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        room.peers[0].send([bytes(many)])
        got, started = 0, time.monotonic()
        while got < many:
            room.router.check_liveness(time.monotonic())
            got += len(await asyncio.get_running_loop().sock_recv(connection, many // 64))
            await asyncio.sleep(0.04)
        assert time.monotonic() - started > 1.5
        assert room.lost == []


async def test_who_takes_what_the_kernel_has_lives(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that went to the kernel as a whole is on its way for long."""
    monkeypatch.setattr(peers, "_PING_SECONDS", 5.0)  # which the kernel would take as well
    monkeypatch.setattr(peers, "TIMEOUT_SECONDS", 1.5)
    async with room.stranger(NEWER_GREETING + READY + stream([[b"x"]])) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 13)
        await room.until(lambda: room.peers, "it spoke")
        many = 1 << 17
        room.peers[0].send([bytes(many)])
        got, started = 0, time.monotonic()
        while got < many:
            room.router.check_liveness(time.monotonic())
            got += len(await asyncio.get_running_loop().sock_recv(connection, many // 64))
            await asyncio.sleep(0.04)
        assert time.monotonic() - started > 1.5
        assert room.lost == []
        await room.until(lambda: room.router.check_liveness(time.monotonic()) or room.lost, "it is given up")  # type: ignore[func-returns-value]
        assert room.lost == ["it does not answer"]


async def test_who_does_not_read_is_kept_waiting_for_a_while(room: Room) -> None:
    """A large batch takes long on a slow network, and keep-alives pile up behind it."""
    async with room.stranger(GREETING + READY + stream([[b"x"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        peer, large = room.peers[0], bytes(1 << 25)
        assert peer.send([large])
        assert all(peer.send([b"keep-alive"]) for _ in range(100))
        got = bytearray()
        many = len(zmtp.ROUTER.opening) + (1 << 25) + 9 + 100 * 12
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(got) < many:
                got += await asyncio.get_running_loop().sock_recv(connection, 1 << 20)
        assert got.endswith(stream([[large], *[[b"keep-alive"]] * 100]))
        assert all(peer.send([bytes(1 << 15)]) for _ in range(500))
        while peer.send([bytes(1 << 15)]):
            pass
        assert room.lost == ["it takes no more messages"]


async def test_a_large_message_leaves_others_their_turn(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the peer reads."""
    handed: list[int] = []
    sendmsg = socket.socket.sendmsg

    def counting(self: socket.socket, pieces: Any, *more: Any) -> int:
        handed.append(sum(map(len, pieces)))
        return sendmsg(self, pieces, *more)

    async with room.stranger(GREETING + READY + stream([[b"x"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        peer = room.peers[0]
        monkeypatch.setattr(socket.socket, "sendmsg", counting)
        many = 5 << 20
        parts = [b"first", bytes(many - 10), b"last!"]
        assert peer.send([Parts(many, parts)])
        got = bytearray()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not got.endswith(stream([[b"".join(parts)]])):
                got += await asyncio.get_running_loop().sock_recv(connection, 1 << 20)
    assert max(handed) == peers._WRITE_BYTES
    assert len(handed) >= 5


async def test_a_flood_of_messages_leaves_others_their_turn(room: Room) -> None:
    many = 1000
    async with room.stranger(GREETING + READY + stream([[b"%d" % at] for at in range(many)])):
        await room.until(lambda: len(room.messages) == many, "all are there")
    assert room.messages == [[b"%d" % at] for at in range(many)]
    assert max(room.turns) < 2 * peers._MESSAGES_PER_STEP


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("frame", [b"\x04\x00", SHORT_PING], ids=["empty commands", "pings"])
async def test_a_flood_of_commands_leaves_others_their_turn(room: Room, frame: bytes, is_known: bool) -> None:
    """However few bytes they take: in all they take far longer than a turn may."""
    longest, ended, loop = 0.0, False, asyncio.get_running_loop()
    began = time.thread_time()

    def turn() -> None:
        nonlocal longest, began
        now = time.thread_time()
        longest, began = max(longest, now - began), now
        if not ended:
            loop.call_soon(turn)

    def send(connection: socket.socket) -> None:
        connection.setblocking(True)
        connection.sendall(frame * 100_000 + stream([[b"last"]]))

    async with room.stranger(GREETING + READY + stream([[b"x"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        if is_known:
            room.peers[0].trust()
        turn()
        await asyncio.to_thread(send, connection)
        await room.until(lambda: room.messages[-1] == [b"last"], "all are read")
        ended = True
    assert longest < 0.02


async def test_a_peer_that_pings_and_does_not_read_takes_little_memory(room: Room) -> None:
    async with room.stranger(GREETING + READY + stream([[b"x"]])) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        await room.until(lambda: room.peers, "it spoke")
        tracemalloc.start()
        try:
            with suppress(ConnectionError):
                pings = SHORT_PING * 20_000 + stream([[b"last"]])
                await asyncio.get_running_loop().sock_sendall(connection, pings)
            await room.until(lambda: room.lost or room.messages[-1] == [b"last"], "all are read")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1 << 20


async def test_a_peer_that_has_not_read_a_batch_is_sent_no_other(room: Room) -> None:
    batch = bytes(1 << 25)
    async with room.stranger(GREETING + READY + stream([[b"x"]])):
        await room.until(lambda: room.peers, "it spoke")
        peer = room.peers[0]
        assert peer.send([batch]) and peer.send([b"keep-alive"])
        assert not peer.send([batch])
    assert room.lost == ["it takes no more messages"]


async def test_messages_that_wait_are_kept_in_few_buffers(room: Room) -> None:
    """Version 3 has a frame for each input, and each buffer takes memory."""
    async with room.stranger(GREETING + READY + stream([[b"x"]])):
        await room.until(lambda: room.peers, "it spoke")
        peer = room.peers[0]
        assert peer.send([bytes(1 << 25)])
        tracemalloc.start()
        try:
            assert all(peer.send([b"x"] * 4096) for _ in range(100))
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size < 2 * 100 * 4096 * 3


async def test_a_peer_that_nobody_knows_is_not_given_much_memory(room: Room) -> None:
    async with room.stranger(GREETING + READY + stream([[bytes(strangers.MAX_STRANGERS_BYTES)]])):
        await room.until(lambda: room.lost, "it is given up")
    assert room.messages == []
    assert f"more than {strangers.MAX_STRANGERS_BYTES} bytes" in room.warnings[0]


async def test_all_peers_that_nobody_knows_share_a_little_memory(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "_MAX_ALL_STRANGERS_BYTES", 3 << 19)
    most = stream([[bytes(strangers.MAX_STRANGERS_BYTES - 1000)]])[:-1]
    hello = GREETING + READY
    async with room.stranger(hello + most), room.stranger(hello + stream([[b"x"]])) as known:
        await room.until(lambda: room.peers, "it spoke")
        room.peers[0].trust()
        await asyncio.get_running_loop().sock_sendall(known, most)
        await asyncio.sleep(0.05)
        assert room.lost == [], "who is known is not counted"
        async with room.stranger(hello + most):
            await room.until(lambda: room.lost, "it is given up")
    assert room.lost[0] == "those that have not said who they are send too much"
    await room.until(lambda: len(room.lost) == 3, "all are gone")
    assert room.router._strangers._bytes == 0 and not room.router._strangers._peers


@pytest.mark.parametrize(
    ("descriptors", "containers", "most"),
    [
        (1024, 0, 128),
        (1024, 100, 124),
        (1024, 500, 32),
        (256, 0, 32),
        (16, 9, 1),
        (1e6, 1000, 256),
        (float("inf"), 1, 256),
    ],
)
def test_peers_that_nobody_knows_have_the_descriptors_that_containers_leave(
    monkeypatch: pytest.MonkeyPatch, descriptors: float, containers: int, most: int
) -> None:
    monkeypatch.setattr(strangers, "most_descriptors", lambda: descriptors)
    peers = strangers.Strangers()
    peers.leave_room_for(containers)
    assert peers._most == most


async def test_of_too_many_that_nobody_knows_the_oldest_goes(room: Room) -> None:
    room.router._strangers._most = 2
    hello = GREETING + READY
    async with room.stranger(hello + stream([[b"x"]])):
        await room.until(lambda: room.peers, "it spoke")
        room.peers[0].trust()
        async with room.stranger(hello) as first, room.stranger(hello), room.stranger(hello):
            await room.until(lambda: room.lost, "one is given up")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await asyncio.get_running_loop().sock_recv(first, 1000):
                    pass
            assert len(room.lost) == 1
            room.peers[0].distrust()
            await room.until(lambda: len(room.lost) == 2, "another is given up")
            assert not room.peers[0].closed, "it is known no longer than the others"


@pytest.mark.parametrize("was_known", [False, True])
async def test_who_does_not_say_who_it_is_is_sent_away(room: Room, was_known: bool) -> None:
    async with room.stranger(GREETING + READY + stream([[b"x"]])):
        await room.until(lambda: room.peers, "it spoke")
        started = time.monotonic()
        if was_known:
            room.peers[0].trust()
            for seconds in range(int(peers._STRANGER_SECONDS) + 5):
                room.router.check_liveness(started + seconds)
            assert room.lost == []
            room.peers[0].distrust()
            started = time.monotonic() - 1
            room.router._checked_at = started
        for seconds in range(int(peers._STRANGER_SECONDS)):
            room.router.check_liveness(started + seconds)
        assert room.lost == []
        for seconds in (0, 1, 2):
            room.router.check_liveness(started + peers._STRANGER_SECONDS + seconds)
        assert room.lost == ["it did not say who it is"]


async def test_a_peer_that_is_known_may_send_large_messages(room: Room) -> None:
    large = bytes(2 * strangers.MAX_STRANGERS_BYTES)
    async with room.stranger(GREETING + READY + stream([[b"hello"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        room.peers[0].trust()
        await asyncio.get_running_loop().sock_sendall(connection, stream([[large]]))
        await room.until(lambda: len(room.messages) == 2, "it is read")
    assert room.messages[1] == [large]


async def test_a_peer_that_stops_in_the_middle_of_a_message_is_sent_away(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "SILENCE_SECONDS", 1.5)
    message = stream([[bytes(1000)]])
    async with room.stranger(GREETING + READY + stream([[b"hello"]])) as connection:
        await room.until(lambda: room.peers, "it spoke")
        room.peers[0].trust()
        for at in range(50):  # it may be as slow as it likes
            await asyncio.get_running_loop().sock_sendall(connection, message[10 * at : 10 * at + 10])
            await asyncio.sleep(0.05)
            room.router.check_liveness(time.monotonic())
        assert room.lost == []
        await room.until(lambda: room.router.check_liveness(time.monotonic()) or room.lost, "it is given up")  # type: ignore[func-returns-value]
        assert room.lost == ["it stopped in the middle of a message, of which 500 bytes are kept"]


async def test_descriptors_that_run_out_are_waited_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = room.router._listener
    exhausted: Any = Mock(fileno=listener.fileno, accept=Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    monkeypatch.setattr(router, "_EXHAUSTED_SECONDS", 0.05)
    room.router._listener = exhausted
    async with dealing(room) as dealer:
        await dealer.send_multipart([b"hello"])
        await room.until(lambda: exhausted.accept.call_count == 3, "it was tried again")
        assert room.messages == []
        room.router._listener = listener
        await room.until(lambda: room.messages, "it is accepted")


async def test_a_taken_address_is_said(room: Room) -> None:
    with pytest.raises(OSError, match="in use"):
        Router(room.router._events).start("127.0.0.1", room.port)
