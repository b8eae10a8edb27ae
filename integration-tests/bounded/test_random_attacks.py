"""Tests that random actions of clients, replicas and operators neither affect others nor leave anything behind.

The applications under attack get right outputs, the default or an error; another application gets all of its own.
"""

import base64
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from open_loop import NEEDS_GENERATOR, OpenLoop, check_harms_nobody

from clipper_common import changes, wire
from clipper_common.changes import Write
from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Application, Model
from tests.conftest import OwnRedis
from tests.query_frontend.conftest import Frontend, RawContainer, http, running_frontend, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(180), NEEDS_GENERATOR]

SEED = 20
SECONDS = 10.0
CLIENTS = 4
RATE = 100.0
SLO_SECONDS = 0.5
ATTACKED_SLO_MICROS = 1_000_000
CLIENT_SECONDS = 20.0
HEARTBEAT_SECONDS = 2.0


class Attacked(NamedTuple):
    """An application, and the model version of the same name. An output is the length of the input."""

    name: str
    kind: str
    make: Callable[[random.Random], tuple[Any, int]]
    """Returns an input, as it is in JSON, and its length for the model."""

    @property
    def model(self) -> ModelId:
        return ModelId(self.name, "1")

    def registered(self, batch_size: int) -> list[Write]:
        kind = InputType.parse(self.kind)
        return [
            *changes.put_application(Application(self.name, kind, "default", ATTACKED_SLO_MICROS)),
            changes.put_model(Model(self.model, kind, batch_size=batch_size)),
            changes.put_current_version(self.model),
            changes.put_link(self.name, self.model.name),
        ]


def make_doubles(rng: random.Random) -> tuple[Any, int]:
    values = [rng.choice([7.25, rng.random()]), *[0.5] * rng.choice([0, 0, 2, 50])]
    return values, 8 * len(values)


def make_string(rng: random.Random) -> tuple[Any, int]:
    text = rng.choice(["same", "é", str(rng.random())]) + "x" * rng.choice([0, 0, 10, 100_000])
    return text, len(text.encode())


def make_bytes(rng: random.Random) -> tuple[Any, int]:
    value = rng.choice([b"same", rng.randbytes(10)]) + bytes(rng.choice([0, 0, 10, 100_000]))
    return base64.b64encode(value).decode(), len(value)


ATTACKED = [
    Attacked("numbers", "doubles", make_doubles),
    Attacked("texts", "strings", make_string),
    Attacked("images", "bytes", make_bytes),
]


# --- replicas ---


class Replica:
    """A container of version 3, which registers anew whenever it is asked to."""

    def __init__(self, frontend: Frontend, model: ModelId, kind: str, misbehaves: random.Random | None = None) -> None:
        self._frontend = frontend
        self._metadata = wire.Metadata(model, InputType.parse(kind), 3)
        self._misbehaves = misbehaves

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            with closing(RawContainer(self._frontend.rpc_port)) as container:
                self._live(container, ended)

    def _live(self, container: RawContainer, ended: threading.Event) -> None:
        """Answer batches until the replica dies."""
        heartbeat_at = 0.0
        while not ended.is_set():
            if time.monotonic() > heartbeat_at:
                container.socket.send_multipart(wire.encode_heartbeat())
                heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
            if not container.socket.poll(50):
                continue
            message = wire.decode_from_frontend(container.socket.recv_multipart())
            if message == wire.HeartbeatReply(wire.HeartbeatType.REQUEST_METADATA):
                container.socket.send_multipart(wire.encode_metadata(self._metadata))
            elif isinstance(message, wire.PredictRequest) and not self._answer(container, message):
                return

    def _answer(self, container: RawContainer, request: wire.PredictRequest) -> bool:
        """Answer a batch, or not. False if the replica dies."""
        outputs = [b"%d" % len(each) for each in request.inputs]
        dice = self._misbehaves.random() if self._misbehaves is not None else 1.0
        if dice < 0.02:
            return False
        if dice < 0.04:
            outputs.pop()
        elif dice < 0.06:
            container.answer(request, outputs, message_id=request.message_id + 1)
            return True
        elif dice < 0.09:
            time.sleep(10 * dice)
        container.answer(request, outputs)
        return dice > 0.11


# --- clients ---


class Request(NamedTuple):
    app: Attacked
    body: bytes
    expected: list[int]
    """The outputs."""

    def packets(self) -> bytes:
        return self.framed(self.body)

    def framed(self, body: bytes) -> bytes:
        return self._head(f"Content-Length: {len(body)}") + body

    def chunked(self, size: int) -> bytes:
        chunks = [self.body[at : at + size] for at in range(0, len(self.body), size)]
        return self._head("Transfer-Encoding: chunked") + b"".join(
            b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""]
        )

    def _head(self, length: str) -> bytes:
        return f"POST /{self.app.name}/predict HTTP/1.1\r\nHost: here\r\n{length}\r\n\r\n".encode()


def make_request(rng: random.Random) -> Request:
    app = rng.choice(ATTACKED)
    inputs = [app.make(rng) for _ in range(rng.choice([1, 1, 3, 65, 500, 4096]))]
    if len(inputs) > 3:
        inputs = [(value, length) for value, length in inputs if length < 1000]
    body = json.dumps({"input_batch": [value for value, _ in inputs]}).encode()
    return Request(app, body, [length for _, length in inputs])


class Client:
    """A connection to the frontend."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), CLIENT_SECONDS)
        self._received = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive_some(self, size: int) -> bytes:
        return self._socket.recv(size)

    def check_response(self, expected: list[int]) -> None:
        """Read an answer, which may be right, the default or an error; or the connection is closed before."""
        response = self.read_response()
        if response is None:
            return
        status, body = response
        assert status in (200, 404, 503), body  # the application is removed and registered again all the time
        if status == 200:
            answer = json.loads(body)
            predictions = answer.get("batch_predictions", [answer])
            outputs = [
                length if each["default"] else each["output"]
                for each, length in zip(predictions, expected, strict=True)
            ]
            assert outputs == expected

    def read_response(self) -> tuple[int, bytes] | None:
        """The status and the body; None if the connection is closed before."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if not self._receive():
                return None
        head, self._received = self._received[:end], self._received[end + 4 :]
        found = re.search(rb"(?i)content-length: *(\d+)", head)
        assert found is not None, head
        length = int(found[1])
        while len(self._received) < length:
            if not self._receive():
                return None
        body, self._received = self._received[:length], self._received[length:]
        return int(head.split()[1]), body

    def _receive(self) -> bool:
        data = self._socket.recv(1 << 18)
        self._received += data
        return bool(data)


def ask(client: Client, request: Request, _: random.Random) -> None:
    client.send(request.packets())
    client.check_response(request.expected)


def leave(client: Client, request: Request, rng: random.Random) -> None:
    client.send(request.packets())
    time.sleep(rng.choice([0, 0.001, 0.01, 0.1]))


def stop_in_the_middle(client: Client, request: Request, rng: random.Random) -> None:
    data = request.packets()
    at = rng.randrange(len(data))
    client.send(data[:at])
    time.sleep(rng.choice([0, 0.01, 0.3]))
    if rng.random() < 0.5:
        client.send(data[at:])
        client.check_response(request.expected)


def pipeline(client: Client, request: Request, rng: random.Random) -> None:
    data = request.packets()
    number = rng.choice([2, 5]) if len(data) < 100_000 else 2
    client.send(data * number)
    for _ in range(rng.choice([1, number])):
        client.check_response(request.expected)


def send_chunks(client: Client, request: Request, rng: random.Random) -> None:
    client.send(request.chunked(rng.choice([1, 7, 5000]) if len(request.body) < 50_000 else 50_000))
    client.check_response(request.expected)


def send_malformed(client: Client, request: Request, rng: random.Random) -> None:
    body = request.body
    client.send(
        request.framed(rng.choice([body[:-1], b"\xff" + body, body + b"}", b"[" * len(body), bytes(len(body))]))
    )
    response = client.read_response()
    assert response is None or response[0] in (400, 404), response


def read_slowly(client: Client, request: Request, rng: random.Random) -> None:
    client.send(request.packets())
    for _ in range(rng.choice([0, 1, 5])):
        if len(client.receive_some(20)) < 20:  # it has read all there is
            break
        time.sleep(0.02)


WAYS = [ask, ask, leave, stop_in_the_middle, pipeline, send_chunks, send_malformed, read_slowly]


def attack_as_client(frontend: Frontend, rng: random.Random) -> None:
    # The frontend may close the connection of who breaks the protocol.
    with suppress(ConnectionError), closing(Client(frontend.port)) as client:
        rng.choice(WAYS)(client, make_request(rng), rng)


# --- operators ---


def attack_as_operator(frontend: Frontend, rng: random.Random) -> None:
    app = rng.choice(ATTACKED)
    removed = rng.choice([changes.delete_application(app.name), [changes.delete_model(app.model)], []])
    if removed:
        frontend.configure(*removed)
        time.sleep(rng.random() / 10)
    frontend.configure(*app.registered(rng.choice([-1, 1, 64, 4096])))
    if rng.random() < 0.2:
        assert http("GET", frontend.url + "/metrics").status == 200
    time.sleep(rng.random() / 2)


# --- the attack ---


@contextmanager
def in_threads(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run the works beside the block. They end when it does, and what one of them raises is raised."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def run(work: Callable[[threading.Event], None]) -> None:
        try:
            work(ended)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(2 * CLIENT_SECONDS)
    for error in errors:
        raise error


def again_and_again(
    attack: Callable[[Frontend, random.Random], None], frontend: Frontend, rng: random.Random
) -> Callable[[threading.Event], None]:
    def run(ended: threading.Event) -> None:
        while not ended.is_set():
            attack(frontend, rng)

    return run


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def frontend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Frontend]:
    redis = OwnRedis()
    with ExitStack() as stack:
        stack.callback(redis.kill)
        redis.start()
        flags = {"workers": request.param, "advertise": "127.0.0.1"}
        yield stack.enter_context(running_frontend(redis.port, tmp_path / "frontend.log", **flags))


def test_a_random_attack_harms_nobody(frontend: Frontend) -> None:
    frontend.serve("neighbour", "neighbour:1", "doubles", slo_ms=1000 * SLO_SECONDS)
    for app in ATTACKED:
        frontend.configure(*app.registered(-1))
    rngs = iter(map(random.Random, range(SEED, SEED + 100)))
    steady = [Replica(frontend, ModelId("neighbour", "1"), "doubles") for _ in range(2)]
    wild = [Replica(frontend, app.model, app.kind, next(rngs)) for app in ATTACKED for _ in range(2)]
    with in_threads(*(replica.run for replica in (*steady, *wild))):
        frontend.wait_for_replicas(len(steady) + len(wild))
        wait_for(lambda: all(is_answered(frontend) for _ in range(20)), "each worker reaches the neighbour's replicas")
        with OpenLoop(f"{frontend.url}/neighbour/predict", RATE, keeps_outputs=True).running() as load:

            def attack() -> None:
                works = [again_and_again(attack_as_client, frontend, next(rngs)) for _ in range(CLIENTS)]
                with in_threads(*works, again_and_again(attack_as_operator, frontend, next(rngs))):
                    time.sleep(SECONDS)

            beside = check_harms_nobody(load, "a random attack", SLO_SECONDS, attack)
        assert set(beside.outputs) == {16}
        wait_for(lambda: held_bytes(frontend) == 0, "nothing is held any more")
    log = frontend.log.read_text()
    assert "Traceback" not in log, log
    assert "is started again" not in log, log


def is_answered(frontend: Frontend) -> bool:
    return not frontend.predict("neighbour", input=[1.0, 2.0])["default"]


def held_bytes(frontend: Frontend) -> int:
    memory = frontend.metric("gauges", "internal:body_memory")
    assert memory is not None
    return int(float(memory["held_max"]))
