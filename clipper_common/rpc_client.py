"""A replica's RPC connection to one query frontend: registration, heartbeats, reconnecting, answers and draining.

A `Transport` carries the messages: libzmq's socket in a model container, one on the event loop in a query frontend. No
method blocks. The owner of a client calls `take` with each message that the transport receives, and `send_heartbeat` at
the time `due`, and when the client `is_blocked` and the transport can send again.
"""

import logging
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from enum import IntEnum
from typing import Final, Generic, Protocol, TypeVar

from clipper_common import constants, wire
from clipper_common.datatypes import printable
from clipper_common.errors import WireError

logger = logging.getLogger(__name__)

# The frontend answers every heartbeat, so several answers in a row were lost after this time.
_SILENCE_SECONDS: Final = 5.0
_REFUSED_RETRY_SECONDS: Final = 5.0
# A restarted frontend answers with default outputs until its containers have connected again.
RECONNECT_MILLIS: Final = 50
"""The wait before a transport connects anew. It doubles after each failure, up to `MAX_RECONNECT_MILLIS`."""
MAX_RECONNECT_MILLIS: Final = 200
_TCP_ADDRESS: Final = re.compile(r"tcp://(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_SHOWN_CHARACTERS: Final = 200


def tcp_address(host: str, port: int) -> str:
    """Return the ZeroMQ endpoint of a TCP port; an IPv6 address is put in brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def split_tcp_address(address: str) -> tuple[str, int]:
    """Return the host and the port of a ZeroMQ endpoint. Raises `ValueError` if it is not that of a TCP port."""
    match = _TCP_ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) >= 1 << 16:
        raise ValueError(f"{printable(address, _SHOWN_CHARACTERS)} is not the address of a TCP port")
    return match["bracketed"] or match["host"], int(match["port"])


class Event(IntEnum):
    """The codes of the event history."""

    SENT_HEARTBEAT = 1
    RECEIVED_HEARTBEAT = 2
    SENT_METADATA = 3
    SENT_RESPONSE = 5
    RECEIVED_REQUEST = 6


Events = deque[tuple[float, Event]]


class Transport(Protocol):
    """The connection that carries messages to the frontend at `address`, and is made anew whenever it is lost."""

    address: str

    def send(self, frames: list[bytes]) -> bool:
        """Send a message without blocking. Return False if no frontend is connected."""

    def reconnect(self) -> None:
        """Give up the present connection for a new one."""

    def close(self) -> None:
        """Close the connection for good."""


TransportT = TypeVar("TransportT", bound=Transport)


class Channel(ABC, Generic[TransportT]):
    """Messages to and from one frontend, with a heartbeat each second; a new connection replaces one that is silent."""

    def __init__(self, transport: TransportT) -> None:
        self.transport = transport
        self.address = transport.address
        self.closed = False
        self.served_at = 0.0
        """Monotonic time at which the last computed batch was received; set by the owner for fair scheduling."""
        self._silence_reported = False
        self._begin()

    def _begin(self) -> None:
        """Reset the state, as it is for a new connection."""
        self.reached = False
        """Whether a message was received on this connection, and none has failed to be sent since."""
        self.heard_at = time.monotonic()
        self.due = 0.0
        """Monotonic time of the next heartbeat."""
        self.is_blocked = False
        """Whether the last message could not be sent: a heartbeat is due once the transport can send."""

    def close(self) -> None:
        self.closed = True
        self.transport.close()

    def is_silent(self, now: float) -> bool:
        """Whether no message was received for `_SILENCE_SECONDS`. An owner that was reading calls `reconnect` then."""
        return now - self.heard_at > _SILENCE_SECONDS

    def reconnect(self) -> None:
        self._report_silence()
        self.transport.reconnect()
        self._begin()

    def _report_silence(self) -> None:
        if not self._silence_reported:
            self._silence_reported = True
            logger.warning(
                "Heard nothing from a query frontend at %s for %.0f s. Trying on: is it up, and is this its address?",
                self.address,
                _SILENCE_SECONDS,
            )

    def send_heartbeat(self) -> None:
        self.due = time.monotonic() + constants.HEARTBEAT_SECONDS
        self.is_blocked = not self._try_heartbeat()

    @abstractmethod
    def _try_heartbeat(self) -> bool:
        """Send a heartbeat. Return False if no frontend is connected."""

    def _send(self, frames: list[bytes]) -> bool:
        """Send a message without blocking. Return False if no frontend is connected."""
        if not self.transport.send(frames):
            self.on_lost()
            return False
        return True

    def on_lost(self) -> None:
        """Note that no frontend is connected."""
        self.reached = False
        self.is_blocked = True

    def receive(self, frames: wire.Views) -> None:
        """Handle a message that the transport has received."""
        received_at = time.monotonic()
        self.heard_at = received_at
        self.reached = True
        try:
            self._handle(wire.decode_from_frontend(frames), received_at)
        except WireError as error:
            logger.warning("Dropped a message that makes no sense: %s.", error)

    @abstractmethod
    def _handle(self, message: wire.FromFrontend, received_at: float) -> None:
        """Handle a message that was received at a monotonic time."""


class RpcClientOwner(Protocol[TransportT]):
    """The callbacks of a client."""

    def on_registered(self, client: "RpcClient[TransportT]") -> None:
        """Called each time that the frontend accepts the registration."""

    def on_batch(self, client: "RpcClient[TransportT]", request: wire.PredictRequest, received_at: float) -> None:
        """Called with a batch.

        It must be answered by `RpcClient.answer`, in order, with the value that `RpcClient.registration` has now.
        """

    def on_frontends(self, client: "RpcClient[TransportT]", addresses: list[str]) -> None:
        """Called with the addresses of all query frontends that the frontend knows, its own first."""


class RpcClient(Channel[TransportT]):
    """A replica's connection to, and registration with, one frontend."""

    def __init__(
        self, transport: TransportT, metadata: wire.Metadata, owner: RpcClientOwner[TransportT], events: Events
    ) -> None:
        self._metadata = metadata
        self._owner = owner
        self._events = events
        self.registered = False
        self.registration = 0
        """The number of this registration. The answer to a batch of an earlier one is discarded."""
        self.takes_turns = False
        """Whether answers may hold `turn_micros`."""
        self.drained = False
        """Whether the frontend has released this replica after `drain`."""
        self._draining = False
        self._announce_after = 0.0
        self._refusals: set[str] = set()
        super().__init__(transport)

    def _begin(self) -> None:
        self._forget_registration()
        super()._begin()

    def close(self) -> None:
        self._forget_registration()
        super().close()

    def _forget_registration(self) -> None:
        self.registered = False
        self.registration += 1

    # --- messages ---

    def _send(self, frames: list[bytes], event: Event | None = None) -> bool:
        if not super()._send(frames):
            return False
        if event is not None:
            self._events.append((time.time(), event))
        return True

    def on_lost(self) -> None:
        super().on_lost()
        self.registered = False

    def _try_heartbeat(self) -> bool:
        return self._send(wire.encode_heartbeat(), Event.SENT_HEARTBEAT)

    def answer(self, response: wire.Response, registration: int) -> None:
        """Send the answer to a batch that was received in `registration`; discard it if that is not the present one."""
        is_wanted = registration == self.registration and not self.closed
        if not is_wanted or not self._send(wire.encode_response(response, wire.RPC_VERSION_4), Event.SENT_RESPONSE):
            logger.warning("The frontend that asked is gone: dropped the answer to %d inputs.", len(response.outputs))

    def _handle(self, message: wire.FromFrontend, received_at: float) -> None:
        match message:
            case wire.PredictRequest():
                self._events.append((time.time(), Event.RECEIVED_REQUEST))
                if not self.registered:
                    self._become_registered()
                self._owner.on_batch(self, message, received_at)
            case wire.HeartbeatReply(kind, takes_turns):
                self.takes_turns = takes_turns
                self._events.append((time.time(), Event.RECEIVED_HEARTBEAT))
                if kind is wire.HeartbeatType.REQUEST_METADATA:
                    self._become_unknown(received_at)
                elif not self.registered:
                    self._become_registered()
            case wire.Frontends(addresses):
                self._owner.on_frontends(self, addresses)
            case wire.Drain():
                self.drained = self._draining
            case wire.Refused(reason):
                self._become_refused(reason, received_at)

    # --- state of the registration ---

    def _become_unknown(self, now: float) -> None:
        # Messages arrive in order, so all batches before this message belong to an earlier registration.
        self._forget_registration()
        if self._draining:
            self.drained = True
        elif now >= self._announce_after:
            self._announce_after = now + constants.HEARTBEAT_SECONDS
            self._send(wire.encode_metadata(self._metadata), Event.SENT_METADATA)
            self.send_heartbeat()

    def _become_registered(self) -> None:
        self._silence_reported = False
        self.registered = True
        self._refusals.clear()
        metadata = self._metadata
        logger.info("Registered at %s as replica %s of %s.", self.address, metadata.replica_id, metadata.model_id)
        self._send(wire.encode_frontends_request())
        self._owner.on_registered(self)

    def _become_refused(self, reason: str, now: float) -> None:
        self.registered = False
        self._announce_after = now + _REFUSED_RETRY_SECONDS
        if reason not in self._refusals:
            self._refusals.add(reason)
            logger.error("The query frontend at %s refuses this replica: %s", self.address, reason)

    # --- draining ---

    def drain(self) -> None:
        """Ask the frontend to send no more batches. `drained` becomes true when it has agreed."""
        if not self._draining:
            self._draining = True
            # Also without a registration: the frontend may be about to accept it, and to send a batch.
            self.drained = not (self.reached and self._send(wire.encode_drain_request()))
