"""The RPC as containers see it, with bytes written by hand from the facts (sections 1.3, 1.4, 1.11)."""

import asyncio
import os
import random
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest
import zmq

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.rpc_client import RpcClient, tcp_address
from clipper_common.wire import Metadata
from clipper_containers.session import receive_one
from clipper_containers.zmq_transport import ZmqTransport
from query_frontend.monitoring.metric_kinds import Histogram
from query_frontend.rpc.dealer import Dealer, DealerEvents
from query_frontend.rpc.server import ReplicaConnection, RpcEvents, RpcServer
from tests.query_frontend.conftest import Frontend, RawContainer, running_container, wait_for
from tests.query_frontend.rpc.test_zmtp import GREETING, NEWER_GREETING, READY, stream

pytestmark = pytest.mark.integration

MakeContainer = Callable[[], RawContainer]

HEARTBEAT = bytes.fromhex("02000000")
ASK_METADATA = [b"", bytes.fromhex("03000000"), bytes.fromhex("02000000"), bytes.fromhex("01000000")]
KEEP_ALIVE = [b"", bytes.fromhex("03000000"), bytes.fromhex("02000000"), bytes.fromhex("00000000")]
NEW_CONTAINER = bytes.fromhex("00000000")
CONTENT = bytes.fromhex("01000000")
RPC_VERSION_3 = bytes.fromhex("03000000")

METADATA = {
    "python": (b"m", b"1", b"1", RPC_VERSION_3),
    "R and C++, whose type frame has the length of the version": (b"m", b"1", b"1", RPC_VERSION_3),
    "R and C++ with a long version": (b"m", b"100", b"1\x00\x7f", RPC_VERSION_3),
    "JVM, with a version of 8 bytes": (b"m", b"1", b"1", struct.pack("<q", 3)),
}


@pytest.mark.parametrize("dialect", METADATA)
def test_a_container_of_0_4_is_served(frontend: Frontend, raw_container: MakeContainer, dialect: str) -> None:
    frames = METADATA[dialect]
    version = frames[1].decode()
    frontend.serve("app", f"m:{version}", "ints")
    container = raw_container()
    container.send(HEARTBEAT)
    assert container.receive() == ASK_METADATA
    container.send(NEW_CONTAINER, *frames)
    frontend.wait_for_replicas(1)
    assert container.is_silent(), "version 3 knows no acknowledgement of metadata"
    container.send(HEARTBEAT)
    assert container.receive() == KEEP_ALIVE
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1, 2])
        request = container.receive()
        message_id = request[3]
        assert request == [
            b"",
            RPC_VERSION_3,
            CONTENT,
            message_id,
            bytes.fromhex("00000000"),
            bytes.fromhex("1800000000000000"),
            bytes.fromhex("0100000000000000 0100000000000000 0800000000000000"),
            bytes.fromhex("0100000002000000"),
        ]
        container.send(CONTENT, message_id, struct.pack("<Q", 16), struct.pack("<QQ", 1, 1), b"3")
        assert reply.result()["output"] == 3


async def test_containers_reach_an_ipv6_address() -> None:
    no_events = RpcEvents(lambda _: None, lambda _, reason: None, lambda _, response: None, lambda _: None)
    server = RpcServer("::1", 0, Histogram("microseconds"))
    try:
        port = server.start(no_events)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    owner: Any = Mock()
    with zmq.Context() as context:
        metadata = Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "x")
        client = RpcClient(ZmqTransport(context, tcp_address("::1", port)), metadata, owner, deque(maxlen=9))
        async with asyncio.timeout(10):
            while not client.registered:
                if time.monotonic() > client.due or client.is_blocked:
                    client.send_heartbeat()
                receive_one(client)
                await asyncio.sleep(0.01)
        client.close()
    server.stop()


@pytest.mark.parametrize(("quick_seconds", "size", "yields"), [(60.0, 2, True), (60.0, 1, False), (0.0, 2, False)])
async def test_the_core_is_yielded_after_quick_batches(
    monkeypatch: pytest.MonkeyPatch, quick_seconds: float, size: int, yields: bool
) -> None:
    yielded, owner, joined, answered = Mock(), Mock(), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr("query_frontend.rpc.server.QUICK_SECONDS", quick_seconds)
    monkeypatch.setattr("os.sched_yield", yielded)
    connections: list[ReplicaConnection] = []
    events = RpcEvents(
        replica_joined=lambda connection: connections.append(connection) or joined.set(),
        replica_lost=lambda _, reason: None,
        batch_answered=lambda _, response: answered.set(),
        replica_draining=lambda _: None,
    )
    owner.on_batch = lambda client, request, _: client.answer(
        wire.Response(request.message_id, [b"1"] * size, [False] * size), client.registration
    )
    server = RpcServer("127.0.0.1", 0, Histogram("microseconds"))
    dealer = Dealer(tcp_address("127.0.0.1", server.start(events)))
    client = RpcClient(dealer, Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "x"), owner, deque(maxlen=9))
    dealer.start(DealerEvents(client.receive, client.send_heartbeat, client.on_lost))
    async with asyncio.timeout(10):
        await joined.wait()
        server.send_batch(connections[0], wire.PredictRequest(7, InputType.DOUBLES, [bytes(8)] * size))
        await answered.wait()
        await asyncio.sleep(0)
    client.close()
    server.stop()
    assert yielded.called is yields


async def test_a_container_that_is_gone_before_it_is_read_does_not_stay() -> None:
    """All that it said lies there when its connection breaks, so that nothing can be answered."""
    joined = list[ReplicaConnection]()
    left: asyncio.Queue[ReplicaConnection] = asyncio.Queue()
    events = RpcEvents(
        joined.append, lambda connection, _: left.put_nowait(connection), lambda *_: None, lambda _: None
    )
    server = RpcServer("127.0.0.1", 0, Histogram("microseconds"))
    metadata = wire.encode_metadata(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "x"))
    with socket.create_connection(("127.0.0.1", server.start(events))) as connection:
        connection.setblocking(False)
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_recv(connection, 1)  # it is accepted: the router speaks first
        connection.sendall(GREETING + READY + stream([wire.encode_heartbeat(), metadata]))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    async with asyncio.timeout(10):
        assert [await left.get()] == joined
    assert left.empty()
    server.stop()


@pytest.mark.parametrize(
    ("greeting", "answered_before", "is_given_up"),
    [(GREETING, 1, True), (GREETING, 0, False), (NEWER_GREETING, 1, False)],
    ids=["knows no pings", "its first batch", "answers pings"],
)
async def test_who_is_silent_with_a_batch_for_far_longer_than_ever_is_given_up_where_no_ping_tells(
    monkeypatch: pytest.MonkeyPatch, greeting: bytes, answered_before: int, is_given_up: bool
) -> None:
    monkeypatch.setattr("query_frontend.rpc.server.LEAST_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr("query_frontend.rpc.server._TICK_SECONDS", 0.05)
    joined, answered, left = asyncio.Queue[ReplicaConnection](), asyncio.Event(), list[str]()
    events = RpcEvents(
        joined.put_nowait, lambda _, reason: left.append(reason), lambda *_: answered.set(), lambda _: None
    )
    server = RpcServer("127.0.0.1", 0, Histogram("microseconds"))
    metadata = wire.encode_metadata(Metadata(ModelId("m", "1"), InputType.DOUBLES, 3))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.start(events))
    async with asyncio.timeout(10):
        writer.write(greeting + READY + stream([metadata]))
        connection = await joined.get()
        for number in range(answered_before):
            server.send_batch(connection, wire.PredictRequest(number, InputType.DOUBLES, [bytes(8)]))
            writer.write(stream([wire.encode_response(wire.Response(number, [b"1"], [False]), 3)]))
            await answered.wait()
        server.send_batch(connection, wire.PredictRequest(9, InputType.DOUBLES, [bytes(8)]))
        asked = time.monotonic()
        while not left and time.monotonic() - asked < 1.0:
            await asyncio.sleep(0.01)
    assert bool(left) is is_given_up
    if left:
        assert left[0].startswith("it has been silent for ") and "m:1 never took more than " in left[0]
        assert time.monotonic() - asked > 0.5
        async with asyncio.timeout(10):
            while await reader.read(1 << 16):
                pass  # until it is disconnected
    writer.close()
    server.stop()


@pytest.mark.parametrize("is_registered", [False, True])
async def test_an_answer_to_no_batch_in_flight_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch, is_registered: bool
) -> None:
    """Its outputs may be many, and nobody waits for them."""
    monkeypatch.setattr(wire, "_decode_packed_response", Mock(side_effect=AssertionError("it is decoded")))
    joined, left = asyncio.Queue[ReplicaConnection](), asyncio.Queue[str]()
    events = RpcEvents(joined.put_nowait, lambda _, reason: left.put_nowait(reason), lambda *_: None, lambda _: None)
    server = RpcServer("127.0.0.1", 0, Histogram("microseconds"))
    metadata = wire.encode_metadata(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "x"))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.start(events))
    async with asyncio.timeout(10):
        writer.write(GREETING + READY)
        if is_registered:
            writer.write(stream([metadata]))
            connection = await joined.get()
            server.send_batch(connection, wire.PredictRequest(3, InputType.DOUBLES, [bytes(8)]))
        writer.write(stream([wire.encode_response(wire.Response(7, [b""] * 4000, [False] * 4000), 4)]))
        if is_registered:
            assert await left.get() == "it answered batch 7, and has batch 3"
        else:
            writer.write(stream([metadata]))
            await joined.get()
    writer.close()
    server.stop()


async def test_an_answer_with_more_outputs_than_inputs_ends_the_registration() -> None:
    joined, left = asyncio.Queue[ReplicaConnection](), asyncio.Queue[str]()
    events = RpcEvents(joined.put_nowait, lambda _, reason: left.put_nowait(reason), lambda *_: None, lambda _: None)
    server = RpcServer("127.0.0.1", 0, Histogram("microseconds"))
    metadata = wire.encode_metadata(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "x"))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.start(events))
    async with asyncio.timeout(10):
        writer.write(GREETING + READY + stream([metadata]))
        server.send_batch(await joined.get(), wire.PredictRequest(3, InputType.DOUBLES, [bytes(8)]))
        writer.write(stream([wire.encode_response(wire.Response(3, [b""] * 2, [False] * 2), 4)]))
        assert await left.get() == "it sent what makes no sense: an answer of 2 outputs, where 1 are the most"
    writer.close()
    server.stop()


def test_inputs_of_a_batch_travel_in_frames_of_their_own(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", "m:1", "strings")
    container = raw_container()
    container.join(Metadata(ModelId("m", "1"), InputType.STRINGS, 3))
    frontend.wait_for_replicas(1)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input_batch=["hé", "abc"])
        request = container.receive()
        assert request[7:] == ["hé".encode(), b"abc"]
        container.send(CONTENT, request[3], struct.pack("<Q", 24), struct.pack("<QQQ", 2, 1, 1), b"1", b"2")
        assert [entry["output"] for entry in reply.result()["batch_predictions"]] == [1, 2]


def test_a_version_4_container_is_acknowledged_and_errors_are_per_input(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app")
    container = raw_container()
    container.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "me"))
    assert container.receive()[1] == bytes.fromhex("04000000")
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input_batch=[[1.0], [2.0]])
        request = container.receive_batch()
        container.answer(request, [b"1.5", b"ValueError: no twos"], 4, failed=[False, True])
        good, bad = reply.result()["batch_predictions"]
    assert good["output"] == 1.5 and good["default"] is False
    assert bad["output"] == "default"
    assert bad["default_explanation"] == "The model raised ValueError: no twos"


@pytest.mark.parametrize(
    "frames",
    [
        (),
        (b"",),
        (b"xx",),
        (b"\x09\x00\x00\x00",),
        (NEW_CONTAINER,),
        (NEW_CONTAINER, b"m", b"1", b"1"),
        (NEW_CONTAINER, b"m", b"1", b"1", b"\x02\x00\x00\x00"),
        (NEW_CONTAINER, b"m", b"1", b"9", RPC_VERSION_3),
        (NEW_CONTAINER, b"m", b"1", b"-1", RPC_VERSION_3),
        (NEW_CONTAINER, b"m", b"1", b"", RPC_VERSION_3),
        (NEW_CONTAINER, b"", b"1", b"1", RPC_VERSION_3),
        (NEW_CONTAINER, b"\xff", b"1", b"1", RPC_VERSION_3),
        (NEW_CONTAINER, b"m" * 5000, b"1", b"1", RPC_VERSION_3),
        (NEW_CONTAINER, b"m", b"1", b"1", b"\x04\x00\x00\x00"),
        (CONTENT, b"\x00\x00\x00\x00"),
        (CONTENT, b"\x00\x00\x00\x00", b"", b"\x01"),
        (b"\x01\x00\x00\x00",),
    ],
)
def test_garbage_is_refused_without_harm(
    frontend: Frontend, raw_container: MakeContainer, frames: tuple[bytes, ...]
) -> None:
    container = raw_container()
    container.send(*frames)
    container.socket.send_multipart([b"no empty frame", *frames])
    container.send(HEARTBEAT)
    assert container.receive() == ASK_METADATA, "what came before was passed over"
    assert frontend.replicas() == []


def test_a_stranger_does_not_fill_the_log(frontend: Frontend, raw_container: MakeContainer) -> None:
    container = raw_container()
    for kind in range(1000, 1500):
        container.send(struct.pack("<I", kind))
    container.send(HEARTBEAT)
    assert container.receive() == ASK_METADATA
    complaints = [line for line in frontend.log.read_text().splitlines() if "makes no sense" in line]
    assert 50 <= len(complaints) <= 100


def test_random_frames_and_bare_tcp_do_no_harm(frontend: Frontend, raw_container: MakeContainer) -> None:
    rng = random.Random(4)
    container = raw_container()
    for _ in range(300):
        container.socket.send_multipart([rng.randbytes(rng.choice([0, 4, 8, 9])) for _ in range(rng.randint(1, 9))])
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", frontend.rpc_port), 5) as connection:
            connection.sendall(rng.randbytes(200))
    container.send(HEARTBEAT)
    assert container.receive() == ASK_METADATA
    assert frontend.process.poll() is None


def wrong_answers(request: wire.PredictRequest) -> dict[str, list[bytes]]:
    id_ = struct.pack("<I", request.message_id)
    return {
        "too few outputs": [CONTENT, id_, struct.pack("<Q", 8), struct.pack("<Q", 0)],
        "too many outputs": [CONTENT, id_, struct.pack("<Q", 24), struct.pack("<QQQ", 2, 1, 1), b"1", b"2"],
        "wrong sizes": [CONTENT, id_, struct.pack("<Q", 16), struct.pack("<QQ", 1, 7), b"1"],
        "wrong count": [CONTENT, id_, struct.pack("<Q", 16), struct.pack("<QQ", 2**63, 1), b"1"],
        "cut header": [CONTENT, id_, struct.pack("<Q", 16), b"\x01\x00", b"1"],
    }


@pytest.mark.parametrize("wrong", ["too few outputs", "too many outputs", "wrong sizes", "wrong count", "cut header"])
def test_a_wrong_answer_expels_the_replica_and_its_batch_goes_to_another(
    frontend: Frontend, raw_container: MakeContainer, wrong: str
) -> None:
    frontend.serve("app", slo_ms=5000)
    liar = join(frontend, raw_container, 1)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        request = liar.receive_batch()
        honest = join(frontend, raw_container, 2)
        liar.send(*wrong_answers(request)[wrong])
        honest.answer(honest.receive_batch(), [b"1"])
        assert reply.result()["output"] == 1
    frontend.wait_for_replicas(1)
    liar.send(HEARTBEAT)
    assert liar.receive() == ASK_METADATA


def join(
    frontend: Frontend, make: MakeContainer, number: int, version: int = 3, name: str | None = None
) -> RawContainer:
    container = make()
    container.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, version, name))
    frontend.wait_for_replicas(number)
    return container


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    ("answers", "reason"),
    [((1,), "it answered batch 1, and has batch 0"), ((0, 0), "it answered batch 0, and has none")],
    ids=["a batch that was not sent yet", "a batch twice"],
)
def test_a_replica_that_answers_what_it_was_not_asked_is_disconnected(
    frontend: Frontend, raw_container: MakeContainer, version: int, answers: tuple[int, ...], reason: str
) -> None:
    frontend.serve("app", slo_ms=5000)
    liar = join(frontend, raw_container, 1, version, "liar" if version == 4 else None)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        request = liar.receive_batch()
        honest = join(frontend, raw_container, 2, version, "honest" if version == 4 else None)
        assert request.message_id == 0
        for message_id in answers:
            liar.answer(request, [b"1"], version, message_id=message_id)
        if 0 not in answers:  # its batch is tried again, and blamed on no input
            honest.answer(honest.receive_batch(), [b"1"], version)
        assert reply.result()["output"] == 1
    frontend.wait_for_replicas(1)
    assert f"replica {'liar' if version == 4 else '0'} of m:1 is disconnected: {reason}" in frontend.log.read_text()
    honest.close()
    liar.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, version, "liar" if version == 4 else None))
    frontend.wait_for_replicas(1)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[2.0])
        liar.answer(liar.receive_batch(), [b"2"], version)
        assert reply.result()["output"] == 2


def test_a_replica_that_was_never_asked_and_answers_is_disconnected(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    container = join(frontend, raw_container, 1)
    container.answer(wire.PredictRequest(77, InputType.DOUBLES, [b""]), [b"9"])
    frontend.wait_for_replicas(0)
    assert "replica 0 of m:1 is disconnected: it answered batch 77, and has none" in frontend.log.read_text()
    container.send(HEARTBEAT)
    assert container.receive() == ASK_METADATA, "it may come back"


@pytest.mark.parametrize("version", [3, 4])
def test_an_answer_that_comes_after_a_reconnect_is_passed_over(
    frontend: Frontend, raw_container: MakeContainer, version: int
) -> None:
    frontend.serve("app", slo_ms=200)
    name = "same" if version == 4 else None
    container = join(frontend, raw_container, 1, version, name)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        late = container.receive_batch()
        container.close()
        frontend.wait_for_replicas(0)
        container = join(frontend, raw_container, 1, version, name)
        assert reply.result()["default"] is True
        frontend.serve("app", slo_ms=5000)
        reply = pool.submit(frontend.predict, "app", input=[2.0])
        request = container.receive_batch()
        container.answer(late, [b"1"], version)
        container.answer(request, [b"2"], version)
        assert reply.result()["output"] == 2
        reply = pool.submit(frontend.predict, "app", input=[3.0])
        request = container.receive_batch()
        container.answer(late, [b"1"], version)
        frontend.wait_for_replicas(0)
    assert f"it answered batch {late.message_id}, and has batch {request.message_id}" in frontend.log.read_text()


def test_the_batch_of_a_replica_that_goes_is_queued_again_at_once(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", slo_ms=10_000)
    first = join(frontend, raw_container, 1)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        first.receive_batch()
        second = join(frontend, raw_container, 2)
        gone = time.monotonic()
        first.close()
        second.answer(second.receive_batch(), [b"2"])
        assert reply.result()["output"] == 2
        assert time.monotonic() - gone < 2.0, "a lost connection shows at once"
    frontend.wait_for_replicas(1)


def test_a_query_is_not_sent_to_a_third_replica(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", slo_ms=10_000)
    with ThreadPoolExecutor() as pool:
        container = join(frontend, raw_container, 1)
        reply: Future[Any] = pool.submit(frontend.predict, "app", input=[1.0])
        for _ in range(2):
            container.receive_batch()
            following = join(frontend, raw_container, 2)
            container.close()
            container = following
        answer = reply.result()
        assert answer["default_explanation"].startswith("Model containers died of this input when they had no other")


def test_a_stopped_process_is_told_from_a_busy_one(frontend: Frontend) -> None:
    """SIGSTOP: libzmq does not answer ZMTP heartbeats any more, so the connection is given up."""
    frontend.serve("app", "sum:1")
    with running_container(frontend, "sum_container", "sum:1", "doubles") as process:
        frontend.wait_for_replicas(1)
        os.kill(process.pid, signal.SIGSTOP)
        frontend_lost = time.monotonic()
        # Only a batch makes it probe: what is idle has 30 s to speak.
        frontend.predict("app", input=[1.0])
        wait_for(lambda: not frontend.replicas(), "the stopped container is given up", 15)
        assert time.monotonic() - frontend_lost < 12
        os.kill(process.pid, signal.SIGCONT)
        frontend.wait_for_replicas(1)
        wait_for(lambda: frontend.predict("app", input=[time.time()])["default"] is False, "it serves again")


def test_a_draining_container_gets_no_more_and_is_let_go_after_its_batch(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("impatient", slo_ms=50)
    frontend.serve("app", slo_ms=5000)
    container = join(frontend, raw_container, 1, version=4, name="drains")
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        request = container.receive_batch()
        container.socket.send_multipart(wire.encode_drain_request())
        wait_for(
            lambda: (
                frontend.predict("impatient", input=[2.0]).get("default_explanation")
                == "No connected models found for query"
            ),
            "no more is queued for it",
        )
        container.answer(request, [b"1"], 4)
        assert reply.result()["output"] == 1
        while not isinstance(wire.decode_from_frontend(container.receive()), wire.Drain):
            pass
    frontend.wait_for_replicas(0)


def test_only_a_container_that_measures_turns_is_asked_for_them(
    frontend: Frontend, raw_container: MakeContainer
) -> None:
    frontend.serve("app", "m:1", "ints")
    older, newer = raw_container(), raw_container()
    for container, replica_id in ((older, "a"), (newer, "b")):
        measures = container is newer
        container.join(Metadata(ModelId("m", "1"), InputType.INTS, 4, replica_id, "key", measures_turns=measures))
        message = wire.decode_from_frontend(container.receive())
        assert message == wire.HeartbeatReply(wire.HeartbeatType.KEEP_ALIVE, takes_turns=measures)
    older.close()
    frontend.wait_for_replicas(1)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1])
        newer.answer(newer.receive_batch(), [b"7"], 4, turn_micros=1)
        assert reply.result()["output"] == 7


def test_a_container_that_comes_back_keeps_its_number(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app")
    first = join(frontend, raw_container, 1, version=4, name="same")
    join(frontend, raw_container, 2, version=4, name="other")
    numbers = {replica.replica_id for replica in frontend.replicas()}
    again = raw_container()
    again.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "same"))  # the old connection still stands
    wait_for(lambda: max(r.zmq_connection_id for r in frontend.replicas()) == 2, "it is known again")
    assert {replica.replica_id for replica in frontend.replicas()} == numbers
    first.socket.send_multipart(wire.encode_heartbeat())
    assert wire.decode_from_frontend(last_message(first)) == wire.HeartbeatReply(wire.HeartbeatType.REQUEST_METADATA)


def last_message(container: RawContainer) -> list[bytes]:
    frames = container.receive()
    while not container.is_silent():
        frames = container.receive()
    return frames


def test_a_container_of_another_input_type_is_refused(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app", "m:1", "ints")
    container = raw_container()
    container.join(Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "x"))
    refused = wire.decode_from_frontend(container.receive())
    assert isinstance(refused, wire.Refused)
    assert "doubles" in refused.reason and "integers" in refused.reason
    assert frontend.replicas() == []


def new_container(
    name: bytes = b"m", version: bytes = b"1", kind: bytes = b"3", replica_id: bytes = b"x"
) -> list[bytes]:
    """The metadata of a container of version 4, as frames."""
    return [NEW_CONTAINER, name, version, kind, struct.pack("<I", 4), replica_id]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (new_container(name=b"a\nb\x1b[31m"), r"model name 'a\nb\x1b[31m'"),
        (new_container(name=b"a:b"), "model name 'a:b'"),
        (new_container(name=b"n" * 256), "model name 'nnnnnn"),
        (new_container(name=b"\xff"), "model name is not UTF-8"),
        (new_container(name=b""), "model name of 0 bytes"),
        (new_container(version=b"1,2"), "model version '1,2'"),
        (new_container(version="\u2028".encode()), r"model version '\u2028'"),
        (new_container(kind=b"9\n"), r"unknown input type b'9\n'"),
        (new_container(replica_id=b"a\n26-01-01:00:00:00 CRITICAL [x.py:1] lost"), r"replica id 'a\n26-01-01"),
        (new_container(replica_id=b"x" * 1025), "replica id of 1025 bytes"),
        (new_container(replica_id=b"\xff"), "replica id is not UTF-8"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_metadata_that_cannot_be_accepted_is_refused_with_the_reason(
    frontend: Frontend, raw_container: MakeContainer, frames: list[bytes], reason: str
) -> None:
    frontend.serve("app")
    good = join(frontend, raw_container, 1, version=4, name="x")
    stranger = raw_container()
    stranger.send(*frames)
    refused = wire.decode_from_frontend(stranger.receive())
    assert isinstance(refused, wire.Refused)
    assert reason in refused.reason and refused.reason.isprintable() and len(refused.reason) < 400
    assert [str(replica.model_id) for replica in frontend.replicas()] == ["m:1"]
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        good.answer(good.receive_batch(), [b"1"], 4)
        assert reply.result()["output"] == 1
    log = frontend.log.read_text()
    assert reason in log and all(line.isprintable() for line in log.splitlines())
    assert not any(line.startswith("26-01-01") for line in log.splitlines()), "a line was forged"


def test_a_replica_id_belongs_to_its_model_version(frontend: Frontend, raw_container: MakeContainer) -> None:
    for app, model in (("app", "m:1"), ("other", "n:1")):
        frontend.serve(app, model)
    containers = []
    for model in (ModelId("m", "1"), ModelId("n", "1"), ModelId("m", "2")):
        containers.append(raw_container())
        containers[-1].join(Metadata(model, InputType.DOUBLES, 4, "same"))
        frontend.wait_for_replicas(len(containers))
    assert [(str(replica.model_id), replica.replica_id) for replica in frontend.replicas()] == [
        ("m:1", 0),
        ("m:2", 0),
        ("n:1", 0),
    ]
    with ThreadPoolExecutor() as pool:
        for app, container in zip(("app", "other"), containers, strict=False):
            reply = pool.submit(frontend.predict, app, input=[1.0])
            container.answer(container.receive_batch(), [b"1"], 4)
            assert reply.result()["output"] == 1


@pytest.mark.parametrize(("own", "others"), [("mine", "yours"), ("mine", None), (None, "yours")])
def test_nobody_takes_the_place_of_a_replica_without_its_key(
    frontend: Frontend, raw_container: MakeContainer, own: str | None, others: str | None
) -> None:
    frontend.serve("app", slo_ms=5000)
    mine = Metadata(ModelId("m", "1"), InputType.DOUBLES, 4, "same", own)
    first, other, again = raw_container(), raw_container(), raw_container()
    first.join(mine)
    frontend.wait_for_replicas(1)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        request = first.receive_batch()
        other.join(mine._replace(key=others))
        refused = wire.decode_from_frontend(other.receive())
        assert refused == wire.Refused("another container is connected with its replica id, same")
        first.answer(request, [b"1"], 4)
        assert reply.result()["output"] == 1
    again.join(mine)  # with its own key it comes back, also while its old connection still stands
    wait_for(lambda: [r.zmq_connection_id for r in frontend.replicas()] == [1], "it is known again")
    again.close()
    frontend.wait_for_replicas(0)
    other.socket.send_multipart(wire.encode_metadata(mine._replace(key=others)))
    frontend.wait_for_replicas(1)


def test_who_is_refused_takes_nobodys_place(frontend: Frontend, raw_container: MakeContainer) -> None:
    frontend.serve("app")
    first = join(frontend, raw_container, 1, version=4, name="same")
    other = raw_container()
    other.join(Metadata(ModelId("m", "1"), InputType.INTS, 4, "same"))
    assert isinstance(wire.decode_from_frontend(other.receive()), wire.Refused)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(frontend.predict, "app", input=[1.0])
        first.answer(first.receive_batch(), [b"1"], 4)
        assert reply.result()["output"] == 1
