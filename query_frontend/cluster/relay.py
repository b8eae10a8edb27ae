"""Replicas that have one connection, which leads here, serve the other frontends by way of this one.

That is so for containers of RPC version 3, and for those that cannot reach a peer. We connect to the peer as if we were
a replica, and have its batches answered by those here: by a link for each of them where the peer has no replica of the
model. Where it has some, one link to a version 3 replica stays in reserve, so that the peer can go on when it loses its
own. Containers of version 4 connect to each frontend themselves, so they are relayed only to a peer that stays without.
Relays are nobody's replicas in Redis, so nothing is relayed twice.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import zmq

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.link import Link
from clipper_common.records import Frontend
from query_frontend.rpc.server import Connection
from query_frontend.serving.cache import key_of
from query_frontend.serving.deadlines import Slot
from query_frontend.serving.model_queue import Task
from query_frontend.serving.query import QueryContext
from query_frontend.serving.reasons import SLO_MISSED

logger = logging.getLogger(__name__)

_STEADY_SECONDS: Final = 1.0
"""A peer must be without replicas for so long before one of version 4 is relayed to it: it connects there by itself."""
_TICK_SECONDS: Final = 0.1
_MAX_LINKS: Final = 16
"""Per peer and model."""
_STOP_SECONDS: Final = 5.0
_UNREGISTERED_SECONDS: Final = 1.0
"""A batch may come from a peer that read a new configuration before we did. It waits for so long until we have, too."""
_UNREGISTERED_POLL_SECONDS: Final = 0.005


class Place(NamedTuple):
    """Where a relay is wanted."""

    address: str
    """Of the peer."""
    model: ModelId
    number: int


class Wish(NamedTuple):
    """A relay that should be there, once it has been wanted for `delay` seconds."""

    place: Place
    delay: float


def wishes(peers: Iterable[Frontend], direct: Mapping[ModelId, Sequence[Connection]]) -> Iterator[Wish]:
    """Which relays the `peers` need, with the replicas here in `direct`."""
    for peer in peers:
        if not peer.rpc_address:
            continue
        for model, replicas in direct.items():
            has_own = model in peer.models
            single = sum(replica.rpc_version < wire.RPC_VERSION_4 for replica in replicas)
            at_once = min(single, 1 if has_own else _MAX_LINKS)
            later = 0 if has_own else min(len(replicas), _MAX_LINKS)
            for number in range(max(at_once, later)):
                yield Wish(Place(peer.rpc_address, model, number), 0.0 if number < at_once else _STEADY_SECONDS)


class RelayedInput(Task):
    """An input of a relayed batch, as the task executor and the deadlines see it."""

    __slots__ = ("_batch", "_index", "_slot")

    def __init__(self, batch: "RelayedBatch", index: int, payload: bytes) -> None:
        super().__init__(payload, batch.deadline)
        self.key = key_of(payload)
        self._batch = batch
        self._index = index
        self._slot: Slot | None = None

    def submit(self) -> None:
        """Ask the model version."""
        context = self._batch.context
        context.executor.submit(self._batch.model, self)
        if self.wanted:
            self._slot = context.wheel.add(self, self._batch.deadline)

    def take(self, output: bytes | None, reason: str, now: float) -> None:
        """Have the output, or the reason why there is none."""
        if not self.wanted:
            return
        self.wanted = False
        if self._slot is not None:
            self._slot.pop(self, None)
            self._slot = None
        self._batch.answer(self._index, output, reason)

    def expire(self) -> None:
        """The deadline is over."""
        self.take(None, SLO_MISSED, time.monotonic())
        self._batch.context.executor.leave(self, self._batch.model)


class RelayedBatch:
    """A batch of a peer. Once it is submitted, `done` is called when each input has an output, or a reason why not."""

    def __init__(
        self,
        context: QueryContext,
        model: ModelId,
        request: wire.PredictRequest,
        deadline: float,
        done: Callable[[wire.Response], None],
    ) -> None:
        self.context = context
        self.model = model
        self.deadline = deadline
        self._done = done
        self._inputs = request.inputs
        self._missing = len(request.inputs)
        self._response = wire.Response(request.message_id, [b""] * self._missing, [True] * self._missing)

    def submit(self) -> None:
        """Ask the model version for all outputs."""
        inputs, self._inputs = self._inputs, []  # the message that they are parts of is not kept
        for index, payload in enumerate(inputs):
            RelayedInput(self, index, bytes(payload)).submit()
        if not inputs:
            self._done(self._response)

    def answer(self, index: int, output: bytes | None, reason: str) -> None:
        self._response.outputs[index] = reason.encode() if output is None else output
        self._response.failed[index] = output is None
        self._missing -= 1
        if not self._missing:
            self._done(self._response)


class Relay:
    """One link to a peer, by which it has its batches of `model` answered here."""

    def __init__(
        self,
        zmq_context: "zmq.Context[zmq.Socket[bytes]]",
        context: QueryContext,
        place: Place,
        input_type: InputType,
        name: str,
        key: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._model = place.model
        metadata = wire.Metadata(place.model, input_type, wire.RPC_VERSION_4, name, key)
        self.link = Link(zmq_context, place.address, metadata, self, deque(maxlen=1))

    def start(self) -> None:
        """Hear what the peer says."""
        self._listen()

    def _listen(self) -> None:
        self._descriptor = self.link.socket.FD
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._loop.call_soon(self._on_readable)  # the descriptor is edge-triggered: look once

    def close(self) -> None:
        if not self.link.closed:
            self._loop.remove_reader(self._descriptor)
            self.link.close()

    def tick(self, now: float) -> None:
        if self.link.is_silent(now):
            self._on_readable()  # it may be that we did not listen
        if self.link.closed:
            return
        if self.link.is_silent(now):
            self._loop.remove_reader(self._descriptor)
            self.link.reconnect()
            self._listen()
        if now >= self.link.due:
            self.link.greet()
            self._on_readable()  # sending may have swallowed the edge that says that something can be read

    def _on_readable(self) -> None:
        while not self.link.closed and self.link.receive():
            pass
        if self.link.is_mute and not self.link.closed:
            self.link.greet()

    def on_registered(self, link: Link) -> None:
        """The peer accepted us."""

    def on_frontends(self, link: Link, addresses: list[str]) -> None:
        """Known from Redis."""

    def on_batch(self, link: Link, request: wire.PredictRequest, received_at: float) -> None:
        executor = self._context.executor
        if self._model not in executor.direct_replicas():
            self.close()  # the peer gives the batch to another, if there is one
            return
        slo_seconds = executor.slo_seconds(self._model)
        if slo_seconds is None and time.monotonic() - received_at < _UNREGISTERED_SECONDS:
            self._loop.call_later(_UNREGISTERED_POLL_SECONDS, self._retry, link.registration, request, received_at)
            return
        registration = link.registration
        deadline = received_at + (slo_seconds or 0.0)

        def done(response: wire.Response) -> None:
            if not link.closed:
                link.answer(response, registration)
                self._loop.call_soon(self._on_readable)

        RelayedBatch(self._context, self._model, request, deadline, done).submit()

    def _retry(self, registration: int, request: wire.PredictRequest, received_at: float) -> None:
        if not self.link.closed and self.link.registration == registration:
            self.on_batch(self.link, request, received_at)


class Relays:
    """All relays of this frontend, kept as they should be: look by `review` whenever something changed."""

    def __init__(self, context: QueryContext) -> None:
        self._context = context
        self._relays: dict[Place, Relay] = {}
        self._leaving: list[Relay] = []
        self._wanted_since: dict[Place, float] = {}
        self._name = ""
        self._key = uuid.uuid4().hex
        self._peers: list[Frontend] = []
        self._stopping = False

    def start(self, name: str) -> None:
        """`name` is this frontend's among its peers."""
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._tick()

    async def stop(self) -> None:
        """Let the peers go, with what is under way answered."""
        self._stopping = True
        for place in list(self._relays):
            self._leave(place)
        give_up = time.monotonic() + _STOP_SECONDS
        while self._leaving and time.monotonic() < give_up:
            await asyncio.sleep(_TICK_SECONDS / 10)
            self._forget_drained()
        self._ticker.cancel()
        for relay in self._leaving:
            relay.close()
        self._zmq_context.term()

    def meet(self, peers: list[Frontend]) -> None:
        """These are the peers that live, and which models they have replicas of."""
        self._peers = peers
        self.review()

    def review(self) -> None:
        """Open the relays that are missing, and let go those that are not needed."""
        if self._stopping:
            return
        direct = self._context.executor.direct_replicas()
        wanted = dict(wishes(self._peers, direct))
        now = time.monotonic()
        self._wanted_since = {place: self._wanted_since.get(place, now) for place in wanted}
        for place, delay in wanted.items():
            if place not in self._relays and now - self._wanted_since[place] >= delay:
                self._open(place, direct[place.model][0].metadata.input_type)
        known = {peer.rpc_address for peer in self._peers}
        for place, relay in list(self._relays.items()):
            # A peer that Redis does not know may be there all the same, if Redis lost all a moment ago.
            is_cut_off = place.address not in known and relay.link.reached
            if relay.link.closed or (place not in wanted and not (is_cut_off and place.model in direct)):
                self._leave(place)

    def _open(self, place: Place, input_type: InputType) -> None:
        name = f"{wire.RELAY_PREFIX}{self._name}/{place.model}/{place.number}"
        try:
            relay = Relay(self._zmq_context, self._context, place, input_type, name, self._key)
        except zmq.ZMQError as error:
            logger.error("a query frontend cannot be at %s, as it says: %s", place.address, error)
        else:
            relay.start()
            self._relays[place] = relay
            logger.info("relaying %s for the query frontend at %s", place.model, place.address)

    def _leave(self, place: Place) -> None:
        relay = self._relays.pop(place)
        logger.info("relaying %s for the query frontend at %s no more", place.model, place.address)
        relay.link.drain()
        self._leaving.append(relay)

    def _forget_drained(self) -> None:
        for relay in list(self._leaving):
            if relay.link.closed or relay.link.drained or not relay.link.reached:
                relay.close()
                self._leaving.remove(relay)

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        now = time.monotonic()
        self._forget_drained()
        for relay in [*self._relays.values(), *self._leaving]:
            if not relay.link.closed:
                relay.tick(now)
