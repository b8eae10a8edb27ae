"""The life of a container: it finds the query frontends, answers their batches one at a time, in order, and drains.

The main thread receives a batch, computes it and answers; nothing stands between. It holds the lock, and with it
all sockets, except while the model computes: then the heartbeat thread may take both.
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
from clipper_common.link import Channel, Event, Events, Link

from .links import Links
from .stopping import StopRequest

__all__ = ["Answer", "Event", "Session"]

logger = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = constants.DRAIN_SECONDS - 1
_DRAIN_POLL_SECONDS: Final = 0.1
_EVENTS_KEPT: Final = 128

Answer = Callable[[wire.PredictRequest, float], wire.Response]


class Session:
    """Serves all query frontends that the one at `address` knows of, for as long as this process is not asked to stop.

    `answer` computes a batch, given the time when it was received; `on_registered` is called each time that a
    frontend has accepted this replica; `on_abandoned` from another thread, when this process was asked to stop and
    computes what nobody waits for.
    """

    def __init__(
        self,
        address: str,
        metadata: wire.Metadata,
        answer: Answer,
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
        self._links = Links(self._context, address, self._open_link)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._inbox: deque[tuple[Link, int, wire.PredictRequest, float]] = deque()
        self._drain_deadline = math.inf

    def run(self) -> None:
        """Serve until the process is asked to stop and the frontends let it go."""
        with self._lock:
            threading.Thread(target=self._tend_while_computing, name="heartbeat", daemon=True).start()
            try:
                self._serve()
            finally:
                self._closed.set()
                self._links.close()
                self._context.term()

    def _serve(self) -> None:
        while True:
            now = time.monotonic()
            if self._stop.requested_at is not None and self._drain(now, self._stop.requested_at):
                return
            due = self._links.tend(now)
            if not self._inbox:
                self._wait(due - now)
            if self._inbox:
                self._answer(*self._inbox.popleft())

    def _wait(self, seconds: float) -> None:
        """Until a message came, a greeting can or must be sent, or the process is asked to stop."""
        channels = self._links.channels
        sources: list[tuple[Any, int]] = [
            (channel.socket, zmq.POLLIN | zmq.POLLOUT if channel.is_mute else zmq.POLLIN) for channel in channels
        ]
        sources.append((self._stop.fileno(), zmq.POLLIN))
        ready = zmq.zmq_poll(sources, max(0, math.ceil(seconds * 1000)))
        attended = [(channel, events) for source, events in ready for channel in channels if channel.socket is source]
        if len(attended) < len(ready):
            self._stop.clear_wakeups()
        if len(attended) > 1:
            attended.sort(key=lambda pair: pair[0].served_at)  # who was served last has come last
        for channel, events in attended:
            self._attend(channel, events)

    @staticmethod
    def _attend(channel: Channel, events: int) -> None:
        if events & zmq.POLLIN:
            channel.receive()
        if events & zmq.POLLOUT and not channel.closed:
            channel.greet()

    def _tend_while_computing(self) -> None:
        while not self._closed.wait(_DRAIN_POLL_SECONDS if self._stop.was_signalled else constants.HEARTBEAT_SECONDS):
            if self._lock.acquire(blocking=False):
                try:
                    if not self._closed.is_set():
                        self._tend_meanwhile()
                finally:
                    self._lock.release()

    def _tend_meanwhile(self) -> None:
        self._links.tend(time.monotonic(), listening=False)
        if self._stop.was_signalled:
            self._links.drain()  # the frontends let us go at once, if nobody waits for the batch any more
        for channel in self._links.channels:
            while not channel.closed and channel.receive():
                pass
        if self._stop.was_signalled and self._links.drained:
            self._on_abandoned()

    # --- what links report ---

    def _open_link(self, address: str) -> Link:
        return Link(self._context, address, self._metadata, self, self.events)

    def on_registered(self, link: Link) -> None:
        self._links.registered()
        self._on_registered()

    def on_batch(self, link: Link, request: wire.PredictRequest, received_at: float) -> None:
        self._inbox.append((link, link.registration, request, received_at))

    def on_frontends(self, link: Link, addresses: list[str]) -> None:
        self._links.adopt(link, addresses)

    # --- batches ---

    def _answer(self, link: Link, registration: int, request: wire.PredictRequest, received_at: float) -> None:
        if registration != link.registration:
            return  # the frontend has given the batch to another replica, or is gone
        self._lock.release()
        try:
            response = self._compute(request, received_at)
        finally:
            self._lock.acquire()
        self._stop.listen_again()
        self._links.excuse_silence()
        link.served_at = received_at
        link.answer(response, registration)

    # --- leaving ---

    def _drain(self, now: float, requested_at: float) -> bool:
        """Say goodbye, once; then wait for the answers, but not for ever. Whether to go."""
        if self._drain_deadline == math.inf:
            self._drain_deadline = requested_at + _DRAIN_SECONDS
            logger.info("Asked to stop.")
            self._links.drain()
        return now >= self._drain_deadline or (self._links.drained and not self._inbox)
