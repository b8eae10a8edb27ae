"""A ZeroMQ DEALER socket on the event loop, which connects to the ROUTER of another query frontend."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from clipper_common.rpc_client import MAX_RECONNECT_MILLIS, RECONNECT_MILLIS, split_tcp_address
from query_frontend.rpc import zmtp
from query_frontend.rpc.peer import MAX_MESSAGE_BYTES, Peer, PeerEvents, configure
from query_frontend.rpc.strangers import Strangers
from query_frontend.rpc.zmtp import Conversation

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS: Final = RECONNECT_MILLIS / 1000
_MAX_RECONNECT_SECONDS: Final = MAX_RECONNECT_MILLIS / 1000


@dataclass
class DealerEvents:
    """The callbacks of a dealer."""

    received: Callable[[list[bytes]], None]
    """Called with each message."""
    connected: Callable[[], None]
    """Called when messages can be sent."""
    lost: Callable[[], None]
    """Called when messages cannot be sent any more. The dealer connects anew by itself."""


class Dealer:
    """A transport for channels. Raises `ValueError` when `address` is not that of a TCP port."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._host, self._port = split_tcp_address(address)
        self._peer: Peer | None = None
        """The connection, or None while there is none."""
        self._is_connected = False
        """Whether messages can be sent: the other side has introduced itself."""
        self._pause = _RECONNECT_SECONDS
        """Seconds to wait before the next attempt to connect."""
        self._connecting: asyncio.Task[None] | None = None
        self._last_warning = ""

    def start(self, events: DealerEvents) -> None:
        """Connect, and report to `events` from now on."""
        self._events = events
        self._peer_events = PeerEvents(
            received=self._on_received,
            lost=self._on_lost,
            warn=self._warn,
            opened=self._on_opened,
            name=f"the connection to the query frontend at {self.address}",
        )
        self._begin(0.0)

    def send(self, frames: list[bytes]) -> bool:
        """Send a message without blocking. Return False if no frontend is connected."""
        return self._is_connected and self._peer is not None and self._peer.send(frames)

    def reconnect(self) -> None:
        """Give up the present connection for a new one."""
        self.close()
        self._begin(0.0)

    def close(self) -> None:
        """Give up the connection, and make no other."""
        self._is_connected = False
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    # --- connecting ---

    def _begin(self, pause: float) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._connect(pause))

    async def _connect(self, pause: float) -> None:
        """Try to connect until it succeeds."""
        await asyncio.sleep(pause)
        while (connection := await self._try_addresses()) is None:
            await asyncio.sleep(self._next_pause())
        self._connecting = None
        # The address is that of a query frontend, which may send large batches at once.
        self._peer = Peer(connection, self._peer_events, Conversation(MAX_MESSAGE_BYTES, zmtp.DEALER), Strangers())
        self._peer.start()

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, _MAX_RECONNECT_SECONDS)
        return pause

    async def _try_addresses(self) -> socket.socket | None:
        """Return a connection to one of the addresses that the host has, or None. Those of IPv4 are tried first."""
        loop = asyncio.get_running_loop()
        with suppress(OSError, UnicodeError):  # the name is not known at the moment, or cannot be one
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            for family, *_, address in sorted(found, key=lambda one: one[0] != socket.AF_INET):
                with suppress(OSError):
                    return await _open(family, address)
        return None

    # --- callbacks of the connection ---

    def _on_opened(self, _: Peer) -> None:
        self._pause = _RECONNECT_SECONDS
        self._last_warning = ""
        self._is_connected = True
        self._events.connected()

    def _on_received(self, peer: Peer, messages: list[list[bytes]]) -> None:
        for frames in messages:
            if not peer.closed:
                self._events.received(frames)

    def _on_lost(self, _: Peer, reason: str) -> None:
        was_connected, self._is_connected, self._peer = self._is_connected, False, None
        self._begin(self._next_pause())
        if was_connected:
            logger.info("the query frontend at %s is lost: %s", self.address, reason)
            self._events.lost()

    def _warn(self, text: str) -> None:
        """Log a warning, but not again after each attempt to connect."""
        if text != self._last_warning:
            self._last_warning = text
            logger.warning("%s", text)


async def _open(family: int, address: tuple[Any, ...]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        configure(connection)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:  # also if the attempt is cancelled
        connection.close()
        raise
    return connection
