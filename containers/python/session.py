"""The main loop of a container: finds the query frontends, answers their batches one at a time, in order, and drains.

The main thread receives a batch, computes it and answers. It holds the lock that protects all sockets, except while the
model computes: then the heartbeat thread may acquire it.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import zmq

from clipper_common import constants, wire
from clipper_common.rpc_client import Event, Events

from .rpc_clients import RpcClients, ZmqChannel, ZmqClient
from .stopping import StopRequest
from .zmq_transport import ZmqTransport

__all__ = ["ComputeBatch", "Event", "Session"]

logger = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = constants.DRAIN_SECONDS - 1
_DRAIN_POLL_SECONDS: Final = 0.1
_EVENTS_KEPT: Final = 128

ComputeBatch = Callable[[wire.PredictRequest, float], wire.Response]


class Session:
    """Serves all query frontends that the one at `address` knows of, until this process is asked to stop.

    `answer` computes a batch, given the monotonic time at which it was received. `on_registered` is called each time
    that a frontend accepts this replica. `on_abandoned` is called from another thread, when this process was asked to
    stop and computes a batch whose answer no frontend waits for.
    """

    def __init__(
        self,
        address: str,
        metadata: wire.Metadata,
        answer: ComputeBatch,
        stop: StopRequest,
        on_registered: Callable[[], None] = lambda: None,
        on_abandoned: Callable[[], None] = lambda: None,
    ) -> None:
        self.events: Events = deque(maxlen=_EVENTS_KEPT)
        self._metadata = metadata
        self._compute = answer
        self._stop = stop
        self._on_registered = on_registered
        self._on_abandoned = on_abandoned
        self._context = zmq.Context()
        self._clients = RpcClients(self._context, address, self._open_client)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._inbox: deque[tuple[ZmqClient, int, wire.PredictRequest, float]] = deque()
        self._last_client: ZmqClient | None = None
        """The frontend whose batch was computed last."""
        self._last_ended_at = 0.0
        self._drain_deadline = math.inf

    def run(self) -> None:
        """Serve until the process is asked to stop and the frontends have released this replica."""
        with self._lock:
            threading.Thread(target=self._run_heartbeats, name="heartbeat", daemon=True).start()
            try:
                self._serve()
            finally:
                self._closed.set()
                self._clients.close()
                self._context.term()

    def _serve(self) -> None:
        while True:
            now = time.monotonic()
            if self._stop.requested_at is not None and self._drain(now, self._stop.requested_at):
                return
            due = self._clients.run_timers(now)
            if not self._inbox:
                self._wait(due - now)
            if self._inbox:
                self._answer(*self._inbox.popleft())

    def _wait(self, seconds: float) -> None:
        """Wait for a message, a writable socket, a request to stop, or for `seconds`; handle the messages."""
        channels = self._clients.channels
        sources: list[tuple[Any, int]] = [
            (channel.transport.socket, zmq.POLLIN | zmq.POLLOUT if channel.is_blocked else zmq.POLLIN)
            for channel in channels
        ]
        sources.append((self._stop.fileno(), zmq.POLLIN))
        ready = zmq.zmq_poll(sources, max(0, math.ceil(seconds * 1000)))
        active = [
            (channel, events) for source, events in ready for channel in channels if channel.transport.socket is source
        ]
        if len(active) < len(ready):
            self._stop.clear_wakeups()
        if len(active) > 1:
            active.sort(key=lambda pair: pair[0].served_at)  # round-robin: the frontend served last comes last
        for channel, events in active:
            self._handle_events(channel, events)

    @staticmethod
    def _handle_events(channel: ZmqChannel, events: int) -> None:
        if events & zmq.POLLIN:
            receive_one(channel)
        if events & zmq.POLLOUT and not channel.closed:
            channel.send_heartbeat()

    def _run_heartbeats(self) -> None:
        while not self._closed.wait(_DRAIN_POLL_SECONDS if self._stop.was_signalled else constants.HEARTBEAT_SECONDS):
            if self._lock.acquire(blocking=False):
                try:
                    if not self._closed.is_set():
                        self._serve_connections()
                finally:
                    self._lock.release()

    def _serve_connections(self) -> None:
        self._clients.run_timers(time.monotonic(), listening=False)
        if self._stop.was_signalled:
            self._clients.drain()  # the frontends release us at once if they do not wait for the batch any more
        for channel in self._clients.channels:
            while not channel.closed and receive_one(channel):
                pass
        if self._stop.was_signalled and self._clients.drained:
            self._on_abandoned()

    # --- callbacks of the clients ---

    def _open_client(self, address: str) -> ZmqClient:
        return ZmqClient(ZmqTransport(self._context, address), self._metadata, self, self.events)

    def on_registered(self, client: ZmqClient) -> None:
        self._clients.on_registered()
        self._on_registered()

    def on_batch(self, client: ZmqClient, request: wire.PredictRequest, received_at: float) -> None:
        self._inbox.append((client, client.registration, request, received_at))

    def on_frontends(self, client: ZmqClient, addresses: list[str]) -> None:
        self._clients.update_frontends(client, addresses)

    # --- batches ---

    def _answer(self, client: ZmqClient, registration: int, request: wire.PredictRequest, received_at: float) -> None:
        if registration != client.registration:
            return  # the frontend has sent the batch to another replica, or is gone
        self._lock.release()
        try:
            response = self._compute(request, received_at)
        finally:
            self._lock.acquire()
        self._stop.listen_again()
        self._clients.reset_idle_timers()
        client.served_at = received_at
        client.answer(self._with_turn(response, client), registration)

    def _with_turn(self, response: wire.Response, client: ZmqClient) -> wire.Response:
        """Say since when the batch can have waited for nothing, if it may have waited for that of another frontend."""
        now = time.monotonic()
        is_another = self._last_client is not None and self._last_client is not client
        if is_another and client.takes_turns:
            response = response._replace(turn_micros=int((now - self._last_ended_at) * 1e6))
        self._last_client, self._last_ended_at = client, now
        return response

    # --- draining ---

    def _drain(self, now: float, requested_at: float) -> bool:
        """Drain all frontends at the first call. Return whether all have released this replica, or time is up."""
        if self._drain_deadline == math.inf:
            self._drain_deadline = requested_at + _DRAIN_SECONDS
            logger.info("Asked to stop.")
            self._clients.drain()
        return now >= self._drain_deadline or (self._clients.drained and not self._inbox)


def receive_one(channel: ZmqChannel) -> bool:
    """Handle one message. Return False if there is none."""
    frames = channel.transport.receive()
    if frames is None:
        return False
    channel.receive(frames)
    return True
