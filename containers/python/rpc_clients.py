"""The RPC connections of this container: one client for each query frontend.

The list of frontends is first requested from the address in the environment, on a connection of its own: that address
may be a frontend's or a load balancer's. Each connected frontend sends the list again whenever it changes.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Final

import zmq

from clipper_common import wire
from clipper_common.rpc_client import Channel, RpcClient

from .zmq_transport import ZmqTransport

logger = logging.getLogger(__name__)

_REVIEW_SECONDS: Final = 0.5
_REACH_SECONDS: Final = 5.0
"""Seconds in which a listed frontend must be reached before the address that listed it is used instead."""


ZmqChannel = Channel[ZmqTransport]
ZmqClient = RpcClient[ZmqTransport]


class Inquiry(ZmqChannel):
    """Requests the list of query frontends from one of them."""

    def __init__(self, transport: ZmqTransport, on_frontends: Callable[[list[str]], None]) -> None:
        self._on_frontends = on_frontends
        super().__init__(transport)

    def _try_heartbeat(self) -> bool:
        return self._send(wire.encode_frontends_request()) and self._send(wire.encode_heartbeat())

    def _handle(self, message: wire.FromFrontend, received_at: float) -> None:
        match message:
            case wire.Frontends(addresses):
                self._on_frontends(addresses)
            case wire.HeartbeatReply():  # without a list before it: the frontend knows of no others
                self._on_frontends([""])


class RpcClients:
    """The clients of all query frontends. `open_client` makes one for an address."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, open_client: Callable[[str], ZmqClient]
    ) -> None:
        self._context = context
        self._address = address
        self._open_client = open_client
        self._clients: dict[str, ZmqClient] = {}
        self._opened_at: dict[ZmqClient, float] = {}
        self._own_names: dict[ZmqClient, str] = {}
        """The address that the frontend of each client gives as its own; empty if it knows none."""
        self._listed: set[str] = set()
        """The addresses in the newest list of frontends."""
        self._inquiry: Inquiry | None = None
        self._inquire_at = 0.0
        self._review_at = 0.0
        self._reach_by = math.inf
        self._draining = False
        self.channels: list[ZmqChannel] = []
        """The open connections. The list is replaced, not changed, when they change."""

    def __iter__(self) -> Iterator[ZmqClient]:
        return iter(list(self._clients.values()))

    # --- lifetime ---

    def run_timers(self, now: float, listening: bool = True) -> float:
        """Run the timers that are due, and return the monotonic time of the next one.

        With `listening=False`, as while the model computes, no connection counts as silent.
        """
        if now >= self._review_at and not self._draining:
            self._review(now, listening)
            self._review_at = now + _REVIEW_SECONDS
        due = now + _REVIEW_SECONDS if self._draining else self._review_at
        for channel in self.channels:
            if now >= channel.due:
                channel.send_heartbeat()
            if channel.due < due:
                due = channel.due
        return due

    def drain(self) -> None:
        """Ask all frontends to send no more batches."""
        if not self._draining:
            self._draining = True
            self._end_inquiry()
            for client in self:
                client.drain()

    @property
    def drained(self) -> bool:
        """Whether each frontend has released this replica, or cannot be reached."""
        return all(client.drained or not client.reached for client in self)

    def reset_idle_timers(self) -> None:
        """Restart the silence timeouts after a time in which no messages were read."""
        now = time.monotonic()
        for channel in self.channels:
            channel.heard_at = now

    def close(self) -> None:
        self._draining = True
        self._end_inquiry()
        for client in self:
            client.close()

    # --- which frontends ---

    def update_frontends(self, client: ZmqClient, addresses: list[str]) -> None:
        """Connect to the frontends that the frontend of `client` lists, its own address first."""
        self._own_names[client] = addresses[0]
        self._update(addresses, client.address)

    def on_registered(self) -> None:
        """Review the connections at the next call of `run_timers`, since a frontend has accepted one."""
        self._review_at = 0.0

    def _update(self, addresses: list[str], sender: str) -> None:
        if self._draining:
            return
        own, *others = addresses
        self._listed = {own or sender, *filter(None, others)}
        for address in sorted(self._listed - self._clients.keys()):
            self._open(address)
        self._review_at = 0.0

    def _review(self, now: float, listening: bool) -> None:
        if listening:
            for channel in self.channels:
                if channel.is_silent(now):
                    channel.reconnect()
        for client in self:
            if self._is_superfluous(client, now):
                self._close(client)
        if any(client.reached for client in self):
            self._reach_by = math.inf
            self._end_inquiry()
        elif self._inquiry is None and now >= self._inquire_at:
            self._inquiry = Inquiry(ZmqTransport(self._context, self._address), self._on_inquired)
            self._list_channels()
        if now >= self._reach_by:
            self._reach_by = math.inf
            if self._address not in self._clients:
                logger.warning("No query frontend can be reached where it says it is: using %s.", self._address)
                self._open(self._address)

    def _is_superfluous(self, client: ZmqClient, now: float) -> bool:
        """Whether a client is a second one for the same frontend, or cannot reach a frontend that is not listed.

        A working connection is kept although its frontend is not listed: without Redis, frontends do not know others.
        """
        name = self._own_names.get(client) or client.address
        if name != client.address and (other := self._clients.get(name)) is not None and other.registered:
            return True  # this is the indirect one of two connections to a frontend
        is_listed = bool(self._listed & {name, client.address})
        return not is_listed and not client.reached and now - self._opened_at[client] > _REACH_SECONDS

    def _on_inquired(self, addresses: list[str]) -> None:
        now = time.monotonic()
        self._inquire_at = now + _REACH_SECONDS
        self._reach_by = min(self._reach_by, now + _REACH_SECONDS)
        self._end_inquiry()
        self._update(addresses, self._address)

    # --- sockets ---

    def _open(self, address: str) -> None:
        try:
            client = self._open_client(address)
        except zmq.ZMQError as error:
            logger.error("A query frontend cannot be at %s, as was said: %s", address, error)
        else:
            self._clients[address] = client
            self._opened_at[client] = time.monotonic()
            self._list_channels()

    def _close(self, client: ZmqClient) -> None:
        logger.info("The query frontend at %s is gone.", client.address)
        client.close()
        del self._clients[client.address]
        del self._opened_at[client]
        self._own_names.pop(client, None)
        self._list_channels()

    def _end_inquiry(self) -> None:
        if self._inquiry is not None:
            self._inquiry.close()
            self._inquiry = None
            self._list_channels()

    def _list_channels(self) -> None:
        self.channels = [*self._clients.values(), *filter(None, [self._inquiry])]
