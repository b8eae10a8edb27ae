"""The ZeroMQ side of the query frontend: a ROUTER to which model containers connect, and who of them lives.

Busy and gone are told apart by the transport: libzmq answers ZMTP heartbeats by itself, so a container whose model
computes for minutes keeps its connection and one that was stopped or unplugged loses it. A lost connection shows as
a refused send (ROUTER_MANDATORY); so that it shows at once, every disconnection that the socket's monitor reports
makes us send a keep-alive to all.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from clipper_common import constants, wire
from clipper_common.errors import WireError
from clipper_common.link import tcp_address
from clipper_common.multipart import receive_frames, send_frames
from clipper_common.wire import HeartbeatType, Metadata, PredictRequest, Response
from query_frontend.metrics import Histogram

logger = logging.getLogger(__name__)

_MESSAGES_PER_TURN: Final = 64
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
"""As plain numbers: flags that are Python enums cost more than the call."""
QUICK_SECONDS: Final = 0.002
"""A model that takes less gets its next batch a turn later, as `task_executor` says."""
_TICK_SECONDS: Final = 1.0
_PROBE_DELAYS_SECONDS: Final = (0.0, 0.02, 0.2)
"""After a disconnection: libzmq reports it a little before its ROUTER knows."""
_MAX_MESSAGE_BYTES: Final = 1 << 30


@dataclass(eq=False)
class Connection:
    """A registered container."""

    number: int
    identity: bytes
    metadata: Metadata
    heard_at: float
    asked_at: float = field(default=0.0)
    """When it was sent its last batch."""
    busy: bool = field(default=False)
    """Whether a batch is with it: then it is not expected to speak."""
    follows_frontends: bool = field(default=False)
    """Whether it asked which there are: then it is told of changes."""

    @property
    def rpc_version(self) -> int:
        return self.metadata.rpc_version

    def __str__(self) -> str:
        return f"replica {self.metadata.replica_id or self.number} of {self.metadata.model}"


@dataclass
class RpcEvents:
    """Whom the RPC server reports to."""

    joined: Callable[[Connection], str | None]
    """A container introduced itself. A text refuses it."""
    left: Callable[[Connection, str], None]
    """It is gone, and why."""
    answered: Callable[[Connection, Response], None]
    draining: Callable[[Connection], None]
    """It will take no more batches, and waits for `RpcServer.dismiss`."""


class RpcServer:
    def __init__(self, host: str, port: int, events: RpcEvents, send_micros: Histogram) -> None:
        self._address = tcp_address("*" if host == "0.0.0.0" else host, port)
        self._events = events
        self._send_micros = send_micros
        self._connections: dict[bytes, Connection] = {}
        self._frontends = [""]
        """Addresses: this one's, which may be unknown, and those of the others."""
        self._numbers = 0
        self._yields = False
        """Whether this turn brought the answer to a batch that was quick."""
        self._complained: dict[str, float] = {}

    # --- life ---

    def start(self) -> int:
        """Listen; on which port. Raises `zmq.ZMQError` when the address is taken."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        _configure(self._socket)
        self._socket.setsockopt(zmq.IPV6, "[" in self._address)
        self._socket.bind(self._address)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._loop.add_reader(self._socket.FD, self._on_readable)
        self._loop.add_reader(self._monitor.FD, self._on_disconnections)
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        self._loop.call_soon(self._on_readable)  # the descriptors are edge-triggered: look once
        self._loop.call_soon(self._on_disconnections)
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return int(endpoint.rstrip(b"\0").rpartition(b":")[2])

    def stop(self) -> None:
        self._ticker.cancel()
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._context.term()

    # --- what the task executor asks for ---

    def send_batch(self, connection: Connection, request: PredictRequest) -> bool:
        """Send a batch; False when the container is gone or takes nothing, and then it has left."""
        started = time.monotonic()
        sent = self._send(connection, wire.encode_predict_request(request, connection.rpc_version))
        self._send_micros.add((time.monotonic() - started) * 1e6)
        if sent is False:
            self._forget(connection, "it takes no more messages")
        connection.asked_at = started
        connection.busy = bool(sent)
        return connection.busy

    def expel(self, connection: Connection, reason: str) -> None:
        """Forget a container that misbehaves. It may introduce itself again."""
        logger.error("%s is expelled: %s", connection, reason)
        self._forget(connection, reason)

    def dismiss(self, connection: Connection) -> None:
        """Tell a draining container that it may go, and forget it."""
        self._send(connection, wire.encode_drain_reply())
        self._forget(connection, "it was stopped")

    def announce_frontends(self, addresses: list[str]) -> None:
        """Let containers know which frontends there are: this one first, all of them known but perhaps this one."""
        if addresses == self._frontends:
            return
        self._frontends = addresses
        for connection in list(self._connections.values()):
            if connection.follows_frontends:
                self._send(connection, wire.encode_frontends(addresses))

    # --- receiving ---

    def _on_readable(self) -> None:
        self._yields = False
        for _ in range(_MESSAGES_PER_TURN):
            try:
                frames = receive_frames(self._socket)
            except zmq.Again:
                break
            self._receive(frames[0], frames[1:])
            if not self._is_readable():
                break
        else:
            self._loop.call_soon(self._on_readable)  # let others have a turn
        if self._yields:
            # Whoever waits for this core has it before the next batch is drawn, and what comes of it goes along. So
            # batches grow where cores are short; where none is, this takes a microsecond.
            os.sched_yield()

    def _is_readable(self) -> bool:
        """Half as dear as to find nothing."""
        return bool(int(self._socket.get(_EVENTS)) & _POLLIN)

    def _receive(self, identity: bytes, frames: Sequence[bytes]) -> None:
        connection = self._connections.get(identity)
        try:
            message = wire.decode_from_container(frames)
        except WireError as error:
            self._complain(f"a container sent what makes no sense: {error}")
            if connection is not None:
                self._forget(connection, f"it sent what makes no sense: {error}")
            return
        if connection is None:
            self._receive_from_stranger(identity, message)
            return
        connection.heard_at = time.monotonic()
        match message:
            case Response():
                connection.busy = False
                if len(message.outputs) > 1 and connection.heard_at - connection.asked_at < QUICK_SECONDS:
                    self._yields = True
                self._events.answered(connection, message)
            case wire.Drain():
                self._events.draining(connection)
            case wire.FrontendsRequest():
                connection.follows_frontends = True
                self._send(connection, wire.encode_frontends(self._frontends))
            case _:  # a heartbeat, or metadata that we have
                self._send_keep_alive(connection)

    def _receive_from_stranger(self, identity: bytes, message: wire.FromContainer) -> None:
        match message:
            case Metadata():
                self._register(identity, message)
            case wire.Drain():
                self._send_to(identity, wire.encode_drain_reply())
            case wire.Heartbeat():
                reply = wire.encode_heartbeat_reply(HeartbeatType.REQUEST_METADATA, wire.RPC_VERSION_3)
                self._send_to(identity, reply)
            case wire.FrontendsRequest():
                self._send_to(identity, wire.encode_frontends(self._frontends))
            case Response():
                pass  # of a batch that was given to someone else meanwhile

    def _register(self, identity: bytes, metadata: Metadata) -> None:
        for other in list(self._connections.values()):
            if metadata.replica_id is not None and other.metadata.replica_id == metadata.replica_id:
                self._forget(other, "it connected anew")
        connection = Connection(self._numbers, identity, metadata, time.monotonic())
        refusal = self._events.joined(connection)
        if refusal is not None:
            self._complain(f"a container of {metadata.model} is refused: {refusal}")
            if metadata.rpc_version >= wire.RPC_VERSION_4:
                self._send_to(identity, wire.encode_refused(refusal))
            return
        self._numbers += 1
        self._connections[identity] = connection
        if metadata.rpc_version >= wire.RPC_VERSION_4:
            self._send_keep_alive(connection)  # version 3 knows no acknowledgement

    # --- sending ---

    def _send_keep_alive(self, connection: Connection) -> None:
        self._send(connection, wire.encode_heartbeat_reply(HeartbeatType.KEEP_ALIVE, connection.rpc_version))

    def _send(self, connection: Connection, frames: Sequence[bytes]) -> bool | None:
        sent = self._send_to(connection.identity, frames)
        if sent is None:
            self._forget(connection, "its connection broke")
        return sent

    def _send_to(self, identity: bytes, frames: Sequence[bytes]) -> bool | None:
        """Whether it was sent; None when there is nobody of that identity any more."""
        try:
            send_frames(self._socket, [identity, *frames])
            sent: bool | None = True
        except zmq.Again:
            sent = False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            sent = None
        # A send may have swallowed the edge that says that something can be read.
        if self._is_readable():
            self._loop.call_soon(self._on_readable)
        return sent

    # --- who lives ---

    def _on_disconnections(self) -> None:
        lost = False
        with contextlib.suppress(zmq.Again):
            while True:
                recv_monitor_message(self._monitor, zmq.NOBLOCK)
                lost = True
        if lost:
            for delay in _PROBE_DELAYS_SECONDS:
                self._loop.call_later(delay, self._probe_all)

    def _probe_all(self) -> None:
        if self._socket.closed:
            return
        for connection in list(self._connections.values()):
            self._send_keep_alive(connection)

    def _tick(self) -> None:
        """Once a second. A version 3 container is not spoken to: idle, it heartbeats only when it hears nothing; busy,
        it does not listen, and its pipe would fill."""
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.busy:
                if connection.rpc_version >= wire.RPC_VERSION_4:
                    self._send_keep_alive(connection)
            elif now - connection.heard_at > constants.SILENCE_SECONDS:
                self._forget(connection, f"it was silent for {constants.SILENCE_SECONDS:.0f} seconds")

    def _forget(self, connection: Connection, reason: str) -> None:
        if self._connections.get(connection.identity) is connection:
            del self._connections[connection.identity]
            self._events.left(connection, reason)

    def _complain(self, text: str) -> None:
        """Log, but the same thing only once in a while: whoever is refused comes back each second."""
        now = time.monotonic()
        if now - self._complained.get(text, -60.0) >= 60.0:
            if len(self._complained) > 100:
                self._complained.clear()
            self._complained[text] = now
            logger.warning("%s", text)


def _configure(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, constants.TRANSPORT_HEARTBEAT_MILLIS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, constants.TRANSPORT_TIMEOUT_MILLIS)
