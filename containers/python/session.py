"""One connection to a query frontend: announce, heartbeat, time out, reconnect, answer, drain.

The main thread receives a batch, computes it and answers; nothing stands between. It holds the lock, and with it
the socket, except while the model computes: then the heartbeat thread may take both.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import zmq

from clipper_common import constants, wire
from clipper_common.errors import WireError
from clipper_common.multipart import receive_frames, send_frames

from .stopping import StopRequest

logger = logging.getLogger(__name__)

# The frontend answers every heartbeat, so that some of them in a row were lost.
_SILENCE_SECONDS: Final = 5.0
_REFUSED_RETRY_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = constants.DRAIN_SECONDS - 1
_GOODBYE_MILLIS: Final = 1000
_EVENTS_KEPT: Final = 128
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

Answer = Callable[[wire.PredictRequest, float], wire.Response]


class Event(IntEnum):
    """Codes of the event history."""

    SENT_HEARTBEAT = 1
    RECEIVED_HEARTBEAT = 2
    SENT_METADATA = 3
    SENT_RESPONSE = 5
    RECEIVED_REQUEST = 6


class Session:
    """Serves one query frontend, for as long as this process is not asked to stop.

    `answer` computes a batch, given the time when it was received; `on_registered` is called each time that the
    frontend has accepted this replica.
    """

    def __init__(
        self,
        address: str,
        metadata: wire.Metadata,
        answer: Answer,
        stop: StopRequest,
        on_registered: Callable[[], None] = lambda: None,
    ) -> None:
        self.events: deque[tuple[float, Event]] = deque(maxlen=_EVENTS_KEPT)
        self._address = address
        self._metadata = metadata
        self._compute = answer
        self._stop = stop
        self._on_registered = on_registered
        self._context = zmq.Context()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._inbox: deque[tuple[wire.PredictRequest, float]] = deque()
        self._registered = False
        self._abandoned = False
        """The batch being computed belongs to a registration that is gone."""
        self._unsent_heartbeat = False
        self._heartbeat_due = 0.0
        self._announce_after = 0.0
        self._silence_reported = False
        self._refusals: set[str] = set()
        self._drain_deadline = math.inf
        self._finished = False

    def run(self) -> None:
        """Serve until the process is asked to stop and the frontend let it go."""
        with self._lock:
            self._connect()
            threading.Thread(target=self._heartbeat_while_computing, name="heartbeat", daemon=True).start()
            try:
                self._serve()
            finally:
                self._closed.set()
                self._socket.close(_GOODBYE_MILLIS)
                self._context.term()

    def _serve(self) -> None:
        while True:
            self._tend(time.monotonic())
            if self._finished:
                return
            if not self._inbox:
                self._wait()
            if self._inbox:
                self._answer(*self._inbox.popleft())

    # --- the connection ---

    def _connect(self) -> None:
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in _SOCKET_OPTIONS.items():
            self._socket.setsockopt(option, value)
        self._socket.connect(self._address)
        self._heard_at = time.monotonic()
        self._heartbeat_due = 0.0

    def _reconnect(self) -> None:
        if not self._silence_reported:
            self._silence_reported = True
            logger.warning(
                "Heard nothing from a query frontend at %s for %.0f s. Trying on: is it up, and is this its address?",
                self._address,
                _SILENCE_SECONDS,
            )
        self._registered = False
        self._socket.close()
        self._connect()

    def _tend(self, now: float) -> None:
        if self._stop.requested_at is not None:
            self._drain(now, self._stop.requested_at)
        if now - self._heard_at > _SILENCE_SECONDS:
            self._reconnect()
        if now >= self._heartbeat_due:
            self._send_heartbeat()

    def _wait(self) -> None:
        """Until a message came, a heartbeat can or must be sent, or the process is asked to stop."""
        events = zmq.POLLIN | zmq.POLLOUT if self._unsent_heartbeat else zmq.POLLIN
        seconds = min(self._heartbeat_due, self._drain_deadline) - time.monotonic()
        sources: list[tuple[Any, int]] = [(self._socket, events), (self._stop.fileno(), zmq.POLLIN)]
        for source, ready in zmq.zmq_poll(sources, max(0, math.ceil(seconds * 1000))):
            if source is not self._socket:
                self._stop.clear_wakeups()
                continue
            if ready & zmq.POLLIN:
                self._receive()
            if ready & zmq.POLLOUT:
                self._send_heartbeat()

    def _heartbeat_while_computing(self) -> None:
        while not self._closed.wait(constants.HEARTBEAT_SECONDS):
            if self._lock.acquire(blocking=False):
                try:
                    if not self._closed.is_set():
                        self._send_heartbeat()
                        while self._receive():
                            pass
                finally:
                    self._lock.release()

    # --- messages ---

    def _send(self, frames: list[bytes], event: Event | None = None) -> bool:
        """Whether there was a frontend to send to."""
        try:
            send_frames(self._socket, frames)
        except zmq.Again:
            self._registered = False
            self._unsent_heartbeat = True
            return False
        if event is not None:
            self.events.append((time.time(), event))
        return True

    def _send_heartbeat(self) -> None:
        self._heartbeat_due = time.monotonic() + constants.HEARTBEAT_SECONDS
        if self._send(wire.encode_heartbeat(), Event.SENT_HEARTBEAT):
            self._unsent_heartbeat = False

    def _receive(self) -> bool:
        """Read a message and act on it, batches aside: they wait in the inbox."""
        received_at = time.monotonic()
        try:
            frames = receive_frames(self._socket)
        except zmq.Again:
            return False
        self._heard_at = received_at
        try:
            self._handle(wire.decode_from_frontend(frames), received_at)
        except WireError as error:
            logger.warning("Dropped a message that makes no sense: %s.", error)
        return True

    def _handle(self, message: wire.FromFrontend, received_at: float) -> None:
        match message:
            case wire.PredictRequest():
                self.events.append((time.time(), Event.RECEIVED_REQUEST))
                self._become_registered()
                self._inbox.append((message, received_at))
            case wire.HeartbeatReply(kind):
                self.events.append((time.time(), Event.RECEIVED_HEARTBEAT))
                if kind is wire.HeartbeatType.REQUEST_METADATA:
                    self._become_unknown(received_at)
                else:
                    self._become_registered()
            case wire.Drain():
                self._finished = self._drain_deadline < math.inf
            case wire.Refused(reason):
                self._become_refused(reason, received_at)

    # --- what the frontend knows of us ---

    def _become_unknown(self, now: float) -> None:
        # Messages keep their order, so that all batches before this one belong to a registration that is gone.
        self._registered = False
        self._inbox.clear()
        self._abandoned = True
        if self._drain_deadline < math.inf:
            self._finished = True
        elif now >= self._announce_after:
            self._announce_after = now + constants.HEARTBEAT_SECONDS
            self._send(wire.encode_metadata(self._metadata), Event.SENT_METADATA)
            self._send_heartbeat()

    def _become_registered(self) -> None:
        self._silence_reported = False
        if not self._registered:
            self._registered = True
            self._refusals.clear()
            replica = self._metadata.replica_id
            logger.info("Registered at %s as replica %s of %s.", self._address, replica, self._metadata.model)
            self._on_registered()

    def _become_refused(self, reason: str, now: float) -> None:
        self._registered = False
        self._announce_after = now + _REFUSED_RETRY_SECONDS
        if reason not in self._refusals:
            self._refusals.add(reason)
            logger.error("The query frontend at %s refuses this replica: %s", self._address, reason)

    # --- batches ---

    def _answer(self, request: wire.PredictRequest, received_at: float) -> None:
        self._abandoned = False
        self._lock.release()
        try:
            response = self._compute(request, received_at)
        finally:
            self._lock.acquire()
        # While the model computed nobody may have listened: that was our silence, not the frontend's.
        self._heard_at = time.monotonic()
        sent = not self._abandoned and self._send(
            wire.encode_response(response, wire.RPC_VERSION_4), Event.SENT_RESPONSE
        )
        if not sent:
            logger.warning("The frontend that asked is gone: dropped the answer to %d inputs.", len(response.outputs))

    # --- leaving ---

    def _drain(self, now: float, requested_at: float) -> None:
        """Say goodbye, once; then wait for the answer, but not for ever."""
        if self._drain_deadline < math.inf:
            self._finished = self._finished or now >= self._drain_deadline
            return
        self._drain_deadline = requested_at + _DRAIN_SECONDS
        logger.info("Asked to stop.")
        if not (self._registered and self._send(wire.encode_drain_request())):
            self._finished = True
