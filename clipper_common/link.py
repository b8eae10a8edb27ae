"""The container's side of a connection to one query frontend: announce, heartbeat, connect anew, answer, drain.

Nothing here waits, and nobody else touches the socket: whoever owns a link asks it to `greet` when that is `due`, or
when it `is_mute` and its socket is writable, and to `receive` when that is readable.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from enum import IntEnum
from typing import Final, Protocol

import zmq

from clipper_common import constants, wire
from clipper_common.errors import WireError
from clipper_common.multipart import receive_views, send_frames

logger = logging.getLogger(__name__)

# The frontend answers every heartbeat, so that some of them in a row were lost.
_SILENCE_SECONDS: Final = 5.0
_REFUSED_RETRY_SECONDS: Final = 5.0
_GOODBYE_MILLIS: Final = 1000
_SOCKET_OPTIONS: Final = {
    zmq.LINGER: 0,
    # What is sent while nobody is connected is lost at once, not kept for a frontend that never asked for it.
    zmq.IMMEDIATE: 1,
    # A frontend that restarts gives defaults until its containers are back.
    zmq.RECONNECT_IVL: 50,
    zmq.RECONNECT_IVL_MAX: 200,
    zmq.HEARTBEAT_IVL: constants.TRANSPORT_HEARTBEAT_MILLIS,
    zmq.HEARTBEAT_TIMEOUT: constants.TRANSPORT_TIMEOUT_MILLIS,
    zmq.HEARTBEAT_TTL: constants.TRANSPORT_TIMEOUT_MILLIS,
    zmq.TCP_KEEPALIVE: 1,
}


def tcp_address(host: str, port: int) -> str:
    """As ZeroMQ writes it."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class Event(IntEnum):
    """Codes of the event history."""

    SENT_HEARTBEAT = 1
    RECEIVED_HEARTBEAT = 2
    SENT_METADATA = 3
    SENT_RESPONSE = 5
    RECEIVED_REQUEST = 6


Events = deque[tuple[float, Event]]


class Channel(ABC):
    """A socket to the frontend at `address`, which is greeted each second, and gets a new one when it is silent.

    Raises `zmq.ZMQError` when that is no address.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._context = context
        self.address = address
        self.closed = False
        self.served_at = 0.0
        """For its owner: when its last batch was computed."""
        self._silence_reported = False
        self._connect()

    def _connect(self) -> None:
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in _SOCKET_OPTIONS.items():
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.IPV6, "[" in self.address)  # names go on standing for IPv4 addresses
        try:
            self.socket.connect(self.address)
        except zmq.ZMQError:
            self.socket.close()
            raise
        self.reached = False
        """Whether something was heard on this connection, and it did not break."""
        self.heard_at = time.monotonic()
        self.due = 0.0
        """When to greet."""
        self.is_mute = False
        """The greeting could not be sent: it is due once the socket is writable."""

    def close(self) -> None:
        self.closed = True
        self.socket.close(_GOODBYE_MILLIS)

    def is_silent(self, now: float) -> bool:
        """Whether nothing was heard for long. It is time to `reconnect`, for those who would have heard it."""
        return now - self.heard_at > _SILENCE_SECONDS

    def reconnect(self) -> None:
        self._report_silence()
        self.socket.close()
        self._connect()

    def _report_silence(self) -> None:
        if not self._silence_reported:
            self._silence_reported = True
            logger.warning(
                "Heard nothing from a query frontend at %s for %.0f s. Trying on: is it up, and is this its address?",
                self.address,
                _SILENCE_SECONDS,
            )

    def greet(self) -> None:
        self.due = time.monotonic() + constants.HEARTBEAT_SECONDS
        self.is_mute = not self._send_greeting()

    @abstractmethod
    def _send_greeting(self) -> bool:
        """Whether there was a frontend to send it to."""

    def _send(self, frames: list[bytes]) -> bool:
        """Whether there was a frontend to send to."""
        try:
            send_frames(self.socket, frames)
        except zmq.Again:
            self.reached = False
            self.is_mute = True
            return False
        return True

    def receive(self) -> bool:
        """Read a message and act on it, if there is one."""
        received_at = time.monotonic()
        try:
            frames = receive_views(self.socket)
        except zmq.Again:
            return False
        self.heard_at = received_at
        self.reached = True
        try:
            self._handle(wire.decode_from_frontend(frames), received_at)
        except WireError as error:
            logger.warning("Dropped a message that makes no sense: %s.", error)
        return True

    @abstractmethod
    def _handle(self, message: wire.FromFrontend, received_at: float) -> None:
        """Act on a message."""


class LinkOwner(Protocol):
    """Whom a link reports to."""

    def on_registered(self, link: "Link") -> None:
        """The frontend accepted us, anew."""

    def on_batch(self, link: "Link", request: wire.PredictRequest, received_at: float) -> None:
        """To be answered by `Link.answer`, in order, and with the `Link.registration` of now."""

    def on_frontends(self, link: "Link", addresses: list[str]) -> None:
        """The frontend says which ones there are."""


class Link(Channel):
    """A replica's registration with the frontend at `address`."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        metadata: wire.Metadata,
        owner: LinkOwner,
        events: Events,
    ) -> None:
        self._metadata = metadata
        self._owner = owner
        self._events = events
        self.registered = False
        self.registration = 0
        """Which of its registrations this is. A batch of an earlier one is nobody's."""
        self.drained = False
        """After `drain`: we may go."""
        self._draining = False
        self._announce_after = 0.0
        self._refusals: set[str] = set()
        super().__init__(context, address)

    def _connect(self) -> None:
        self._forget_registration()
        super()._connect()

    def close(self) -> None:
        self._forget_registration()
        super().close()

    def _forget_registration(self) -> None:
        self.registered = False
        self.registration += 1

    # --- messages ---

    def _send(self, frames: list[bytes], event: Event | None = None) -> bool:
        if not super()._send(frames):
            self.registered = False
            return False
        if event is not None:
            self._events.append((time.time(), event))
        return True

    def _send_greeting(self) -> bool:
        return self._send(wire.encode_heartbeat(), Event.SENT_HEARTBEAT)

    def answer(self, response: wire.Response, registration: int) -> None:
        """Answer a batch that came in this registration."""
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
            case wire.HeartbeatReply(kind):
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

    # --- what the frontend knows of us ---

    def _become_unknown(self, now: float) -> None:
        # Messages keep their order, so that all batches before this one belong to a registration that is gone.
        self._forget_registration()
        if self._draining:
            self.drained = True
        elif now >= self._announce_after:
            self._announce_after = now + constants.HEARTBEAT_SECONDS
            self._send(wire.encode_metadata(self._metadata), Event.SENT_METADATA)
            self.greet()

    def _become_registered(self) -> None:
        self._silence_reported = False
        self.registered = True
        self._refusals.clear()
        metadata = self._metadata
        logger.info("Registered at %s as replica %s of %s.", self.address, metadata.replica_id, metadata.model)
        self._send(wire.encode_frontends_request())
        self._owner.on_registered(self)

    def _become_refused(self, reason: str, now: float) -> None:
        self.registered = False
        self._announce_after = now + _REFUSED_RETRY_SECONDS
        if reason not in self._refusals:
            self._refusals.add(reason)
            logger.error("The query frontend at %s refuses this replica: %s", self.address, reason)

    # --- leaving ---

    def drain(self) -> None:
        """Ask for no more batches. `drained` says when none is left."""
        if not self._draining:
            self._draining = True
            # Not registered yet: the frontend may be about to accept us, and to give us a batch.
            self.drained = not (self.reached and self._send(wire.encode_drain_request()))
