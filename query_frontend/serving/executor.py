"""cache -> queue -> replica -> outcome: gets each task done by some replica of its model version.

A task whose replica is lost is tried once more; more often only to find the input of which replicas die.

Replicas pull: one that is idle takes the next batch, and has no other until it answered. So the load balances
itself, and a slow replica slows nobody.
"""

import itertools
import logging
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from time import monotonic
from typing import Final, NamedTuple, Protocol

from clipper_common import jsontext, long_work
from clipper_common.constants import SIZE_LIMITS
from clipper_common.datatypes import BatchPolicy, ModelId
from clipper_common.records import Model
from clipper_common.wire import MESSAGE_ID_LIMIT, PredictRequest, Response
from query_frontend.monitoring.metrics import Gauge, Leaves, ModelMetrics, SystemMetrics
from query_frontend.rpc.router import has_ended
from query_frontend.rpc.server import QUICK_SECONDS, Connection
from query_frontend.serving import large_outputs
from query_frontend.serving.answers import LARGE_OUTPUT_BYTES, embed_large
from query_frontend.serving.batching import BatchSizer, batch_sizer
from query_frontend.serving.cache import CachePartition, PredictionCache
from query_frontend.serving.model_queue import ModelQueue, Task
from query_frontend.serving.poison import BLAME_SECONDS, ENDS_TO_BLAME, Blame

logger = logging.getLogger(__name__)

NO_MODELS: Final = "No connected models found for query"
QUEUE_FULL: Final = "The queue of the model is full"
REPLICA_DIED: Final = "The model container died while it handled the query, twice"
LAST_REPLICA_DIED: Final = "The model container died while it handled the query, and no other is connected"
INPUT_BLAMED: Final = "Model containers died of this input when they had no other: it is not sent to one for a while"
MODEL_RAISED: Final = "The model raised "

_SMALLEST_LIMIT: Final = SIZE_LIMITS[0]
_MAX_SENDS: Final = 2
_STEP_TASKS: Final = 64
"""As many tasks as get their outputs in about a millisecond, with what is written to their clients."""
_FEW_WAITING: Final = 8
"""As many who wait for one task get its output at once, since a step delivers those of many tasks."""
_STEP_BYTES: Final = 1 << 16
"""No more outputs are delivered at once, unless a single one is larger."""
_SLO_SHARE: Final = 0.46
"""A query waits for at most one batch before its own: half of the SLO for each, less a margin for everything else."""
_AFTER_DEADLINE_SECONDS: Final = 0.05
_DELIVERY_SHARE: Final = 0.05
"""What of the SLO passes between the answer of a replica and those to its queries."""


class ReplicaTransport(Protocol):
    """Carries batches to replicas: the RPC server does."""

    def send_batch(self, connection: Connection, request: PredictRequest) -> bool:
        """Send a batch; False when the replica is gone, and then `Executor.on_left` was called."""

    def disconnect(self, connection: Connection, reason: str) -> None:
        """Disconnect a replica that misbehaves."""

    def release(self, connection: Connection) -> None:
        """Let a draining replica go."""


class ModelState:
    """A registered model version: its queue, its replicas, what is known of it."""

    def __init__(self, model: Model, slo_seconds: float, metrics: ModelMetrics, blame_seconds: float) -> None:
        self.model = model
        self.slo_seconds = slo_seconds
        self.partition = CachePartition()
        """Of the cache; with it on, also what identical queries can join. Registered again, it has another."""
        self.metrics = metrics
        self.queue = ModelQueue()
        self.replicas: list[ReplicaState] = []
        self.is_served = False
        """Whether one of them takes batches."""
        self.has_own = False
        """Whether one of these is connected to us itself. Then relays are held in reserve, and get no batches."""
        self.is_counted = True
        """Whether what is queued is counted here: not if only relays take it, since their frontends count it."""
        self.idle: deque[ReplicaState] = deque()
        """Longest idle first."""
        self.suspects: deque[list[Task]] = deque()
        """Parts of batches with which a replica died. Each is tried by itself, one at a time."""
        self.trial: Batch | None = None
        """The one that a replica has now."""
        self.blame = Blame(blame_seconds)
        """Registered again, it blames none."""
        self.filling = 0
        """Requests of which not all inputs are queued yet."""
        self.num_filled = 0
        """How many queued tasks are of such requests, or were; not more than there are."""
        self.dispatch_due = False
        self.delayed: TimerHandle | None = None
        """Dispatches, however few have come until then."""
        self.live = True

    def is_of(self, model: Model | None) -> bool:
        """Whether `model` is the same registration, however its batches are to be made."""
        return model is not None and self.model.with_batching_of(model) == model

    def replicas_changed(self) -> None:
        serving = [replica for replica in self.replicas if not replica.draining]
        self.is_served = bool(serving)
        self.has_own = any(not replica.is_relay for replica in serving)
        self.is_counted = not serving or self.has_own
        if self.has_own:
            self.idle = deque(replica for replica in self.idle if not replica.is_relay)
        else:
            free = (replica for replica in serving if replica.batch is None and replica not in self.idle)
            self.idle.extend(free)

    @property
    def is_only_filled(self) -> bool:
        """Whether all that is queued is of requests of which more is to come."""
        return self.filling > 0 and self.num_filled >= len(self.queue)

    @property
    def batch_budget_seconds(self) -> float:
        return self.slo_seconds * _SLO_SHARE

    @property
    def delivery_seconds(self) -> float:
        return self.slo_seconds * _DELIVERY_SHARE

    def take_waiting(self) -> list[Task]:
        """Take out all that no replica has."""
        suspects = [task for part in self.suspects for task in part]
        self.suspects.clear()
        return [*self.queue.clear(), *suspects]

    def new_sizer(self) -> BatchSizer:
        return batch_sizer(self.model.batch_policy, self.model.batch_size)

    def blamed(self) -> Leaves:
        return {"inputs_max": str(self.blame.num_blamed(monotonic()))}

    def batching(self) -> Leaves:
        """How batches are made at the moment."""
        used = [replica for replica in self.replicas if not (replica.is_relay and self.has_own)]
        limits = [replica.sizer.choose(self.batch_budget_seconds) for replica in used] or [0]
        return {
            "policy": self.model.batch_policy,
            "delay_micros": str(self.model.batch_delay_micros),
            "replicas": str(len(used)),
            "limit_min": str(min(limits)),
            "limit_mean": str(fmean(limits)),
            "limit_max": str(max(limits)),
        }


class Batch(NamedTuple):
    """Tasks that travel together."""

    state: ModelState
    message_id: int
    tasks: list[Task]
    sent_at: float


class ReplicaState:
    """A connected container, and what it is doing."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_relay = connection.metadata.is_relay
        self.state: ModelState | None = None
        """None while its model version is not registered."""
        self.sizer = batch_sizer(BatchPolicy.LEARNED, 0)
        self.batch: Batch | None = None
        self.draining = False
        self.deliveries = 0
        """How many of its batches are answered whose tasks have not all got their outputs."""
        self.rest_due = False
        """It has nothing to do, and gets nothing until these are delivered."""


class Executor:
    def __init__(
        self,
        loop: AbstractEventLoop,
        rpc: ReplicaTransport,
        cache: PredictionCache,
        metrics: SystemMetrics,
        replicas_changed: Callable[[], None] = lambda: None,
        blame_seconds: float = BLAME_SECONDS,
    ) -> None:
        self._loop = loop
        self._rpc = rpc
        self._replicas_changed = replicas_changed
        """Called when replicas came or went."""
        self._blame_seconds = blame_seconds
        self._cache = cache
        self._metrics = metrics
        self._models: dict[ModelId, ModelState] = {}
        self._replicas: dict[Connection, ReplicaState] = {}
        self._message_ids = itertools.cycle(range(MESSAGE_ID_LIMIT))

    @property
    def connections(self) -> list[Connection]:
        """Of all replicas that are our own, not relayed to by another frontend."""
        return [connection for connection in self._replicas if not connection.metadata.is_relay]

    def direct_replicas(self) -> dict[ModelId, list[Connection]]:
        """Our own replicas that take batches, by model version; the version need not be registered yet."""
        found: dict[ModelId, list[Connection]] = {}
        for connection in self.connections:
            if self._takes_batches(connection):
                found.setdefault(connection.metadata.model, []).append(connection)
        return found

    def reachable_models(self) -> set[ModelId]:
        """The model versions that have a replica here, or one that is relayed to us."""
        return {connection.metadata.model for connection in self._replicas if self._takes_batches(connection)}

    def _takes_batches(self, connection: Connection) -> bool:
        """Whether the replica takes batches, or will once its model version is registered."""
        replica = self._replicas[connection]
        return not replica.draining and (replica.state is not None or connection.metadata.model not in self._models)

    def slo_seconds(self, model_id: ModelId) -> float | None:
        """The shortest SLO of the applications that ask a model version; None while it is not registered."""
        state = self._models.get(model_id)
        return None if state is None else state.slo_seconds

    def can_answer(self, model_id: ModelId) -> bool:
        """Whether a replica of the model version is here, or none is needed: it is not registered."""
        state = self._models.get(model_id)
        return state is None or state.is_served

    # --- queries ---

    @property
    def uses_keys(self) -> bool:
        """Whether the key of each input is looked up: not if the cache is off."""
        return self._cache.enabled

    def submit(self, model_id: ModelId, task: Task) -> None:
        """Get `task` its output, which it may have at once."""
        state = self._models.get(model_id)
        if state is None:
            task.take(None, NO_MODELS, monotonic())
            return
        known: bytes | Task | None = None
        if self._cache.enabled:
            known = state.partition.entries.get(task.key)
            state.metrics.cache_hit_ratio.times.count += 1
        if isinstance(known, bytes):
            state.metrics.cache_hit_ratio.hits += 1
            state.partition.used.add(task.key)
            task.take(known, "", monotonic())
            return
        if (not state.is_served or state.blame) and (reason := _why_refused(state, task)):
            task.take(None, reason, monotonic())
            return
        if known is not None and self._may_join(state, known):
            self._join(state, known, task)
            return
        if not state.queue.put(task):
            task.take(None, QUEUE_FULL, monotonic())
            return
        if self._cache.enabled:
            state.partition.entries[task.key] = task
        if state.is_counted:
            state.metrics.num_predictions.count += 1
        if state.idle and not state.dispatch_due:
            self._dispatch_soon(state)

    def fill(self, model_id: ModelId, steps: Iterator[None]) -> Iterator[None]:
        """Make `steps`, which submit many tasks of one request in several turns of the loop: they may travel in one
        batch all the same, unless tasks of others wait beside them."""
        state = self._models.get(model_id)
        if state is None:
            yield from steps
            return
        state.filling += 1
        try:
            goes_on = True
            while goes_on:
                before = len(state.queue)
                goes_on = next(steps, True) is None
                state.num_filled += len(state.queue) - before
                if goes_on:
                    yield
        finally:
            state.filling -= 1
            if not state.filling:
                state.num_filled = 0
            self._dispatch_soon(state)

    def leave(self, task: Task, model_id: ModelId) -> None:
        """`task` has no more use for its output: its time is over, or its client left."""
        host = task.leave()
        state = self._models.get(model_id)
        if state is None or host.wanted or host.joined or host.sent_at is not None:
            return
        state.queue.drop(host)
        state.partition.give_up(host.key, host)

    @staticmethod
    def _may_join(state: ModelState, task: Task) -> bool:
        """Not what ended unnoticed, nor what a replica keeps for longer than its queries could wait."""
        if state.suspects and any(task in part for part in state.suspects):
            return True
        return task.queued or (task.sent_at is not None and monotonic() - task.sent_at < state.slo_seconds)

    @staticmethod
    def _join(state: ModelState, host: Task, task: Task) -> None:
        if not state.queue.let_join(task, host):
            task.take(None, QUEUE_FULL, monotonic())

    # --- batches ---

    def _dispatch_soon(self, state: ModelState) -> None:
        """Dispatch once this turn of the loop is over: what arrives in one turn travels in one batch."""
        if state.idle and not state.dispatch_due:
            state.dispatch_due = True
            self._loop.call_soon(self._dispatch, state)

    def _dispatch(self, state: ModelState, waited: bool = False) -> None:
        state.dispatch_due = False
        while state.idle and (state.queue or state.suspects):
            if state.suspects and self._try_suspects(state):
                continue
            if not state.queue:
                return
            sizer = state.idle[0].sizer
            most = sizer.choose(state.batch_budget_seconds)
            if len(state.queue) < most and state.is_only_filled:
                return
            now = monotonic()
            if state.model.batch_delay_micros:
                if not waited and self._delay(state, sizer, most, now):
                    return
            else:
                most = min(most, -(-len(state.queue) // len(state.idle)))  # leave the other idle ones their part
            seconds = sizer.expect(min(most, len(state.queue))) + state.delivery_seconds
            replica = state.idle.popleft()
            batch = state.queue.draw(most, now, seconds)
            state.num_filled = min(state.num_filled, len(state.queue))
            if batch:
                self._send(state, replica, batch)
            else:
                state.idle.append(replica)  # all that it drew had expired

    def _try_suspects(self, state: ModelState) -> bool:
        """Send a part of a batch with which a replica died to another one, or drop it if nobody waits any more.

        If that one dies, too, fewer inputs may be the cause. Only one replica is risked at a time, and not the last
        one while other queries wait for it.
        """
        num_serving = sum(not replica.draining for replica in state.replicas)
        if state.trial is not None or (state.queue and num_serving < 2):
            return False
        now = monotonic()
        tasks: list[Task] = []
        for task in state.suspects.popleft():
            if (task.wanted or task.joined) and task.deadline > now:
                tasks.append(task)
            else:
                state.partition.give_up(task.key, task)
        if tasks:
            replica = state.idle.popleft()
            self._send(state, replica, tasks)
            if replica.connection in self._replicas:
                state.trial = replica.batch
        return True

    def _delay(self, state: ModelState, sizer: BatchSizer, most: int, now: float) -> bool:
        """Whether to wait for a batch to fill: as long as the model's delay says, and the first deadline allows."""
        first = state.queue.first_deadline()
        spare = first - now - sizer.expect(most) - state.delivery_seconds
        delay = state.model.batch_delay_micros / 1e6
        since_arrival = state.slo_seconds - (first - now)
        seconds = min(spare, delay, delay - since_arrival) if len(state.queue) < most else 0.0
        if seconds > 0 and state.delayed is None:
            state.delayed = self._loop.call_later(seconds, self._end_delay, state)
        elif seconds <= 0 and state.delayed is not None:
            state.delayed.cancel()
            state.delayed = None
        return seconds > 0

    def _end_delay(self, state: ModelState) -> None:
        state.delayed = None
        self._dispatch(state, waited=True)

    def _send(self, state: ModelState, replica: ReplicaState, tasks: list[Task]) -> None:
        replica.batch = batch = Batch(state, next(self._message_ids), tasks, monotonic())
        request = PredictRequest(batch.message_id, state.model.input_type, [task.payload for task in tasks])
        if self._rpc.send_batch(replica.connection, request):  # if not, `on_left` was called
            for task in tasks:
                task.sent_at = batch.sent_at
                task.sends += 1

    def on_answered(self, connection: Connection, response: Response) -> None:
        replica = self._replicas[connection]
        batch = replica.batch
        assert batch is not None, "the RPC server hands over answers to the batch that a replica has"
        if len(response.outputs) != len(batch.tasks):
            reason = f"it answered {len(batch.tasks)} inputs with {len(response.outputs)} outputs"
            self._rpc.disconnect(connection, reason)
            return
        replica.batch = None
        if batch.state.trial is batch:
            batch.state.trial = None
        seconds = monotonic() - batch.sent_at
        replica.sizer.observe(len(batch.tasks), seconds)
        if not replica.is_relay:
            batch.state.metrics.add_batch(len(batch.tasks), seconds)
            self._metrics.aggregate_outputs.count += len(batch.tasks)
        if replica.deliveries:  # or answers would pile up that are not delivered
            replica.rest_due = True
        else:
            self._rest(replica, is_quick=len(batch.tasks) > 1 and seconds < QUICK_SECONDS)
        # What failed elsewhere comes with the whole reason.
        raised = "" if replica.is_relay else MODEL_RAISED
        size = sum(map(len, response.outputs))
        if len(batch.tasks) <= _STEP_TASKS and size <= _STEP_BYTES:
            self._deliver(batch, response, raised, size, None)
        else:
            long_work.begin(self._deliver_in_steps(replica, batch, response, raised))

    def _rest(self, replica: ReplicaState, is_quick: bool) -> None:
        """The replica has nothing to do: let it go, or give it the next batch before the answers are written.

        Except that a quick model waits for what comes while they are written, and in the turn of the loop after that:
        half of what a query costs is its part of a batch, so batches should be large where that delays nobody.
        """
        state = replica.state
        if replica.draining:
            self._rpc.release(replica.connection)
        elif state is not None and not (replica.is_relay and state.has_own):
            state.idle.append(replica)
            if not is_quick or len(state.queue) >= replica.sizer.choose(state.batch_budget_seconds):
                self._dispatch(state)
            elif not state.dispatch_due:
                state.dispatch_due = True
                self._loop.call_soon(lambda: self._loop.call_soon(self._dispatch, state))

    def _deliver_in_steps(self, replica: ReplicaState, batch: Batch, response: Response, raised: str) -> Iterator[None]:
        """Deliver a large batch. Meanwhile the replica computes the next one, but none after that."""
        replica.deliveries += 1
        try:
            for begin, end in _parts(response.outputs):
                if begin:
                    yield
                part = Response(response.message_id, response.outputs[begin:end], response.failed[begin:end])
                size = sum(map(len, part.outputs))
                embedded = None
                if _STEP_BYTES < size <= batch.state.model.max_output_bytes and not part.failed[0]:  # it is only one
                    embedded = yield from large_outputs.embed(part.outputs[0])
                self._deliver(batch._replace(tasks=batch.tasks[begin:end]), part, raised, size, embedded)
        finally:
            replica.deliveries -= 1
            if replica.rest_due and not replica.deliveries:
                replica.rest_due = False
                self._rest_late(replica)

    def _rest_late(self, replica: ReplicaState) -> None:
        """As `_rest`, if the replica has nothing to do: it may be gone by now, or have been found idle."""
        is_free = replica.batch is None and replica.connection in self._replicas
        if is_free and (replica.state is None or replica not in replica.state.idle):
            self._rest(replica, is_quick=False)

    def _deliver(self, batch: Batch, response: Response, raised: str, size: int, embedded: bytes | None) -> None:
        """Give outputs, which are of `size` bytes, to their tasks. A single one that is large was `embedded` before."""
        state, tasks, outputs = batch.state, batch.tasks, response.outputs
        if size > _SMALLEST_LIMIT and size > state.model.max_output_bytes:
            response = _without_oversized(response, state.model.max_output_bytes)
        if any(response.failed):
            self._deliver_failures(batch, response, raised)
            answered = [index for index, failed in enumerate(response.failed) if not failed]
            tasks, outputs = [tasks[index] for index in answered], [outputs[index] for index in answered]
        if embedded is None:
            values = list(map(jsontext.embed if size < LARGE_OUTPUT_BYTES else embed_large, outputs))
        else:
            values = [embedded]
        if self._cache.enabled and state.live:
            self._cache.put(state.partition, [task.key for task in tasks], values)
        for task, value in zip(tasks, values, strict=True):
            if task.joined is None:
                task.take(value, "", monotonic())  # `_resolve` in place: this runs for every query
            else:
                _resolve(task, value, "")

    @staticmethod
    def _deliver_failures(batch: Batch, response: Response, raised: str) -> None:
        for task, output, failed in zip(batch.tasks, response.outputs, response.failed, strict=True):
            if failed:
                batch.state.partition.give_up(task.key, task)
                _resolve(task, None, raised + output.decode(errors="replace"))

    def _redo(self, batch: Batch, has_ended: bool) -> None:
        """Try the batch of a replica that was lost once more, as far as another replica can still answer it.

        If its process has ended, one of the inputs may be why. So that the others do not share its fate, halves of
        the batch are tried apart from each other and from what is queued.
        """
        state = batch.state
        now = monotonic()
        is_trial = state.trial is batch
        if is_trial:
            state.trial = None
        is_blamed = has_ended and len(batch.tasks) == 1 and state.blame.note(batch.tasks[0].key, now)
        if is_blamed:
            state.metrics.blamed_answers.add(1)
            logger.warning("An input of %s ended %d replicas: it is not sent to others", state.model.id, ENDS_TO_BLAME)
        left: list[Task] = []
        lost: list[Task] = []
        for task in batch.tasks:
            task.sent_at = None
            has_chance = state.is_served and task.deadline > now and (has_ended or task.sends < _MAX_SENDS)
            if state.live and has_chance and not is_blamed and (task.wanted or task.joined):
                left.append(task)
            else:
                lost.append(task)
        long_work.begin(_give_up(state, lost, INPUT_BLAMED if is_blamed else ""))
        if has_ended:
            half = (len(left) + 1) // 2
            state.suspects.extend(part for part in (left[:half], left[half:]) if part)
        else:
            for task in left:
                state.queue.put_back(task)
        self._dispatch_soon(state)

    @staticmethod
    def _answer_queue_if_unserved(state: ModelState) -> None:
        """Give what is queued for a model that lost its last replica the answer that new queries get at once."""
        if not state.is_served:
            long_work.begin(_give_up(state, state.take_waiting(), NO_MODELS))

    # --- replicas ---

    def on_joined(self, connection: Connection) -> str | None:
        metadata = connection.metadata
        state = self._models.get(metadata.model)
        if state is not None and state.model.input_type is not metadata.input_type:
            return (
                f"its input type is {metadata.input_type.canonical_name}, "
                f"{metadata.model} was registered with {state.model.input_type.canonical_name}"
            )
        replica = ReplicaState(connection)
        self._replicas[connection] = replica
        logger.info("%s connected (RPC version %d)", connection, metadata.rpc_version)
        if state is not None:
            self._attach(state, replica)
            self._dispatch_soon(state)
        self._replicas_changed()
        return None

    def on_left(self, connection: Connection, reason: str) -> None:
        replica = self._replicas.pop(connection, None)
        if replica is None:
            return
        logger.info("%s left: %s", connection, reason)
        state = replica.state
        if state is not None:
            state.replicas.remove(replica)
            state.replicas_changed()
            if replica in state.idle:
                state.idle.remove(replica)
            self._dispatch_soon(state)
        if replica.batch is not None:
            self._redo(replica.batch, has_ended(reason) and not (replica.draining or replica.is_relay))
        self._replicas_changed()
        if state is not None:
            self._answer_queue_if_unserved(state)

    def on_draining(self, connection: Connection) -> None:
        replica = self._replicas[connection]
        replica.draining = True
        self._replicas_changed()
        if replica.state is not None:
            replica.state.replicas_changed()
            if replica in replica.state.idle:
                replica.state.idle.remove(replica)
            self._dispatch_soon(replica.state)
            self._answer_queue_if_unserved(replica.state)
        self._dismiss_if_idle(connection)

    def _dismiss_if_idle(self, connection: Connection) -> None:
        """Let a draining replica go, unless somebody waits for its batch: then look again at the last deadline."""
        replica = self._replicas.get(connection)
        if replica is None:
            return
        tasks = replica.batch.tasks if replica.batch is not None else ()
        now = monotonic()
        deadlines = [task.deadline for task in tasks if (task.wanted or task.joined) and task.deadline > now]
        if deadlines:
            self._loop.call_later(max(deadlines) - now + _AFTER_DEADLINE_SECONDS, self._dismiss_if_idle, connection)
        else:
            self._rpc.release(connection)

    @staticmethod
    def _attach(state: ModelState, replica: ReplicaState) -> None:
        replica.state = state
        replica.sizer = state.new_sizer()
        state.replicas.append(replica)
        state.replicas_changed()
        if replica.batch is None and not replica.draining and not replica.is_relay:
            state.idle.append(replica)

    # --- configuration ---

    def configure(self, models: Mapping[ModelId, Model | None], slo_seconds: Mapping[ModelId, float]) -> None:
        """Serve `models` from now on, or no more; `slo_seconds` is the shortest SLO of those who ask each of them."""
        for model_id, model in models.items():
            state = self._models.get(model_id)
            if state is not None and not state.is_of(model):
                self._remove_model(self._models.pop(model_id))
                state = None
            slo = slo_seconds.get(model_id, 1.0)
            if state is not None and model is not None:
                state.slo_seconds = slo
                self._change_batching(state, model)
            elif model is not None:
                self._add_model(model, slo)

    def _add_model(self, model: Model, slo_seconds: float) -> None:
        state = ModelState(model, slo_seconds, self._metrics.add_model(model.id), self._blame_seconds)
        state.metrics.batching = Gauge(state.batching)
        state.metrics.blamed = Gauge(state.blamed)
        self._models[model.id] = state
        for connection, replica in self._replicas.items():
            if connection.metadata.model != model.id:
                continue
            if connection.metadata.input_type is model.input_type:
                self._attach(state, replica)
            else:
                logger.warning("%s is not used: its input type differs", connection)

    def _change_batching(self, state: ModelState, model: Model) -> None:
        """What is queued, cached and connected stays."""
        if state.model == model:
            return
        old, state.model = state.model, model
        if (old.batch_policy, old.batch_size) != (model.batch_policy, model.batch_size):
            for replica in state.replicas:
                replica.sizer = state.new_sizer()
        self._dispatch_soon(state)

    def _remove_model(self, state: ModelState) -> None:
        state.live = False
        state.metrics.batching = state.metrics.blamed = Gauge(
            dict
        )  # they refer to the state: nothing is left as a cycle
        self._metrics.remove_model(state.model.id)
        self._cache.forget(state.partition)
        for replica in state.replicas:
            replica.state = None
        long_work.begin(_give_up(state, state.take_waiting(), NO_MODELS))


def _parts(outputs: list[bytes]) -> Iterator[tuple[int, int]]:
    """Where the parts of a batch begin and end that are delivered in one step each."""
    begin = size = 0
    for index, output in enumerate(outputs):
        if index - begin == _STEP_TASKS or size + len(output) > _STEP_BYTES and index > begin:
            yield begin, index
            begin, size = index, 0
        size += len(output)
    yield begin, len(outputs)


def _give_up(state: ModelState, tasks: list[Task], reason: str) -> Iterator[None]:
    """Give tasks for which there is no output the reason, or that for which they were lost, in steps."""
    for begin in range(0, len(tasks), _STEP_TASKS):
        if begin:
            yield
        for task in tasks[begin : begin + _STEP_TASKS]:
            state.partition.give_up(task.key, task)
            _resolve(task, None, reason or _why_lost(state, task))


def _resolve(task: Task, output: bytes | None, reason: str) -> None:
    """Give the output, or the reason why there is none, to everyone who waits: thousands may have joined the task."""
    waiting = task.take_waiting()
    if len(waiting) <= _FEW_WAITING:
        _give(waiting, output, reason)
    else:
        long_work.start(_give_in_steps(waiting, output, reason))


def _give_in_steps(waiting: list[Task], output: bytes | None, reason: str) -> Iterator[None]:
    for begin in range(0, len(waiting), _STEP_TASKS):
        _give(waiting[begin : begin + _STEP_TASKS], output, reason)
        yield


def _give(waiting: list[Task], output: bytes | None, reason: str) -> None:
    for task in waiting:
        task.take(output, reason, monotonic())


def _without_oversized(response: Response, most: int) -> Response:
    """The response with an error in the place of each output that is larger than outputs may be."""
    outputs, failed = list(response.outputs), list(response.failed)
    for index, output in enumerate(outputs):
        if len(output) > most:
            text = f"OutputError: an output is of {len(output)} bytes, and the most are {most}"
            outputs[index], failed[index] = text.encode(), True
    return response._replace(outputs=outputs, failed=failed)


def _why_refused(state: ModelState, task: Task) -> str:
    """Why a task is not queued; empty if it is."""
    if not state.is_served:
        return NO_MODELS
    if not state.blame.is_blamed(task.key, monotonic()):
        return ""
    state.metrics.blamed_answers.add(1)
    return INPUT_BLAMED


def _why_lost(state: ModelState, task: Task) -> str:
    """Why a task that was with a replica that died is not sent to another."""
    if not state.live:
        return NO_MODELS
    return REPLICA_DIED if task.sends >= _MAX_SENDS else LAST_REPLICA_DIED
