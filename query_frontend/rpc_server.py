"""The RPC of the query frontend: model containers connect to it, and who of them lives.

Busy and gone are told apart by the transport: libzmq in the container answers ZMTP heartbeats by itself, so one whose
model computes for minutes keeps its connection, and one that was stopped or unplugged loses it.
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
from clipper_common.errors import MetadataError, WireError
from clipper_common.wire import HeartbeatType, Metadata, PredictRequest, Response
from query_frontend.metrics import Histogram
from query_frontend.router import Peer, PeerEvents, Router

logger = logging.getLogger(__name__)

QUICK_SECONDS: Final = 0.002
"""A model that takes less gets its next batch a turn later, as `task_executor` says."""
_TICK_SECONDS: Final = 1.0
_COMPLAINT_SECONDS: Final = 60.0
_MAX_COMPLAINTS: Final = 100


@dataclass(eq=False)
class Connection:
    """A registered container."""

    number: int
    peer: Peer
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
        self._host = host
        self._port = port
        self._router = Router(PeerEvents(self._on_messages, self._on_lost, self._complain))
        self._events = events
        self._send_micros = send_micros
        self._connections: dict[Peer, Connection] = {}
        self._frontends = [""]
        """Addresses: this one's, which may be unknown, and those of the others."""
        self._numbers = 0
        self._yields = False
        """Whether this turn brought the answer to a batch that was quick."""
        self._complained: dict[str, float] = {}

    # --- life ---

    def start(self) -> int:
        """Listen; on which port. Raises `OSError` when the address is taken."""
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
        connection.asked_at = started
        connection.busy = sent
        return sent

    def expel(self, connection: Connection, reason: str) -> None:
        """Forget a container that misbehaves. It may introduce itself again."""
        logger.error("%s is expelled: %s", connection, reason)
        self._forget(connection, reason)

    def dismiss(self, connection: Connection) -> None:
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

    def _receive(self, peer: Peer, frames: Sequence[bytes]) -> None:
        connection = self._connections.get(peer)
        try:
            message = wire.decode_from_container(frames)
        except WireError as error:
            self._complain(f"a container sent what makes no sense: {error}")
            if connection is not None:
                self._forget(connection, f"it sent what makes no sense: {error}")
            elif isinstance(error, MetadataError) and error.rpc_version >= wire.RPC_VERSION_4:
                peer.send(wire.encode_refused(f"its metadata cannot be accepted: {error}"))
            return
        if connection is None:
            self._receive_from_stranger(peer, message)
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
                peer.send(wire.encode_frontends(self._frontends))
            case _:  # a heartbeat, or metadata that we have
                self._send_keep_alive(connection)

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
        refusal = self._events.joined(connection)
        if refusal is not None:
            self._complain(f"a container of {metadata.model} is refused: {refusal}")
            if metadata.rpc_version >= wire.RPC_VERSION_4:
                peer.send(wire.encode_refused(refusal))
            return
        self._numbers += 1
        # Once it is accepted: who is refused takes nobody's place.
        for other in [other for other in self._connections.values() if _is_same_replica(other.metadata, metadata)]:
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
            if connection.busy:
                if connection.rpc_version >= wire.RPC_VERSION_4:
                    self._send_keep_alive(connection)
            elif now - connection.heard_at > constants.SILENCE_SECONDS:
                self._forget(connection, f"it was silent for {constants.SILENCE_SECONDS:.0f} seconds")

    def _forget(self, connection: Connection, reason: str) -> None:
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            self._events.left(connection, reason)

    def _complain(self, text: str) -> None:
        """Log, but the same thing only once in a while, since whoever is refused comes back each second; and not more
        than so many things, since anyone may connect."""
        now = time.monotonic()
        if len(self._complained) >= _MAX_COMPLAINTS:
            recent = now - _COMPLAINT_SECONDS
            self._complained = {known: said_at for known, said_at in self._complained.items() if said_at > recent}
        if now - self._complained.get(text, -inf) >= _COMPLAINT_SECONDS and len(self._complained) < _MAX_COMPLAINTS:
            self._complained[text] = now
            logger.warning("%s", text)


def _is_same_replica(one: Metadata, other: Metadata) -> bool:
    """A replica id belongs to a model version: another may have the same by chance, or by intent."""
    return one.replica_id is not None and (one.replica_id, one.model) == (other.replica_id, other.model)
