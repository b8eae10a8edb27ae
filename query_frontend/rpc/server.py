"""The RPC of the query frontend: model containers connect to it, and who of them lives.

Busy and gone are told apart by the transport: libzmq in the container answers ZMTP heartbeats by itself, so one whose
model computes for minutes keeps its connection, and one that was stopped or unplugged loses it. Where libzmq is too old
for them, a batch that takes far longer than any before must do.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from clipper_common import constants, wire
from clipper_common.datatypes import ModelId
from clipper_common.errors import MetadataError, WireError
from clipper_common.wire import HeartbeatType, Metadata, PredictRequest, Response
from query_frontend.monitoring.metrics import Histogram
from query_frontend.rpc.router import Peer, PeerEvents, Router

logger = logging.getLogger(__name__)

QUICK_SECONDS: Final = 0.002
"""A model that takes less gets its next batch a turn later, as `serving.served_model` says."""
LEAST_PATIENCE_SECONDS: Final = 120.0
_PATIENCE: Final = 20.0
"""As many times the longest batch of its model a replica that answers no pings may be silent with one."""
_TICK_SECONDS: Final = 1.0
_COMPLAINT_SECONDS: Final = 60.0
_MAX_COMPLAINTS: Final = 100
_MAX_LOST: Final = 1000
_MAX_UNASKED_BYTES: Final = 1 << 20
"""The longest message of a container without a batch, whose messages are short."""

Name = tuple[ModelId, str | None]
"""By which a replica is known again after a reconnect; all of version 3 of a model version have the same."""


@dataclass(eq=False)
class Connection:
    """A registered container."""

    number: int
    peer: Peer
    metadata: Metadata
    heard_at: float
    asked_at: float = field(default=0.0)
    """When it was sent its last batch."""
    awaited: int | None = field(default=None)
    """The message id of the batch that is with it, if one is: then it is not expected to speak."""
    longest_seconds: float = field(default=0.0)
    """How long it took for a batch at most; 0 before the first, which may be a slow one."""
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
    """It answered the batch that it was sent last."""
    draining: Callable[[Connection], None]
    """It will take no more batches, and waits for `RpcServer.release`."""
    held: Callable[[int], None] = lambda change: None
    """Called with the change of the bytes that are kept of unfinished answers."""


class RpcServer:
    def __init__(self, host: str, port: int, send_micros: Histogram) -> None:
        self._host = host
        self._port = port
        self._router = Router(PeerEvents(self._on_messages, self._on_lost, self._warn_throttled, self._on_held))
        self._send_micros = send_micros
        self._connections: dict[Peer, Connection] = {}
        self._frontends = [""]
        """Addresses: this one's, which may be unknown, and those of the others."""
        self._numbers = 0
        self._yields = False
        """Whether this turn brought the answer to a batch that was quick."""
        self._lost: dict[int, Name] = {}
        """The message ids of batches that were given up with their replicas, which may answer them yet; newest last."""
        self._complained: dict[str, float] = {}

    # --- life ---

    def start(self, events: RpcEvents) -> int:
        """Listen, report to `events` from now on, and return the port. Raises `OSError` when the address is taken."""
        self._events = events
        self._loop = asyncio.get_running_loop()
        port = self._router.start(self._host, self._port)
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        return port

    def stop(self) -> None:
        self._ticker.cancel()
        self._router.stop()

    # --- what the task executor asks for ---

    def send_batch(self, connection: Connection, request: PredictRequest) -> bool:
        """Send a batch; False when the container is gone, and then it has left."""
        started = time.monotonic()
        sent = connection.peer.send(wire.encode_predict_request(request, connection.rpc_version))
        self._send_micros.add((time.monotonic() - started) * 1e6)
        if sent:
            connection.asked_at = started
            connection.awaited = request.message_id
        return sent

    def disconnect(self, connection: Connection, reason: str) -> None:
        """Disconnect a container that misbehaves. It may connect again, and introduce itself."""
        logger.error("%s is disconnected: %s", connection, reason)
        self._forget(connection, reason)
        connection.peer.close()

    def release(self, connection: Connection) -> None:
        """Tell a draining container that it may go, and forget it."""
        connection.peer.send(wire.encode_drain_reply())
        self._forget(connection, "it was stopped")

    def announce_frontends(self, addresses: list[str]) -> None:
        """Let containers know which frontends there are: this one first, all of them known but perhaps this one."""
        if addresses == self._frontends:
            return
        self._frontends = addresses
        for connection in list(self._connections.values()):
            if connection.follows_frontends:
                connection.peer.send(wire.encode_frontends(addresses))

    # --- receiving ---

    def _on_messages(self, peer: Peer, messages: list[list[bytes]]) -> None:
        self._yields = False
        for frames in messages:
            if not peer.closed:
                self._receive(peer, frames)
        if self._yields:
            # Whoever waits for this core has it before the next batch is drawn, and what comes of it goes along. So
            # batches grow where cores are short; where none is, this takes a microsecond.
            os.sched_yield()

    def _on_held(self, peer: Peer, held: int, change: int) -> None:
        self._events.held(change)
        connection = self._connections.get(peer)
        if connection is None or connection.awaited is not None or held <= _MAX_UNASKED_BYTES:
            return
        if _name(connection.metadata) not in self._lost.values():  # or it may answer what it was asked before
            self.disconnect(connection, f"it sends {held} bytes or more, and has no batch")

    def _receive(self, peer: Peer, frames: Sequence[bytes]) -> None:
        connection = self._connections.get(peer)
        try:
            message = wire.decode_from_container(frames)
        except WireError as error:
            if connection is not None:
                self.disconnect(connection, f"it sent what makes no sense: {error}")
                return
            self._warn_throttled(f"a container sent what makes no sense: {error}")
            if isinstance(error, MetadataError) and error.rpc_version >= wire.RPC_VERSION_4:
                peer.send(wire.encode_refused(f"its metadata cannot be accepted: {error}"))
            return
        if connection is None:
            self._receive_from_stranger(peer, message)
            return
        connection.heard_at = time.monotonic()
        match message:
            case Response():
                self._receive_answer(connection, message)
            case wire.Drain():
                self._events.draining(connection)
            case wire.FrontendsRequest():
                connection.follows_frontends = True
                peer.send(wire.encode_frontends(self._frontends))
            case _:  # a heartbeat, or metadata that we have
                self._send_keep_alive(connection)

    def _receive_answer(self, connection: Connection, response: Response) -> None:
        if response.message_id != connection.awaited:
            self._judge(connection, response.message_id)
            return
        connection.awaited = None
        seconds = connection.heard_at - connection.asked_at
        if seconds > connection.longest_seconds:
            connection.longest_seconds = seconds
        if len(response.outputs) > 1 and seconds < QUICK_SECONDS:
            self._yields = True
        self._events.answered(connection, response)

    def _judge(self, connection: Connection, message_id: int) -> None:
        """Pass over an answer to a batch that this replica was given in an earlier registration; else disconnect it.

        Who answers what it was not asked may answer another batch than it believes, so none of its answers counts.
        """
        if self._lost.get(message_id) == _name(connection.metadata):
            del self._lost[message_id]
            return
        given = "none" if connection.awaited is None else f"batch {connection.awaited}"
        self.disconnect(connection, f"it answered batch {message_id}, and has {given}")

    def _receive_from_stranger(self, peer: Peer, message: wire.FromContainer) -> None:
        match message:
            case Metadata():
                self._register(peer, message)
            case wire.Drain():
                peer.send(wire.encode_drain_reply())
            case wire.Heartbeat():
                peer.send(wire.encode_heartbeat_reply(HeartbeatType.REQUEST_METADATA, wire.RPC_VERSION_3))
            case wire.FrontendsRequest():
                peer.send(wire.encode_frontends(self._frontends))
            case Response():
                pass  # of a batch that was given to someone else meanwhile

    def _register(self, peer: Peer, metadata: Metadata) -> None:
        connection = Connection(self._numbers, peer, metadata, time.monotonic())
        same = [other for other in self._connections.values() if _is_same_replica(other.metadata, metadata)]
        if any(other.metadata.key != metadata.key for other in same):
            refusal: str | None = f"another container is connected with its replica id, {metadata.replica_id}"
        else:
            refusal = self._events.joined(connection)
        if refusal is not None:
            self._warn_throttled(f"a container of {metadata.model} is refused: {refusal}")
            if metadata.rpc_version >= wire.RPC_VERSION_4:
                peer.send(wire.encode_refused(refusal))
            return
        self._numbers += 1
        # Once it is accepted: who is refused takes nobody's place.
        for other in same:
            self._forget(other, "it connected anew")
        self._connections[peer] = connection
        peer.trust()
        if metadata.rpc_version >= wire.RPC_VERSION_4:
            self._send_keep_alive(connection)  # version 3 knows no acknowledgement

    @staticmethod
    def _send_keep_alive(connection: Connection) -> None:
        connection.peer.send(wire.encode_heartbeat_reply(HeartbeatType.KEEP_ALIVE, connection.rpc_version))

    # --- who lives ---

    def _on_lost(self, peer: Peer, reason: str) -> None:
        connection = self._connections.get(peer)
        if connection is not None:
            self._forget(connection, reason)

    def _tick(self) -> None:
        """Once a second. A version 3 container is not spoken to: idle, it heartbeats only when it hears nothing; busy,
        it does not listen, and its pipe would fill."""
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        now = time.monotonic()
        self._router.tend(now)
        for connection in list(self._connections.values()):
            if connection.awaited is not None:
                if connection.rpc_version >= wire.RPC_VERSION_4:
                    self._send_keep_alive(connection)
                if self._router.listened:
                    self._check_patience(connection, now)
            elif self._router.listened and now - connection.heard_at > constants.SILENCE_SECONDS:
                self._forget(connection, f"it was silent for {constants.SILENCE_SECONDS:.0f} seconds")

    def _check_patience(self, connection: Connection, now: float) -> None:
        """Disconnect who is silent with a batch for far longer than its model ever took, where no ping tells.

        The libzmq of a process that computes connects again by itself, and it is registered when it has answered. That
        of a process that was stopped does not.
        """
        silence = now - max(connection.heard_at, connection.asked_at)
        if silence < LEAST_PATIENCE_SECONDS or connection.peer.knows_pings or not connection.longest_seconds:
            return
        model = connection.metadata.model
        longest = max(other.longest_seconds for other in self._connections.values() if other.metadata.model == model)
        if silence > _PATIENCE * longest:
            took = f"{model} never took more than {longest:.1f} s"
            self.disconnect(connection, f"it has been silent for {silence:.0f} s with a batch, and {took}")

    def _forget(self, connection: Connection, reason: str) -> None:
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            connection.peer.distrust()
            if connection.awaited is not None:
                self._lost[connection.awaited] = _name(connection.metadata)
                if len(self._lost) > _MAX_LOST:
                    del self._lost[next(iter(self._lost))]
            self._events.left(connection, reason)

    def _warn_throttled(self, text: str) -> None:
        """Log, but the same thing only once in a while, since whoever is refused comes back each second; and not more
        than so many things, since anyone may connect."""
        now = time.monotonic()
        if len(self._complained) >= _MAX_COMPLAINTS:
            recent = now - _COMPLAINT_SECONDS
            self._complained = {known: said_at for known, said_at in self._complained.items() if said_at > recent}
        if now - self._complained.get(text, -inf) >= _COMPLAINT_SECONDS and len(self._complained) < _MAX_COMPLAINTS:
            self._complained[text] = now
            logger.warning("%s", text)


def _name(metadata: Metadata) -> Name:
    return metadata.model, metadata.replica_id


def _is_same_replica(one: Metadata, other: Metadata) -> bool:
    """A replica id belongs to a model version: another may have the same by chance, or by intent."""
    return one.replica_id is not None and (one.replica_id, one.model) == (other.replica_id, other.model)
