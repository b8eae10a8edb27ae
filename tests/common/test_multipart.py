"""Whole messages over real sockets, and across to pyzmq's own way."""

import os
from collections.abc import Iterator

import pytest
import zmq

from clipper_common.multipart import receive_views, send_frames

MESSAGES = [[b"a"], [b"", b"x", b""], [os.urandom(size) for size in (0, 1, 29, 30, 255, 256, 100_000, 1_000_000)]]


@pytest.fixture
def sockets() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as left, context.socket(zmq.PAIR) as right:
        left.bind("inproc://sockets")
        right.connect("inproc://sockets")
        yield left, right


def test_messages_are_whole_and_in_order(sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    sender, receiver = sockets
    for message in MESSAGES:
        send_frames(sender, message)
        receiver.send_multipart(message)
    assert [receive_views(receiver) for _ in MESSAGES] == MESSAGES
    assert [receive_views(sender) for _ in MESSAGES] == MESSAGES


def test_large_frames_are_not_copied(sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    sender, receiver = sockets
    for message in MESSAGES:
        send_frames(sender, message)
    received = [receive_views(receiver) for _ in MESSAGES]
    assert received == MESSAGES
    assert [type(frame) for frame in received[-1]] == [bytes] * 6 + [memoryview] * 2


def test_nothing_there(sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    with pytest.raises(zmq.Again):
        receive_views(sockets[1])


def test_nowhere_to_send() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as alone, pytest.raises(zmq.Again):
        send_frames(alone, [b"a", b"b"])
