"""The RPC server of the query frontend: registration, batches and liveness of model containers.

The transport tells busy containers from dead ones: libzmq answers ZMTP heartbeats in a thread of its own, so a
container whose model computes for minutes keeps its connection, and one that was stopped or unplugged loses it. If its
libzmq is too old for heartbeats, a container counts as dead when a batch takes far longer than any before.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Final

from clipper_common import constants, wire
from clipper_common.datatypes import ModelId
from clipper_common.errors import MetadataError, WireError
from clipper_common.wire import HeartbeatType, Metadata, PredictRequest, Response, encode_predict_request
from query_frontend.monitoring.metric_kinds import Histogram
from query_frontend.rpc.peer import Peer, PeerEvents
from query_frontend.rpc.router import Router

logger = logging.getLogger(__name__)

QUICK_SECONDS: Final = 0.002
"""A batch that takes less is quick: the next one is sent an iteration of the event loop later: see `served_model`."""
LEAST_PATIENCE_SECONDS: Final = 120.0
_PATIENCE: Final = 20.0
"""The time that a replica without ZMTP heartbeats may take for a batch, as a multiple of its model's longest batch."""
_TICK_SECONDS: Final = 1.0
_WARNING_SECONDS: Final = 60.0
_MAX_WARNINGS: Final = 100
_MAX_LOST: Final = 1000
_MAX_UNASKED_BYTES: Final = 1 << 20
"""The most bytes that may be kept of an unfinished message of a container that has no batch."""

Name = tuple[ModelId, str | None]
"""Identifies a replica across reconnects; all version 3 replicas of a model version have the same."""


@dataclass(eq=False)
class ReplicaConnection:
    """A registered container."""

    number: int
    peer: Peer
    metadata: Metadata
    heard_at: float
    asked_at: float = field(default=0.0)
    """Monotonic time at which the last batch was sent."""
    awaited: int | None = field(default=None)
    """The message id of the batch in flight, or None. With one, the container is not expected to send heartbeats."""
    missing: set[int] = field(default_factory=set)
    """The positions of the inputs that are not answered yet, of a batch that may be answered in parts."""
    num_inputs: int = field(default=0)
    """The number of inputs in the batch that was sent last."""
    longest_seconds: float = field(default=0.0)
    """Seconds that its longest batch took; 0 before the first, which may be a slow one."""
    replaces: bool = field(default=False)
    """Whether it takes the place of an earlier connection of the same container."""
    follows_frontends: bool = field(default=False)
    """Whether the container has requested the list of frontends, and is sent each change of it."""

    @property
    def rpc_version(self) -> int:
        return self.metadata.rpc_version

    def silent_seconds(self, now: float) -> float:
        return now - max(self.heard_at, self.asked_at)

    def note_answered(self, positions: Sequence[int]) -> bool:
        """Note which inputs of the batch in flight are answered. Return False if it cannot be these."""
        answered = set(positions)
        if not answered or len(answered) != len(positions) or not answered <= self.missing:
            return False
        self.missing -= answered
        return True

    def __str__(self) -> str:
        return f"replica {self.metadata.replica_id or self.number} of {self.metadata.model_id}"


@dataclass
class RpcEvents:
    """The callbacks of the RPC server."""

    replica_joined: Callable[[ReplicaConnection], str | None]
    """Called when a container registers. Returns the reason to refuse it, or None to accept it."""
    replica_lost: Callable[[ReplicaConnection, str], None]
    """Called when a registration ends, with the reason."""
    batch_answered: Callable[[ReplicaConnection, Response], None]
    """Called with the answer to the batch that was sent last, or with a part of it: while
    `ReplicaConnection.awaited` is set, others follow."""
    replica_draining: Callable[[ReplicaConnection], None]
    """Called when a container asks for no more batches. It waits for `RpcServer.release`."""
    held: Callable[[int], None] = lambda change: None
    """Called with the change in the number of bytes that are kept of unfinished answers."""


class RpcServer:
    """The connections of model containers: it registers containers, sends batches, and ends registrations.

    It owns the router with its sockets, and a `ReplicaConnection` for each registered container. The executor sends
    batches; sockets, and a timer once a second, drive the rest. It reports to the callbacks in `RpcEvents`, and all of
    this happens on the event loop on which `start` was called.
    """

    def __init__(self, host: str, port: int, send_micros: Histogram) -> None:
        self._host = host
        self._port = port
        self._router = Router(PeerEvents(self._on_messages, self._on_lost, self._warn_throttled, self._on_held))
        self._send_micros = send_micros
        self._connections: dict[Peer, ReplicaConnection] = {}
        self._named: dict[Name, ReplicaConnection] = {}
        """The registered containers that have a replica id."""
        self._frontends = [""]
        """The addresses of all frontends, this one's first; it is empty if it is not known."""
        self._numbers = 0
        self._yields = False
        """Whether an answer to a quick batch was received in this iteration of the event loop."""
        self._lost: dict[int, Name] = {}
        """Message ids of batches in flight when their replicas left, which may still be answered; newest last."""
        self._warned_at: dict[str, float] = {}

    # --- lifetime ---

    def start(self, events: RpcEvents) -> int:
        """Listen, report to `events` from now on, and return the port. Raises `OSError` if the address is in use."""
        self._events = events
        self._loop = asyncio.get_running_loop()
        port = self._router.start(self._host, self._port)
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        return port

    def stop(self) -> None:
        self._ticker.cancel()
        self._router.stop()

    # --- called by the executor ---

    def send_batch(self, connection: ReplicaConnection, request: PredictRequest) -> bool:
        """Send a batch. Return False if the connection is lost; `RpcEvents.replica_lost` has been called then."""
        started = monotonic()
        sent = connection.peer.send(encode_predict_request(request, connection.rpc_version))
        self._send_micros.add((monotonic() - started) * 1e6)
        if sent:
            connection.asked_at = started
            connection.awaited = request.message_id
            connection.num_inputs = len(request.inputs)
            if request.remaining_micros is not None:
                connection.missing = set(range(len(request.inputs)))
        return sent

    def disconnect(self, connection: ReplicaConnection, reason: str) -> None:
        """Disconnect a container that violates the protocol. It may connect and register again."""
        logger.error("%s is disconnected: %s", connection, reason)
        self._remove(connection, reason)
        connection.peer.close()

    def release(self, connection: ReplicaConnection) -> None:
        """Tell a draining container that it may stop, and end its registration."""
        connection.peer.send(wire.encode_drain_reply())
        self._remove(connection, "it was stopped")

    def refuse(self, connection: ReplicaConnection, reason: str) -> None:
        """End the registration of a container, which may ask for another one later."""
        self._remove(connection, reason)
        self._tell_refused(connection.peer, connection.metadata, reason)

    def _tell_refused(self, peer: Peer, metadata: Metadata, reason: str) -> None:
        self._warn_throttled(f"a container of {metadata.model_id} is refused: {reason}", reason)
        if metadata.rpc_version >= wire.RPC_VERSION_4:
            peer.send(wire.encode_refused(reason))

    def announce_frontends(self, addresses: list[str]) -> None:
        """Send the list of frontends to the containers that follow it. The first address is this one's, or empty."""
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
            # Yield the CPU, so that the queries that other processes send meanwhile join the next batch. Batches grow
            # on a machine whose cores are busy; on an idle one, this takes a microsecond.
            os.sched_yield()

    def _on_held(self, peer: Peer, held: int, change: int) -> None:
        self._events.held(change)
        connection = self._connections.get(peer)
        if connection is None or connection.awaited is not None or held <= _MAX_UNASKED_BYTES:
            return
        if _name(connection.metadata) not in self._lost.values():  # otherwise it may be answering one of those
            self.disconnect(connection, f"it sends {held} bytes or more, and has no batch")

    def _receive(self, peer: Peer, frames: Sequence[bytes]) -> None:
        connection = self._connections.get(peer)
        message_id = wire.answered_message_id(frames)
        if message_id is not None and (connection is None or message_id != connection.awaited):
            if connection is not None:  # otherwise its batch was sent to another replica meanwhile
                self._handle_unexpected_answer(connection, message_id)
            return
        try:
            message = wire.decode_from_container(frames, 0 if connection is None else connection.num_inputs)
        except WireError as error:
            if connection is not None:
                self.disconnect(connection, f"it sent what makes no sense: {error}")
                return
            self._warn_throttled(f"a container sent what makes no sense: {error}")
            if isinstance(error, MetadataError) and error.rpc_version >= wire.RPC_VERSION_4:
                peer.send(wire.encode_refused(f"its metadata cannot be accepted: {error}"))
            return
        if connection is None:
            self._receive_from_unregistered(peer, message)
            return
        connection.heard_at = monotonic()
        match message:
            case Response():
                self._receive_answer(connection, message)
            case wire.Drain():
                self._events.replica_draining(connection)
            case wire.FrontendsRequest():
                connection.follows_frontends = True
                peer.send(wire.encode_frontends(self._frontends))
            case _:  # a heartbeat, or metadata that are known
                self._send_keep_alive(connection)

    def _receive_answer(self, connection: ReplicaConnection, response: Response) -> None:
        if response.positions is not None:
            if not connection.note_answered(response.positions):
                self.disconnect(connection, "it answered inputs of its batch that it was not sent, or had answered")
                return
            if connection.missing:
                self._events.batch_answered(connection, response)
                return
        connection.awaited = None
        seconds = connection.heard_at - connection.asked_at
        if seconds > connection.longest_seconds:
            connection.longest_seconds = seconds
        if len(response.outputs) > 1 and seconds < QUICK_SECONDS:
            self._yields = True
        self._events.batch_answered(connection, response)

    def _handle_unexpected_answer(self, connection: ReplicaConnection, message_id: int) -> None:
        """Ignore the answer to a batch of an earlier registration of this replica; otherwise disconnect the container.

        A container that answers a batch that it was not sent may confuse batches, so none of its answers can be used.
        """
        connection.heard_at = monotonic()
        if self._lost.get(message_id) == _name(connection.metadata):
            del self._lost[message_id]
            return
        given = "none" if connection.awaited is None else f"batch {connection.awaited}"
        self.disconnect(connection, f"it answered batch {message_id}, and has {given}")

    def _receive_from_unregistered(self, peer: Peer, message: wire.FromContainer) -> None:
        match message:
            case Metadata():
                self._register(peer, message)
            case wire.Drain():
                peer.send(wire.encode_drain_reply())
            case wire.Heartbeat():
                peer.send(wire.encode_heartbeat_reply(HeartbeatType.REQUEST_METADATA, wire.RPC_VERSION_3))
            case wire.FrontendsRequest():
                peer.send(wire.encode_frontends(self._frontends))

    def _register(self, peer: Peer, metadata: Metadata) -> None:
        connection = ReplicaConnection(self._numbers, peer, metadata, monotonic())
        earlier = self._named.get(_name(metadata))
        connection.replaces = earlier is not None
        if earlier is not None and earlier.metadata.key != metadata.key:
            refusal: str | None = f"another container is connected with its replica id, {metadata.replica_id}"
        else:
            refusal = self._events.replica_joined(connection)
        if refusal is not None:
            self._tell_refused(peer, metadata, refusal)
            return
        self._numbers += 1
        # Only now, since a container that is refused must not replace another.
        if earlier is not None:
            self._remove(earlier, "it connected anew")
        self._connections[peer] = connection
        if metadata.replica_id is not None:
            self._named[_name(metadata)] = connection
        self._router.leave_room_for(len(self._connections))
        peer.trust()
        if peer.closed:  # the place that it took may have been made by disconnecting the oldest stranger, itself
            self._remove(connection, "its connection was given up")
            return
        if metadata.rpc_version >= wire.RPC_VERSION_4:
            self._send_keep_alive(connection)  # version 3 has no acknowledgement

    @staticmethod
    def _send_keep_alive(connection: ReplicaConnection) -> None:
        takes_turns = connection.metadata.measures_turns
        reply = wire.encode_heartbeat_reply(HeartbeatType.KEEP_ALIVE, connection.rpc_version, takes_turns)
        connection.peer.send(reply)

    # --- liveness ---

    def _on_lost(self, peer: Peer, reason: str) -> None:
        connection = self._connections.get(peer)
        if connection is not None:
            self._remove(connection, reason)

    def _tick(self) -> None:
        """Check the liveness of all containers, once a second.

        Version 3 containers are sent no heartbeats: idle ones send theirs only while they receive nothing, and busy
        ones do not read, so that their queue would fill.
        """
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        now = monotonic()
        self._router.check_liveness(now)
        longest: dict[ModelId, float] = {}
        for connection in list(self._connections.values()):
            if connection.awaited is not None:
                if connection.rpc_version >= wire.RPC_VERSION_4:
                    self._send_keep_alive(connection)
                if self._router.listened and _tries_patience(connection, now):
                    longest = longest or self._longest_seconds()
                    self._check_patience(connection, now, longest)
            elif self._router.listened and now - connection.heard_at > constants.SILENCE_SECONDS:
                self._remove(connection, f"it was silent for {constants.SILENCE_SECONDS:.0f} seconds")

    def _longest_seconds(self) -> dict[ModelId, float]:
        """Return the seconds that the longest batch of each model version took."""
        longest: dict[ModelId, float] = {}
        for connection in self._connections.values():
            model = connection.metadata.model_id
            longest[model] = max(longest.get(model, 0.0), connection.longest_seconds)
        return longest

    def _check_patience(self, connection: ReplicaConnection, now: float, longest: Mapping[ModelId, float]) -> None:
        """Disconnect a container without ZMTP heartbeats whose batch takes far longer than any of its model before.

        If its process still computes, libzmq reconnects by itself, and the container registers after its batch. If the
        process was stopped, it does not.
        """
        silence, model = connection.silent_seconds(now), connection.metadata.model_id
        if silence > _PATIENCE * longest[model]:
            took = f"{model} never took more than {longest[model]:.1f} s"
            self.disconnect(connection, f"it has been silent for {silence:.0f} s with a batch, and {took}")

    def _remove(self, connection: ReplicaConnection, reason: str) -> None:
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            self._named.pop(_name(connection.metadata), None)
            self._router.leave_room_for(len(self._connections))
            connection.peer.distrust()
            if connection.awaited is not None:
                self._lost[connection.awaited] = _name(connection.metadata)
                if len(self._lost) > _MAX_LOST:
                    del self._lost[next(iter(self._lost))]
            self._events.replica_lost(connection, reason)

    def _warn_throttled(self, text: str, kind: str = "") -> None:
        """Log a warning, but each kind at most once in `_WARNING_SECONDS`, and at most `_MAX_WARNINGS` kinds.

        The kind is the text itself if it is not given. A refused container retries each second, and any program may
        connect.
        """
        now, kind = monotonic(), kind or text
        if len(self._warned_at) >= _MAX_WARNINGS:
            recent = now - _WARNING_SECONDS
            self._warned_at = {known: said_at for known, said_at in self._warned_at.items() if said_at > recent}
        if now - self._warned_at.get(kind, -inf) >= _WARNING_SECONDS and len(self._warned_at) < _MAX_WARNINGS:
            self._warned_at[kind] = now
            logger.warning("%s", text)


def _tries_patience(connection: ReplicaConnection, now: float) -> bool:
    """Whether a container has a batch for long, and nothing but its silence tells that it may be dead."""
    is_long = connection.silent_seconds(now) >= LEAST_PATIENCE_SECONDS
    return is_long and not connection.peer.knows_pings and connection.longest_seconds > 0


def _name(metadata: Metadata) -> Name:
    return metadata.model_id, metadata.replica_id
