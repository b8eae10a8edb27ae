"""ZMTP: bytes by hand from RFC 37, bytes that libzmq sends, and what is none of it."""

import socket
import struct
import tracemalloc

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.wire import Parts
from query_frontend.rpc import zmtp
from query_frontend.rpc.zmtp import Conversation
from tests.query_frontend.rpc import fuzzing

GREETING = bytes.fromhex("ff 0000000000000000 7f 03 00") + b"NULL" + bytes(16) + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
PING = b"\x04\x0e\x04PING\x00\x0acontext"
PONG_TO_IT = b"\x04\x0c\x04PONGcontext"
NEWER_GREETING = GREETING[:11] + b"\x01" + GREETING[12:]
MAX_BYTES = 1 << 16

Messages = list[list[bytes]]


def plain(frame: bytes, more: bool = False) -> bytes:
    """A frame, written anew from the RFC."""
    if len(frame) < 256:
        return bytes([more, len(frame)]) + frame
    return bytes([more | 2]) + struct.pack(">Q", len(frame)) + frame


def stream(messages: Messages) -> bytes:
    return b"".join(plain(frame, at < len(frames) - 1) for frames in messages for at, frame in enumerate(frames))


def opened() -> Conversation:
    conversation = Conversation(MAX_BYTES)
    assert conversation.receive(GREETING + READY) == []
    assert conversation.is_open
    return conversation


def test_what_a_router_says_first() -> None:
    expected = (
        bytes.fromhex("ff 0000000000000000 7f 03 01")
        + b"NULL"
        + bytes(48)
        + b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER\x08Identity\x00\x00\x00\x00"
    )
    assert expected == zmtp.ROUTER.opening


MESSAGES = st.lists(st.lists(st.one_of(st.binary(max_size=9), st.just(bytes(300))), min_size=1, max_size=4), max_size=5)


@given(MESSAGES, st.lists(st.integers(0, 2000), max_size=8))
def test_messages_are_the_same_however_they_are_cut(messages: Messages, cuts: list[int]) -> None:
    data = GREETING + READY + PING + stream(messages)
    conversation, got, at = Conversation(MAX_BYTES), [], 0
    for cut in sorted({*(cut for cut in cuts if 0 < cut < len(data)), len(data)}):
        got += conversation.receive(data[at:cut])
        at = cut
    assert got == messages
    assert conversation.take_pong() == PONG_TO_IT
    assert conversation.pong == b""
    assert conversation.fault == ""


@given(MESSAGES)
def test_what_is_encoded_is_what_the_rfc_says(messages: Messages) -> None:
    assert b"".join(b"".join(zmtp.encode(frames)) for frames in messages) == stream(messages)


@given(MESSAGES)
def test_a_frame_in_parts_is_sent_as_one(messages: Messages) -> None:
    for frames in messages:
        parts = [Parts(len(frame), [frame[:1], b"", frame[1:]]) for frame in frames]
        assert b"".join(zmtp.encode(parts)) == b"".join(zmtp.encode(frames))


@given(st.binary(max_size=200), st.sampled_from([b"", GREETING, GREETING + READY, GREETING + READY[:9]]))
def test_anything_is_read_or_refused(data: bytes, before: bytes) -> None:
    whole, pieces = Conversation(MAX_BYTES), Conversation(MAX_BYTES)
    messages = fuzzing.receive_all(whole, before + data)
    assert [message for byte in before + data for message in pieces.receive(bytes([byte]))] == messages
    assert pieces.fault == whole.fault


def test_what_fuzzing_found_is_read_or_refused() -> None:
    corpus = fuzzing.read_corpus()
    assert corpus
    for data in corpus:
        fuzzing.decode(data)


def test_what_libzmq_sends_is_understood() -> None:
    """A real DEALER, against a bare socket."""
    messages = [[b"", b"x"], [b"header", bytes(300_000)], [b"last"]]
    conversation, got = Conversation(1 << 20), []
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.setsockopt(zmq.HEARTBEAT_IVL, 50)
        dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        for message in messages:
            dealer.send_multipart(message)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            connection.sendall(zmtp.ROUTER.opening)
            while len(got) < len(messages) or not conversation.knows_pings:
                data = connection.recv(5000)
                assert data, "libzmq gave us up"
                got += conversation.receive(data)
            connection.sendall(b"".join(zmtp.encode([b"", bytes(1000)])))
            assert dealer.recv_multipart() == [b"", bytes(1000)]
    assert got == messages


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak ZeroMQ's protocol"),
        (b"\xff" * 12, "does not speak ZeroMQ's protocol"),
        (b"\x01\x00", "does not speak ZeroMQ's protocol"),
        (bytes.fromhex("ff 0000000000000001 7f 01 05"), "ZMTP 2 or older"),
        (GREETING.replace(b"NULL\0", b"CURVE", 1), "security mechanism 'CURVE'"),
        (GREETING + plain(b"early"), "before it introduced itself"),
        (GREETING + PING, "it said 'PING' where it should have introduced itself"),
        (GREETING + READY.replace(b"DEALER", b"SUBxxx"), "a socket of type 'SUBxxx'"),
        (GREETING + b"\x04\x06\x05READY", "a socket of type ''"),
        (GREETING + b"\x04\x0c\x05READY\x05Hello", "its introduction breaks off"),
        (GREETING + b"\x04\x0b\x05READY\x00\x00\x00\x00\x09", "its introduction breaks off"),
        (GREETING + b"\x04\x0c\x05ERROR\x05sorry", "'ERROR'"),
        (GREETING + READY + b"\x04\x0c\x05ERROR\x05sorry", "it said 'sorry'"),
        (GREETING + READY + b"\x06" + struct.pack(">Q", 5000), "a command of 5000 bytes"),
        (GREETING + READY + b"\x02" + struct.pack(">Q", MAX_BYTES), "a message of more than 65536 bytes"),
        (GREETING + READY + b"\x02" + struct.pack(">Q", 2**63 - 1), "a message of more than 65536 bytes"),
        (GREETING + READY + b"\x02" + struct.pack(">Q", 2**63), "a frame of a size"),
        (GREETING + READY + stream([[b""] * 1025]), "a message of more than 65536 bytes"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, fault: str) -> None:
    conversation = Conversation(MAX_BYTES)
    assert fuzzing.receive_all(conversation, data) == []
    assert fault in conversation.fault
    assert conversation.receive(stream([[b"more"]])) == []


def test_unknown_commands_are_passed_over() -> None:
    conversation = opened()
    assert conversation.receive(b"\x04\x08\x04WHATxyz" + b"\x04\x00" + plain(b"x")) == [[b"x"]]


def test_what_is_complete_before_a_fault_counts() -> None:
    conversation = opened()
    assert conversation.receive(stream([[b"good"]]) + b"\x06" + bytes([255] * 8)) == [[b"good"]]
    assert conversation.fault


def test_a_wrong_greeting_is_known_before_it_is_complete() -> None:
    """Its sender waits for ours to go on, and knows nothing of it."""
    conversation = Conversation(MAX_BYTES)
    conversation.receive(GREETING[:10])
    assert not conversation.fault
    conversation.receive(b"\x01\x05")
    assert "ZMTP 2" in conversation.fault


def test_who_knows_pings() -> None:
    """To libzmq before 4.2, which speaks 3.0, they would be messages."""
    conversation = opened()
    assert not conversation.knows_pings
    conversation.receive(PING)
    assert conversation.knows_pings
    newer = Conversation(MAX_BYTES)
    newer.receive(NEWER_GREETING + READY)
    assert newer.knows_pings


def test_a_large_frame_in_small_pieces_takes_time_in_proportion() -> None:
    """Each byte is looked at a bounded number of times: 16 MiB in pieces of 4 KiB, within the test's time."""
    conversation = opened()
    conversation.allow(1 << 30)
    frame = bytes(1 << 24)
    data = plain(frame)
    got: Messages = []
    for at in range(0, len(data), 4096):
        got += conversation.receive(data[at : at + 4096])
    assert got == [[frame]]


@pytest.mark.parametrize("piece_bytes", [1000, 1 << 16, (1 << 22) + 7])
def test_a_large_frame_is_put_together_in_its_place(piece_bytes: int) -> None:
    size = 1 << 23
    frame = bytes(range(256)) * (size // 256)
    messages: Messages = [[b"before", frame, b"between", frame[:-1]], [b"behind"]]
    conversation, data, got = opened(), stream(messages), []
    conversation.allow(1 << 30)
    for at in range(0, len(data), piece_bytes):
        got += conversation.receive(data[at : at + piece_bytes])
    assert got == messages
    assert conversation.held_bytes() == 0


def test_a_large_frame_is_not_held_twice() -> None:
    size = 1 << 23
    conversation, data = opened(), stream([[bytes(size)]])
    conversation.allow(1 << 30)
    tracemalloc.start()
    try:
        for at in range(0, len(data) - 1, 1 << 16):
            assert conversation.receive(data[at : min(at + (1 << 16), len(data) - 1)]) == []
        assert size * 0.99 < conversation.held_bytes() < size
        assert len(conversation.receive(data[-1:])) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * size


def test_frames_of_a_message_are_limited() -> None:
    """Each costs more than its bytes, and a batch needs no more than one for each output."""
    most = zmtp._MAX_FRAMES
    conversation = Conversation(1 << 30)
    assert len(fuzzing.receive_all(conversation, GREETING + READY + stream([[b"x"] * most] * 2))) == 2
    assert fuzzing.receive_all(conversation, stream([[b"x"] * (most + 1)])) == []
    assert conversation.fault == f"it sent a message of more than {most} frames"


@pytest.mark.parametrize("frame", [b"\x04\x00", PING, plain(b""), plain(b"", more=True)])
def test_a_call_parses_a_limited_number_of_frames(frame: bytes) -> None:
    """An empty command takes 2 bytes, and as long as any other frame."""
    conversation, calls = opened(), 1
    messages = conversation.receive(frame * 1000 + plain(b"last"))
    assert len(messages) <= zmtp._FRAMES_AT_ONCE
    while conversation.is_behind:
        more = conversation.receive(b"")
        assert len(more) <= zmtp._FRAMES_AT_ONCE
        messages += more
        calls += 1
    assert calls >= 1000 // zmtp._FRAMES_AT_ONCE
    assert messages[-1][-1] == b"last"
    assert conversation.held_bytes() == 0


def test_many_pings_get_one_short_answer() -> None:
    conversation = opened()
    fuzzing.receive_all(conversation, PING * 1000 + zmtp._command(b"PING", bytes(2) + b"context of 16 B." + bytes(999)))
    assert conversation.take_pong() == b"\x04\x15\x04PONGcontext of 16 B."
