"""To which query frontends this container is linked: one link to each that there is.

The address in the environment is asked first which frontends there are, on a connection of its own: it may be that of
one frontend, or stand for any of them. Each frontend that we are linked to says so again whenever it changes.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Final

import zmq

from clipper_common import wire
from clipper_common.link import Channel, Link

logger = logging.getLogger(__name__)

_REVIEW_SECONDS: Final = 0.5
_REACH_SECONDS: Final = 5.0
"""In which a frontend that was named must be reached, else the one that named it has to do."""


class Inquiry(Channel):
    """Asks at `address` which frontends there are."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        on_frontends: Callable[[list[str]], None],
    ) -> None:
        self._on_frontends = on_frontends
        super().__init__(context, address)

    def _send_greeting(self) -> bool:
        return self._send(wire.encode_frontends_request()) and self._send(wire.encode_heartbeat())

    def _handle(self, message: wire.FromFrontend, received_at: float) -> None:
        match message:
            case wire.Frontends(addresses):
                self._on_frontends(addresses)
            case wire.HeartbeatReply():  # and no list before it: a frontend that knows of no others
                self._on_frontends([""])


class Links:
    """`open_link` makes a link to an address."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, open_link: Callable[[str], Link]
    ) -> None:
        self._context = context
        self._address = address
        self._open_link = open_link
        self._links: dict[str, Link] = {}
        self._opened_at: dict[Link, float] = {}
        self._own_names: dict[Link, str] = {}
        """Where the frontend of a link says that it is."""
        self._listed: set[str] = set()
        """Of the newest list."""
        self._inquiry: Inquiry | None = None
        self._inquire_at = 0.0
        self._review_at = 0.0
        self._reach_by = math.inf
        self._draining = False
        self.channels: list[Channel] = []
        """All that must be tended and listened to; another list when these are others."""

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    # --- life ---

    def tend(self, now: float, listening: bool = True) -> float:
        """Do what is due; when to come again. `listening`: what was not heard was not said."""
        if now >= self._review_at and not self._draining:
            self._review(now, listening)
            self._review_at = now + _REVIEW_SECONDS
        due = now + _REVIEW_SECONDS if self._draining else self._review_at
        for channel in self.channels:
            if now >= channel.due:
                channel.greet()
            if channel.due < due:
                due = channel.due
        return due

    def drain(self) -> None:
        """Say goodbye to all frontends."""
        if not self._draining:
            self._draining = True
            self._end_inquiry()
            for link in self:
                link.drain()

    @property
    def drained(self) -> bool:
        """Whether all of them let us go, or are gone themselves."""
        return all(link.drained or not link.reached for link in self)

    def excuse_silence(self) -> None:
        """Nobody listened for a while: that was our silence, not the frontends'."""
        now = time.monotonic()
        for channel in self.channels:
            channel.heard_at = now

    def close(self) -> None:
        self._draining = True
        self._end_inquiry()
        for link in self:
            link.close()

    # --- which links ---

    def adopt(self, link: Link, addresses: list[str]) -> None:
        """A frontend that we are linked to says which ones there are."""
        self._own_names[link] = addresses[0]
        self._adopt(addresses, link.address)

    def registered(self) -> None:
        """One of the links has been accepted."""
        self._review_at = 0.0

    def _adopt(self, addresses: list[str], sender: str) -> None:
        if self._draining:
            return
        own, *others = addresses
        self._listed = {own or sender, *filter(None, others)}
        for address in sorted(self._listed - self._links.keys()):
            self._open(address)
        self._review_at = 0.0

    def _review(self, now: float, listening: bool) -> None:
        if listening:
            for channel in self.channels:
                if channel.is_silent(now):
                    channel.reconnect()
        for link in self:
            if self._is_superfluous(link, now):
                self._close(link)
        if any(link.reached for link in self):
            self._reach_by = math.inf
            self._end_inquiry()
        elif self._inquiry is None and now >= self._inquire_at:
            self._inquiry = Inquiry(self._context, self._address, self._on_inquired)
            self._list_channels()
        if now >= self._reach_by:
            self._reach_by = math.inf
            if self._address not in self._links:
                logger.warning("No query frontend can be reached where it says it is: using %s.", self._address)
                self._open(self._address)

    def _is_superfluous(self, link: Link, now: float) -> bool:
        """What lives is kept, whoever does not list it: Redis may be away, and frontends not know of each other."""
        name = self._own_names.get(link) or link.address
        if name != link.address and (other := self._links.get(name)) is not None and other.registered:
            return True  # there are two to the same frontend, and this is the way around
        is_listed = bool(self._listed & {name, link.address})
        return not is_listed and not link.reached and now - self._opened_at[link] > _REACH_SECONDS

    def _on_inquired(self, addresses: list[str]) -> None:
        now = time.monotonic()
        self._inquire_at = now + _REACH_SECONDS
        self._reach_by = min(self._reach_by, now + _REACH_SECONDS)
        self._end_inquiry()
        self._adopt(addresses, self._address)

    # --- sockets ---

    def _open(self, address: str) -> None:
        try:
            link = self._open_link(address)
        except zmq.ZMQError as error:
            logger.error("A query frontend cannot be at %s, as was said: %s", address, error)
        else:
            self._links[address] = link
            self._opened_at[link] = time.monotonic()
            self._list_channels()

    def _close(self, link: Link) -> None:
        logger.info("The query frontend at %s is gone.", link.address)
        link.close()
        del self._links[link.address]
        del self._opened_at[link]
        self._own_names.pop(link, None)
        self._list_channels()

    def _end_inquiry(self) -> None:
        if self._inquiry is not None:
            self._inquiry.close()
            self._inquiry = None
            self._list_channels()

    def _list_channels(self) -> None:
        self.channels = [*self._links.values(), *filter(None, [self._inquiry])]
