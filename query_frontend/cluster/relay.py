"""Relays, by which replicas that are connected only to this frontend serve the other frontends.

Containers of RPC version 3 have one connection, and others may be unable to reach a peer. This frontend connects to the
peer like a replica, and the replicas here answer the peer's batches. A peer gets a relay for each version 3 replica
here. Version 4 containers connect to each frontend themselves, so they are relayed only to a peer that stays without a
replica. Relays are not recorded as replicas in Redis, and they get no inputs that were relayed, so nothing is relayed
twice.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.records import Frontend
from clipper_common.rpc_client import RpcClient
from clipper_common.waiting import TimeLimit
from query_frontend.rpc.dealer import Dealer, DealerEvents
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving.cache import key_of
from query_frontend.serving.deadlines import Slot
from query_frontend.serving.model_queue import Task
from query_frontend.serving.query import QueryContext
from query_frontend.serving.reasons import LAST_REPLICA_DIED, NO_MODELS, SLO_MISSED

logger = logging.getLogger(__name__)

_STEADY_SECONDS: Final = 1.0
"""Seconds that a peer must lack replicas before a version 4 replica, which may still connect itself, is relayed."""
_TICK_SECONDS: Final = 0.1
_STALL_SECONDS: Final = 2.5
"""A longer time between two ticks says that the event loop read nothing meanwhile, so that silence means nothing."""
_MAX_RELAYS: Final = 16
"""The most relays for each peer and model version."""
_STOP_SECONDS: Final = 5.0
_UNREGISTERED_SECONDS: Final = 1.0
"""Seconds that a batch waits for its model version to be in the configuration, which a peer may have read earlier."""
_UNREGISTERED_POLL_SECONDS: Final = 0.005


class RelayId(NamedTuple):
    """Identifies a relay: the peer, the model version, and its number among those of both."""

    address: str
    """The RPC address of the peer."""
    model_id: ModelId
    number: int


class WantedRelay(NamedTuple):
    """A relay that must be open, once it has been wanted for `delay` seconds."""

    relay_id: RelayId
    delay: float


def wanted_relays(
    peers: Iterable[Frontend], direct_replicas: Mapping[ModelId, Sequence[ReplicaConnection]]
) -> Iterator[WantedRelay]:
    """Yield the relays that `peers` need. `direct_replicas` has the replicas that are connected to this frontend."""
    for peer in peers:
        if not peer.rpc_address:
            continue
        for model, replicas in direct_replicas.items():
            has_own = model in peer.models
            single = sum(replica.rpc_version < wire.RPC_VERSION_4 for replica in replicas)
            at_once = min(single, _MAX_RELAYS)
            later = 0 if has_own else min(len(replicas), _MAX_RELAYS)
            for number in range(max(at_once, later)):
                yield WantedRelay(
                    RelayId(peer.rpc_address, model, number), 0.0 if number < at_once else _STEADY_SECONDS
                )


class RelayedInput(Task):
    """An input of a relayed batch: a task of the executor with a slot of the deadline wheel."""

    __slots__ = ("_batch", "_index", "_slot")
    is_relayed = True

    def __init__(self, batch: "RelayedBatch", index: int, payload: bytes, deadline: float) -> None:
        super().__init__(payload, deadline)
        self.key = key_of(payload)
        self._batch = batch
        self._index = index
        self._slot: Slot | None = None

    def submit(self) -> None:
        """Ask the model version."""
        context = self._batch.context
        context.executor.submit(self._batch.model_id, self)
        if self.is_waiting:
            self._slot = context.wheel.add(self, self.deadline)

    def resolve(self, output: bytes | None, reason: str, now: float) -> None:
        """Receive the output, or the reason why there is none."""
        if not self.is_waiting:
            return
        self.is_waiting = False
        if self._slot is not None:
            self._slot.pop(self, None)
            self._slot = None
        self._batch.answer(self._index, output, reason)

    def expire(self) -> None:
        """Answer with a reason, since the deadline has passed."""
        self.resolve(None, SLO_MISSED, time.monotonic())
        self._batch.context.executor.withdraw(self, self._batch.model_id)


class RelayedBatch:
    """A batch of a peer, of which each input has a deadline.

    Once it is submitted, `send` is called with the answers that there are in a turn of the event loop, until each input
    has an output or failed. A peer that takes parts gets these at once, any other gets all of them together.
    `on_no_replica` is called when there is no replica for an input any more.
    """

    def __init__(
        self,
        context: QueryContext,
        model_id: ModelId,
        request: wire.PredictRequest,
        deadlines: Sequence[float],
        send: Callable[[wire.Response], None],
        on_no_replica: Callable[[], None],
    ) -> None:
        self.context = context
        self.model_id = model_id
        self._message_id = request.message_id
        self._takes_parts = request.remaining_micros is not None
        self._send = send
        self._on_no_replica = on_no_replica
        self._inputs = request.inputs
        self._deadlines = deadlines
        self._missing = self._size = len(request.inputs)
        self._answers: dict[int, tuple[bytes, bool]] = {}
        """The answers that were not sent yet, by the positions of their inputs: an output, or why there is none, and
        whether it is the latter."""

    def submit(self) -> None:
        """Ask the model version for all outputs."""
        inputs, self._inputs = self._inputs, []  # the message that they are parts of is not kept
        for index, (payload, deadline) in enumerate(zip(inputs, self._deadlines, strict=True)):
            RelayedInput(self, index, bytes(payload), deadline).submit()
        if not inputs:
            self._send_answers()

    def answer(self, index: int, output: bytes | None, reason: str) -> None:
        """Take the output of an input, or the reason why there is none."""
        if output is None and reason in (NO_MODELS, LAST_REPLICA_DIED):
            self._on_no_replica()
            return
        if self._takes_parts and not self._answers:
            asyncio.get_running_loop().call_soon(self._send_answers)
        self._answers[index] = (reason.encode(), True) if output is None else (output, False)
        self._missing -= 1
        if not self._missing:
            self._send_answers()

    def _send_answers(self) -> None:
        if not self._answers and self._size:  # they were the last ones, which are sent at once
            return
        answers, self._answers = self._answers, {}
        positions = None if len(answers) == self._size else list(answers)
        ordered = [answers[index] for index in positions or range(self._size)]
        outputs, failed = [output for output, _ in ordered], [is_failed for _, is_failed in ordered]
        self._send(wire.Response(self._message_id, outputs, failed, positions))


class Relay:
    """An RPC connection to a peer, whose batches of a model version are answered by the replicas here.

    Raises `ValueError` when the address of the peer is none.
    """

    def __init__(self, context: QueryContext, relay_id: RelayId, input_type: InputType, name: str, key: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._model_id = relay_id.model_id
        metadata = wire.Metadata(relay_id.model_id, input_type, wire.RPC_VERSION_4, name, key, takes_deadlines=True)
        self._dealer = Dealer(relay_id.address)
        self.client = RpcClient(self._dealer, metadata, self, deque(maxlen=1))
        self._ticked_at = 0.0

    def start(self) -> None:
        """Connect to the peer, and answer its batches from now on."""
        client = self.client
        self._dealer.start(DealerEvents(client.receive, client.send_heartbeat, client.on_lost))

    def close(self) -> None:
        """Disconnect. The peer sends what it has no answers for to another replica, if there is one."""
        self.client.close()

    def tick(self, now: float) -> None:
        """Send a heartbeat if one is due, or connect anew if the peer is silent."""
        if now - self._ticked_at > _STALL_SECONDS:
            self.client.heard_at = now
        self._ticked_at = now
        if self.client.is_silent(now):
            self.client.reconnect()
        elif now >= self.client.due:
            self.client.send_heartbeat()

    def on_registered(self, client: RpcClient[Dealer]) -> None:
        """Do nothing: a relay is ready when it is registered."""

    def on_frontends(self, client: RpcClient[Dealer], addresses: list[str]) -> None:
        """Do nothing: the peers are known from Redis."""

    def on_batch(self, client: RpcClient[Dealer], request: wire.PredictRequest, received_at: float) -> None:
        executor = self._context.executor
        if not executor.is_direct(self._model_id):
            self.close()
            return
        slo_seconds = executor.slo_seconds(self._model_id)
        if slo_seconds is None and time.monotonic() - received_at < _UNREGISTERED_SECONDS:
            self._loop.call_later(_UNREGISTERED_POLL_SECONDS, self._retry, client.registration, request, received_at)
            return
        registration = client.registration
        if request.remaining_micros is None:
            deadlines = [received_at + (slo_seconds or 0.0)] * len(request.inputs)
        else:
            deadlines = [received_at + micros / 1e6 for micros in request.remaining_micros]

        def send(response: wire.Response) -> None:
            if not client.closed:
                client.answer(response, registration)

        RelayedBatch(self._context, self._model_id, request, deadlines, send, self.close).submit()

    def _retry(self, registration: int, request: wire.PredictRequest, received_at: float) -> None:
        if not self.client.closed and self.client.registration == registration:
            self.on_batch(self.client, request, received_at)


class Relays:
    """All relays of this frontend. They are reviewed when the replicas here or the other frontends have changed."""

    def __init__(self, context: QueryContext) -> None:
        self._context = context
        self._relays: dict[RelayId, Relay] = {}
        self._draining: list[Relay] = []
        self._wanted_since: dict[RelayId, float] = {}
        self._name = ""
        self._key = uuid.uuid4().hex
        self._other_frontends: list[Frontend] = []
        self._stopping = False
        self._is_review_due = False

    def start(self, name: str) -> None:
        """Start the timer. `name` identifies this frontend among its peers."""
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._tick()

    async def stop(self) -> None:
        """Drain all relays, so that batches in flight are answered, and close them after `_STOP_SECONDS` at most."""
        self._stopping = True
        for relay_id in list(self._relays):
            self._drain(relay_id)
        async for _ in TimeLimit(_STOP_SECONDS).attempts(_TICK_SECONDS / 10):
            self._close_drained()
            if not self._draining:
                break
        self._ticker.cancel()
        for relay in self._draining:
            relay.close()

    def update_other_frontends(self, peers: list[Frontend]) -> None:
        """Set the other live frontends, with the models that they have replicas of, and review the relays."""
        self._other_frontends = peers
        self.review()

    def review_soon(self) -> None:
        """Review the relays in the next turn of the event loop, once for all changes of this one.

        A review looks at all replicas, and all of them may come or go at once.
        """
        if not self._is_review_due:
            self._is_review_due = True
            asyncio.get_running_loop().call_soon(self._review_due)

    def _review_due(self) -> None:
        self._is_review_due = False
        self.review()

    def review(self) -> None:
        """Open the relays that are missing, and drain those that are not needed."""
        if self._stopping:
            return
        direct = self._context.executor.direct_replicas()
        wanted = dict(wanted_relays(self._other_frontends, direct))
        now = time.monotonic()
        self._wanted_since = {relay_id: self._wanted_since.get(relay_id, now) for relay_id in wanted}
        for relay_id, delay in wanted.items():
            if relay_id not in self._relays and now - self._wanted_since[relay_id] >= delay:
                self._open(relay_id, direct[relay_id.model_id][0].metadata.input_type)
        known = {peer.rpc_address for peer in self._other_frontends}
        for relay_id, relay in list(self._relays.items()):
            # A peer that is not in Redis may still be alive, if Redis has just lost its data.
            is_cut_off = relay_id.address not in known and relay.client.reached
            if relay.client.closed or (relay_id not in wanted and not (is_cut_off and relay_id.model_id in direct)):
                self._drain(relay_id)

    def _open(self, relay_id: RelayId, input_type: InputType) -> None:
        name = f"{wire.RELAY_PREFIX}{self._name}/{relay_id.model_id}/{relay_id.number}"
        try:
            relay = Relay(self._context, relay_id, input_type, name, self._key)
        except ValueError as error:
            logger.error("a query frontend cannot be where it says: %s", error)
        else:
            relay.start()
            self._relays[relay_id] = relay
            logger.info("relaying %s for the query frontend at %s", relay_id.model_id, relay_id.address)

    def _drain(self, relay_id: RelayId) -> None:
        relay = self._relays.pop(relay_id)
        logger.info("relaying %s for the query frontend at %s no more", relay_id.model_id, relay_id.address)
        relay.client.drain()
        self._draining.append(relay)

    def _close_drained(self) -> None:
        for relay in list(self._draining):
            if relay.client.closed or relay.client.drained or not relay.client.reached:
                relay.close()
                self._draining.remove(relay)

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK_SECONDS, self._tick)
        now = time.monotonic()
        self._close_drained()
        for relay in [*self._relays.values(), *self._draining]:
            if not relay.client.closed:
                relay.tick(now)
