"""Two real frontends, with the fast path and without, and a connection to each that says the same to both."""

import hashlib
import itertools
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from clipper_common import changes, wire
from clipper_common.datatypes import InputType, Link, ModelId
from clipper_common.records import Application, Selection
from tests.conftest import OwnRedis
from tests.query_frontend.conftest import Frontend, RawContainer, running_frontend

MODELS: Final = {
    "doubles": "echo-doubles:1",
    "ints": "echo-ints:1",
    "floats": "echo-floats:1",
    "strings": "écho %:1",
    "bytes": "echo-bytes:1",
}
"""The models by application, which is named like its input type."""
MISSING_VALUES: Final = {"doubles": "missing-doubles", "floats": "missing-floats"}
"""Applications that take missing values, by input type."""
STICKY: Final = {"by-header": "header:X-User", "by-uid": "uid"}
"""Applications whose policy `split` gives some users a model, and others one that is not there; their sticky keys."""
BIG_OUTPUT: Final = '"' + "x" * 20_000 + '"'
SENTINEL: Final = b"GET /sentinel HTTP/1.1\r\nHost: s\r\n\r\n"
"""A request whose answer says that everything before it was answered."""
_SENTINEL_END: Final = b'"cause":"No such route: /sentinel"}'
_PATIENCE_SECONDS: Final = 0.04
_PROBE: Final = b"prob"
"""An input."""
_DATE: Final = re.compile(rb"\r\nDate: [^\r]*")
_QUERY_ID: Final = re.compile(rb'"query_id":(\d+)')
_WAITED: Final = re.compile(rb'"default_waited_millis":{[^}]*}')
_HEAD: Final = re.compile(rb"HTTP/\d\.\d .*?\r\n\r\n", re.DOTALL)
_CHUNKED: Final = re.compile(rb"\r\nTransfer-Encoding:[^\r]*chunked", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)
_PARSER_ERROR: Final = b"HTTP/1.0 400 Bad Request\r\nContent-Type: application/json"


class Echo:
    """Replicas of several models, in a thread: an output is the input in hexadecimal, or a digest of a long one."""

    def __init__(self, frontend: Frontend, models: Mapping[str, str]) -> None:
        self.inputs: list[bytes] = []
        self.holds = threading.Event()
        """While it is set, batches are taken, but not answered."""
        self._frontend = frontend
        self._models = models
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Echo":
        self._thread.start()
        self._frontend.wait_for_replicas(len(self._models))
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        containers: dict[RawContainer, wire.Metadata] = {}
        poller = zmq.Poller()
        for kind, model in self._models.items():
            container = RawContainer(self._frontend.rpc_port)
            containers[container] = wire.Metadata(ModelId.parse(model), InputType.parse(kind), 3)
            container.join(containers[container])
            poller.register(container.socket, zmq.POLLIN)
        held: list[tuple[RawContainer, wire.PredictRequest]] = []
        heartbeat_at = 0.0
        while not self._ends.is_set():
            ready = {found for found, _ in poller.poll(5 if held else 50)}
            for container, metadata in containers.items():
                if container.socket in ready:
                    held += self._receive(container, metadata)
                if time.monotonic() > heartbeat_at:
                    container.socket.send_multipart(wire.encode_heartbeat())
            heartbeat_at = max(heartbeat_at, time.monotonic() + 2)
            if not self.holds.is_set():
                for container, request in held:
                    container.answer(request, [_digest(item) for item in request.inputs])
                held.clear()
        for container in containers:
            container.close()

    def _receive(
        self, container: RawContainer, metadata: wire.Metadata
    ) -> Iterator[tuple[RawContainer, wire.PredictRequest]]:
        message = wire.decode_from_frontend(container.socket.recv_multipart())
        if isinstance(message, wire.PredictRequest):
            self.inputs += message.inputs
            yield container, message
        elif message == wire.HeartbeatReply(wire.HeartbeatType.REQUEST_METADATA):  # its connection was lost
            container.socket.send_multipart(wire.encode_metadata(metadata))


def _digest(item: bytes) -> bytes:
    return b'"%s"' % (item.hex() if len(item) < 200 else hashlib.sha256(item).hexdigest()).encode()


@dataclass
class Server:
    frontend: Frontend
    echo: Echo


class Outcome(NamedTuple):
    """The answers that a client saw in a conversation, and the inputs that its model got."""

    answers: bytes
    end: str
    """``open``: the last request was answered; ``closed``; or ``silent``."""
    inputs: list[bytes]


@dataclass
class Pair:
    fast_path: Server
    general: Server
    warm: bool = True
    """Converse on connections that were used before: aiohttp takes the first request if it comes at once."""
    conversations: int = field(default=0)

    def compare(self, *packets: bytes, glued: bool = False) -> Outcome:
        """Say the same to both, and see that they do the same. With `glued`, `SENTINEL` is in the last packet."""
        self.conversations += 1
        packets = (*packets[:-1], packets[-1] + SENTINEL) if glued else packets
        fast_paths, generals = zip(self.converse(packets, glued), strict=True)
        for attempt in self._attempts(packets, glued):
            if match := next(
                (fast_path for fast_path in fast_paths if any(_agree(fast_path, general) for general in generals)), None
            ):
                return match
            self.settle()
            fast_path, general = attempt()
            fast_paths, generals = (*fast_paths, fast_path), (*generals, general)
        said = f"sent: {packets!r}\nfast path: {fast_paths[0]}\ngeneral: {generals[0]}"
        logs = [f"log of the {name}: {self._log_end(name)}" for name in ("fast_path", "general")]
        raise AssertionError("\n".join([said, *logs]))

    def _log_end(self, name: str) -> str:
        server: Server = getattr(self, name)
        return server.frontend.log.read_text()[-2000:]

    def _attempts(self, packets: Sequence[bytes], glued: bool) -> Iterator[Callable[[], tuple[Outcome, Outcome]]]:
        """Further ways to say it, for what depends on time: one of the two may be slow, and what aiohttp says of
        malformed requests, or after `Connection: close`, depends on where packets end and on when they come."""
        for _ in range(2):
            yield partial(self.converse, packets, glued, 2.0)
        ends = message_ends(packets)
        for pause, number in itertools.product((0.03, 0.5), range(len(ends), -1, -1)):
            yield partial(self.converse, cut(packets, ends[:number]), glued, 0.3, pause)
        yield partial(self.converse, packets, glued, 2.0)

    def converse(
        self, packets: Sequence[bytes], glued: bool, patience: float = _PATIENCE_SECONDS, pause: float = 0.0
    ) -> tuple[Outcome, Outcome]:
        """Not `glued`, the sentinel is sent when something was answered, or after `patience` seconds.

        With a `pause`, each packet is sent when something was answered to that before, or after so many seconds.
        """
        servers = (self.fast_path, self.general)
        starts = [len(server.echo.inputs) for server in servers]
        lines = [Line(server.frontend.port) for server in servers]
        for line in lines if self.warm else []:
            line.warm_up()
        for packet in packets[:-1]:
            for line in lines:
                line.send(packet)
            for line in lines if pause else []:
                line.read_until(partial(has_response, start=len(line.received)), pause)
            time.sleep(0.0 if pause else 0.001)
        for line in lines:
            line.send(packets[-1])
        for number, line in enumerate(lines):  # the second had its time while the first was read
            wait = patience / 2 if number and patience < 1.0 else patience
            if not glued:
                line.read_until(has_response, wait)
                line.send(SENTINEL)
            line.read_until(is_last, wait)
        for server, line in zip(servers, lines, strict=True):
            self._catch_up(server, line)
        outcomes = []
        for server, line, start in zip(servers, lines, starts, strict=True):
            line.close()
            inputs = [each for each in server.echo.inputs[start:] if each != _PROBE]
            outcomes.append(Outcome(self._normalize(line.received), line.end, inputs))
        return outcomes[0], outcomes[1]

    @staticmethod
    def _catch_up(server: Server, line: "Line") -> None:
        """Is the server silent or just slow? See that it, and its containers, got through what came before."""
        if line.end != "silent":
            return
        probe = Line(server.frontend.port)
        probe.send(post("ints", b'{"input": [%d]}' % int.from_bytes(_PROBE, "little")))
        assert probe.read_until(has_response, 10.0)
        probe.close()
        line.read_until(is_last, 0.005)

    def settle(self) -> None:
        """Let both come to rest."""
        time.sleep(0.02)
        self.converse([post("bare", b'{"input": [1]}')], False, 5.0)

    @staticmethod
    def _normalize(data: bytes) -> bytes:
        """Without times, and with query ids that count from 0 in their order.

        Between them may be those of a connection that was given up before.
        """
        numbers = {number: rank for rank, number in enumerate(sorted(set(map(int, _QUERY_ID.findall(data)))))}
        parts = []
        for head, body in responses(data):
            ids = _QUERY_ID.findall(body)
            body = _QUERY_ID.sub(lambda found: b'"query_id":+%d' % numbers[int(found[1])], body)
            length = sum(map(len, (*ids, *_WAITED.findall(body))))
            body = _WAITED.sub(b'"default_waited_millis":{}', body)
            head = _LENGTH.sub(lambda found: b"\r\nContent-Length: %d" % (int(found[1]) - length), head)  # noqa: B023
            parts += [_DATE.sub(b"\r\nDate: then", head), body]
        return b"".join(parts)


def is_last(data: bytes) -> bool:
    return data.endswith(_SENTINEL_END)


def _agree(one: Outcome, other: Outcome) -> bool:
    """Whether both are the same, or refused the same malformed request.

    When aiohttp's parser meets one, the sound requests that its handler has not taken by then are dropped: how many
    that are is a matter of time. So one may have answered fewer of those before it, but not other ones.
    """
    if one == other:
        return True
    if _PARSER_ERROR not in one.answers or _PARSER_ERROR not in other.answers:
        return False
    fewer, more = sorted((one, other), key=lambda outcome: len(outcome.answers.partition(_PARSER_ERROR)[0]))
    before, _, error = fewer.answers.partition(_PARSER_ERROR)
    all_before, _, same_error = more.answers.partition(_PARSER_ERROR)
    answers = list(responses(before))
    return (
        fewer.end == more.end
        and _without_quotation(error) == _without_quotation(same_error)
        and answers == list(responses(all_before))[: len(answers)]
        and not Counter(fewer.inputs) - Counter(more.inputs)
    )


def _without_quotation(error: bytes) -> bytes:
    """Return the reason that aiohttp gives for a malformed request, without the part of the request that it quotes."""
    return _LENGTH.sub(b"", error).partition(rb":\n\n  b")[0].rstrip(b':"}')


def message_ends(packets: Sequence[bytes]) -> list[int]:
    """Return where messages end, as far as that can be told."""
    stream = b"".join(packets)
    ends = []
    at = 0
    while (end := stream.find(b"\r\n\r\n", at)) >= 0:
        head = stream[at : end + 4]
        length = _LENGTH.search(head)
        at = end + 4 + (int(length[1]) if length else 0)
        if _CHUNKED.search(head) or at >= len(stream):
            break
        ends.append(at)
    return ends


def cut(packets: Sequence[bytes], places: Sequence[int]) -> list[bytes]:
    """The packets, cut in other places as well."""
    stream = b"".join(packets)
    cuts = sorted({0, *places, *itertools.accumulate(map(len, packets))})
    return [stream[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]


def responses(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Heads and bodies. What is no complete response comes last, as a head."""
    at = 0
    while head := _HEAD.match(data, at):
        length = _LENGTH.search(head[0])
        end = head.end() + (int(length[1]) if length else 0)
        if data.startswith(b"HTTP/", head.end()):  # to HEAD
            end = head.end()
        if end > len(data):
            break
        yield head[0], data[head.end() : end]
        at = end
    if at < len(data):
        yield data[at:], b""


def has_response(data: bytes, start: int = 0) -> bool:
    """Whether a complete response begins at `start`."""
    head, body = next(responses(data[start:]), (b"", b""))
    return bool(body) or head.endswith(b"\r\n\r\n")


class Line:
    """A client's connection."""

    def __init__(self, port: int, receive_bytes: int = 0) -> None:
        self.sock = socket.socket()
        if receive_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.end = "silent"

    def warm_up(self) -> None:
        self.send(b"GET /livez HTTP/1.1\r\nHost: s\r\n\r\n")
        assert self.read_until(has_response, 5.0)
        self.received = b""

    def send(self, data: bytes) -> None:
        try:
            self.sock.settimeout(10)
            self.sock.sendall(data)
        except ConnectionError:
            pass  # it closed the connection: we shall read so

    def read_until(self, done: Callable[[bytes], bool], patience: float) -> bool:
        """Read until what was received is `done`, the other end closes, or nothing came for `patience` seconds."""
        while self.end != "closed":
            if done(self.received):
                self.end = "open"
                return True
            self.end = "silent"
            self.sock.settimeout(patience)
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                return False
            except ConnectionError:
                data = b""
            if not data:
                self.end = "closed"
            self.received += data
        return False

    def close(self) -> None:
        self.sock.close()


def post(app: str, body: bytes, *headers: str, target: str = "", length: object = None) -> bytes:
    lines = [
        f"POST {target or f'/{app}/predict'} HTTP/1.1",
        "Host: clipper",
        *headers,
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def running_pair(folder: Path, **flags: Any) -> Iterator[Pair]:
    """Start both frontends with an application for each input type, and ``bare``, ``big`` and ``late``, which answer
    the default."""
    with ExitStack() as stack:
        servers = []
        for name, fast_path in (("fast_path", 1), ("general", 0)):
            redis = OwnRedis()
            stack.callback(redis.kill)
            redis.start()
            log = folder / f"{name}.log"
            frontend = stack.enter_context(running_frontend(redis.port, log, fast_lane=fast_path, **flags))
            for kind, model in MODELS.items():
                frontend.serve(kind, model, kind, slo_ms=60_000)
            for kind, app in MISSING_VALUES.items():
                wanted = Application(app, InputType.parse(kind), "default", 60_000_000, missing_values=True)
                frontend.configure(
                    *changes.put_application(wanted), changes.put_link(app, ModelId.parse(MODELS[kind]).name)
                )
            frontend.serve("late", "late:1", "doubles", slo_ms=10)
            frontend.configure(
                *changes.put_application(Application("bare", InputType.DOUBLES, "[1, 2]", 1000)),
                *changes.put_application(Application("big", InputType.DOUBLES, BIG_OUTPUT, 1000)),
            )
            for app, sticky_key in STICKY.items():
                links = (Link("echo-doubles"), Link("gone"))
                selection = Selection("split", {"sticky_key": sticky_key}, 1, links)
                wanted = Application(app, InputType.DOUBLES, "default", 60_000_000, selection=selection)
                frontend.configure(*changes.put_application(wanted))
            echo = stack.enter_context(Echo(frontend, MODELS))
            silent = RawContainer(frontend.rpc_port)
            stack.callback(silent.close)
            silent.join(wire.Metadata(ModelId.parse("late:1"), InputType.DOUBLES, 4, "late"))
            frontend.wait_for_replicas(len(MODELS) + 1)
            servers.append(Server(frontend, echo))
        pair = Pair(*servers)
        pair.converse([post("late", b'{"input": [1]}')], False, 5.0)  # from now on its container is busy
        yield pair
