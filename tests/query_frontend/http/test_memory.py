"""Requests with large bodies, and what large outputs hold, share a budget, against a real frontend."""

import json
import re
import select
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from tests.query_frontend.conftest import Frontend, RawContainer, running_frontend, wait_for
from tests.query_frontend.http.fast_path_pair import post
from tests.query_frontend.rpc.test_zmtp import GREETING, READY, stream

pytestmark = pytest.mark.integration

MEGABYTE = 1 << 20
BUDGET = 64 * MEGABYTE
BODY_BYTES = 16 * MEGABYTE
SLACK = 128 * MEGABYTE
"""For buffers that grow by being copied. Without a budget, the bodies of all clients would take 450 MiB."""


@pytest.fixture
def frontend(redis_port: int, tmp_path: Path) -> Iterator[Frontend]:
    with running_frontend(redis_port, tmp_path / "frontend.log", body_memory=BUDGET) as frontend:
        frontend.serve("large")
        frontend.serve("others", "n:1")
        yield frontend


def unfinished(frontend: Frontend, app: str, chunked: bool = False) -> socket.socket:
    """A connection with a request whose body lacks its end; what is there of it is sent as far as it is taken."""
    client = socket.create_connection(("127.0.0.1", frontend.port))
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {BODY_BYTES}"
    client.sendall(f"POST /{app}/predict HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
    client.setblocking(False)
    return client


def send(clients: list[socket.socket], chunked: bool = False) -> list[socket.socket]:
    """Send all but the end of each body to those who take it. Returns the clients that were answered."""
    piece = b" " * MEGABYTE
    stream = (b"%x\r\n%b\r\n" % (MEGABYTE, piece) if chunked else piece) * (BODY_BYTES // MEGABYTE - 1)
    left = {client: memoryview(stream) for client in clients}
    answered: list[socket.socket] = []

    def go_on() -> bool:
        for client in [client for client in left if client not in answered]:
            try:
                while left[client]:
                    left[client] = left[client][client.send(left[client]) :]
            except BlockingIOError:
                pass
            except OSError:  # it was refused, and the connection closed
                answered.append(client)
                continue
            try:
                if client.recv(1, socket.MSG_PEEK):
                    answered.append(client)
            except BlockingIOError:
                pass
            except OSError:
                answered.append(client)
        return all(not rest or client in answered for client, rest in left.items())

    wait_for(go_on, "each body is there, or refused")
    return answered


SENT_BYTES = BODY_BYTES - MEGABYTE
MOST = BUDGET // SENT_BYTES + 1
"""Unfinished bodies that are held: one may go beyond the budget."""


@pytest.mark.parametrize("chunked", [False, True])
def test_unfinished_bodies_are_limited_in_sum(chunked: bool, frontend: Frontend) -> None:
    process = psutil.Process(frontend.process.pid)
    workers = [process, *process.children(recursive=True)]
    before = sum(each.memory_info().rss for each in workers)
    with ExitStack() as stack:
        for number in range(1, MOST + 1):
            assert send([stack.enter_context(unfinished(frontend, "large", chunked))], chunked) == []
            wait_for(lambda number=number: held(frontend) == number * SENT_BYTES, "it is counted")  # type: ignore[misc]
        clients = [stack.enter_context(unfinished(frontend, "large", chunked)) for _ in range(20)]
        send(clients, chunked)
        assert sum(each.memory_info().rss for each in workers) - before < BUDGET + BODY_BYTES + SLACK
        assert frontend.predict("large", input=[1.0])["default"], "small ones are served; there is no replica"
        assert frontend.post("/others/predict", json.dumps({"input": [1.5] * 100_000}).encode()).status == 200
    wait_for(lambda: held(frontend) == 0, "all is given back")
    assert frontend.post("/others/predict", json.dumps({"input": [1.5] * 100_000}).encode()).status == 200


def test_bodies_that_are_announced_and_do_not_arrive_keep_memory_from_nobody(frontend: Frontend) -> None:
    with ExitStack() as stack:
        for chunked in (False, True) * 20:
            stack.enter_context(unfinished(frontend, "large", chunked))
        body = json.dumps({"input": [1.5] * 100_000}).encode()
        assert [frontend.post("/others/predict", body).status for _ in range(3)] == [200] * 3


def test_many_bodies_at_a_time_are_finished_one_after_the_other(frontend: Frontend) -> None:
    """Also where all of them have begun to arrive, and none could be finished if all waited for room."""
    frontend.serve("texts", kind="strings")
    with ExitStack() as stack:
        clients = [stack.enter_context(unfinished(frontend, "texts")) for _ in range(12)]
        body = b'{"input": "%b"}' % (b"x" * (BODY_BYTES - len(b'{"input": ""}')))
        with ThreadPoolExecutor(len(clients)) as pool:
            answers = list(pool.map(lambda client: finish(client, body), clients))
    assert answers == [b"HTTP/1.1 200"] * len(clients)


def finish(client: socket.socket, body: bytes) -> bytes:
    """Send a body; return the beginning of the answer."""
    client.setblocking(True)
    client.settimeout(20)
    client.sendall(body)
    return client.recv(12)


def test_bodies_that_do_not_move_give_way_to_others(redis_port: int, tmp_path: Path) -> None:
    log = tmp_path / "frontend.log"
    with running_frontend(redis_port, log, body_memory=BODY_BYTES) as frontend, ExitStack() as stack:
        frontend.serve("large")
        clients: list[socket.socket] = []
        for number in (1, 2):  # the second one goes beyond the budget, unless the first one is still being read then
            clients.append(stack.enter_context(unfinished(frontend, "large")))
            assert send(clients[-1:]) == []
            wait_for(lambda number=number: held(frontend) == number * SENT_BYTES, "it is counted")  # type: ignore[misc]
        body = b" " * MEGABYTE + json.dumps({"input": [1.5] * 100_000}).encode()
        assert frontend.post("/large/predict", body).status == 200
        (given_up,), _, _ = select.select(clients, [], [], 20)
        assert b"\r\nRetry-After: 1\r\n" in given_up.recv(4096).partition(b"HTTP/1.1 408")[2]


@pytest.fixture
def container(frontend: Frontend) -> Iterator[RawContainer]:
    frontend.serve("slow", "slow:1", slo_ms=20_000, batch_size=1)
    container = RawContainer(frontend.rpc_port)
    try:
        container.join(wire.Metadata(ModelId("slow", "1"), InputType.DOUBLES, 3))
        frontend.wait_for_replicas(1)
        yield container
    finally:
        container.close()


def held(frontend: Frontend) -> int:
    return int((frontend.metric("gauges", "internal:body_memory") or {})["held_max"])


def asking(frontend: Frontend, body: bytes) -> socket.socket:
    """A client that has asked, and takes next to nothing of the answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    client.connect(("127.0.0.1", frontend.port))
    client.sendall(post("slow", body))
    return client


OUTPUT = b'"%b"' % (b"x" * BODY_BYTES)


def test_answers_that_nobody_reads_are_counted(frontend: Frontend, container: RawContainer) -> None:
    with asking(frontend, b'{"input": [1]}'):
        container.answer(container.receive_batch(), [OUTPUT])
        wait_for(lambda: held(frontend) > BODY_BYTES / 2, "the answer is counted")
        assert frontend.predict("large", input=[1.0])["default"], "others are served"
    wait_for(lambda: held(frontend) == 0, "it is given back")


def test_who_does_not_read_loses_the_connection_while_memory_is_short(
    frontend: Frontend, container: RawContainer
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(asking(frontend, b'{"input": [%d]}' % number)) for number in range(6)]
        for _ in clients:
            container.answer(container.receive_batch(), [OUTPUT])
        # Long before the usual 30 s are over.
        wait_for(lambda: "A client has not read for" in frontend.log.read_text(), "one is cut off", 20)
        wait_for(lambda: held(frontend) < BUDGET, "there is room")
        assert frontend.post("/others/predict", json.dumps({"input": [1.5] * 100_000}).encode()).status == 200


def test_outputs_that_wait_for_the_others_of_a_request_are_counted(frontend: Frontend, container: RawContainer) -> None:
    with asking(frontend, b'{"input_batch": [[1], [2]]}'):
        container.answer(container.receive_batch(), [OUTPUT])
        second = container.receive_batch()
        wait_for(lambda: held(frontend) == len(OUTPUT), "the first output is counted")
        container.answer(second, [b"2"])
        wait_for(lambda: 0 < held(frontend) - len(OUTPUT) < MEGABYTE, "the answer is sent, in pieces")
    wait_for(lambda: held(frontend) == 0, "all is given back")


def test_an_output_that_many_inputs_have_is_held_once(frontend: Frontend, container: RawContainer) -> None:
    inputs = [[1]] * 4096
    process = psutil.Process(frontend.process.pid)
    with asking(frontend, json.dumps({"input_batch": inputs}).encode()) as client:
        container.answer(container.receive_batch(), [b'"%b"' % (b"x" * MEGABYTE)])
        wait_for(lambda: MEGABYTE < held(frontend) < 3 * MEGABYTE, "what is held of an answer of 4 GiB is counted")
        assert sum(each.memory_info().rss for each in process.children(recursive=True)) < 4 * BUDGET
        assert frontend.predict("large", input=[1.0])["default"], "others are served"
        client.settimeout(20)
        head = client.recv(1 << 16).split(b"\r\n\r\n")[0]
        assert int(re.findall(rb"Content-Length: (\d+)", head)[0]) > len(inputs) * MEGABYTE
    wait_for(lambda: held(frontend) == 0, "it is given back")


@pytest.fixture
def bare_replica(frontend: Frontend) -> Iterator[socket.socket]:
    """A connection that has registered as a replica of the model."""
    frontend.serve("slow", "slow:1", slo_ms=20_000, batch_size=1)
    with socket.create_connection(("127.0.0.1", frontend.rpc_port), timeout=10) as replica:
        metadata = wire.encode_metadata(wire.Metadata(ModelId("slow", "1"), InputType.DOUBLES, 3))
        replica.sendall(GREETING + READY + stream([[bytes(frame) for frame in metadata]]))
        frontend.wait_for_replicas(1)
        yield replica


UNFINISHED = b"\x02" + BODY_BYTES.to_bytes(8, "big") + bytes(BODY_BYTES // 2)
"""A frame, half of which is missing."""


def test_an_unfinished_answer_of_a_replica_is_counted(frontend: Frontend, bare_replica: socket.socket) -> None:
    with asking(frontend, b'{"input": [1]}'):
        said = b""
        while struct.pack("<d", 1.0) not in said:
            said += bare_replica.recv(1 << 16)
        bare_replica.sendall(UNFINISHED)
        wait_for(lambda: held(frontend) >= BODY_BYTES // 2, "what came of it is counted")
    bare_replica.close()
    wait_for(lambda: held(frontend) == 0, "all is given back")


def test_a_replica_without_a_batch_says_little(frontend: Frontend, bare_replica: socket.socket) -> None:
    try:
        bare_replica.sendall(UNFINISHED)
        while bare_replica.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    wait_for(lambda: "and has no batch" in frontend.log.read_text(), "it is disconnected")
    wait_for(lambda: held(frontend) == 0, "all is given back")
