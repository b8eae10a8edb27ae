"""cache -> queue -> replica -> outcome: gets each task done by some replica of its model version.

A task whose replica is lost is tried once more; more often only to find the input of which replicas die.

Replicas pull: one that is idle takes the next batch, and has no other until it answered. So the load balances
itself, and a slow replica slows nobody.
"""

import itertools
import logging
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Mapping
from statistics import fmean
from time import monotonic
from typing import Final, NamedTuple

from clipper_common import jsontext
from clipper_common.constants import MAX_OUTPUT_BYTES
from clipper_common.datatypes import BatchPolicy, ModelId
from clipper_common.records import Model
from clipper_common.wire import MESSAGE_ID_LIMIT, PredictRequest, Response
from query_frontend.batching import BatchSizer, batch_sizer
from query_frontend.blame import ENDS_TO_BLAME, Blame
from query_frontend.cache import PredictionCache, Shelf
from query_frontend.metrics import Gauge, Leaves, ModelMetrics, SystemMetrics
from query_frontend.model_queue import ModelQueue, Task
from query_frontend.router import has_ended
from query_frontend.rpc_server import QUICK_SECONDS, Connection, RpcServer
from query_frontend.schemas import LARGE_OUTPUT_BYTES, embed_large

logger = logging.getLogger(__name__)

NO_MODELS: Final = "No connected models found for query"
QUEUE_FULL: Final = "The queue of the model is full"
REPLICA_DIED: Final = "The model container died while it handled the query, twice"
LAST_REPLICA_DIED: Final = "The model container died while it handled the query, and no other is connected"
INPUT_BLAMED: Final = "Model containers died of this input when they had no other: it is not sent to one for a minute"
MODEL_RAISED: Final = "The model raised "

_MAX_SENDS: Final = 2
_SLO_SHARE: Final = 0.46
"""A query waits for at most one batch before its own: half of the SLO for each, less a margin for everything else."""
_AFTER_DEADLINE_SECONDS: Final = 0.05
_DELIVERY_SHARE: Final = 0.05
"""What of the SLO passes between the answer of a replica and those to its queries."""


class ModelState:
    """A registered model version: its queue, its replicas, what is known of it."""

    def __init__(self, model: Model, slo_seconds: float, metrics: ModelMetrics) -> None:
        self.model = model
        self.slo_seconds = slo_seconds
        self.shelf = Shelf()
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
        self.blame = Blame()
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


class TaskExecutor:
    def __init__(self, loop: AbstractEventLoop, cache: PredictionCache, metrics: SystemMetrics) -> None:
        self._loop = loop
        self._cache = cache
        self._metrics = metrics
        self._models: dict[ModelId, ModelState] = {}
        self._replicas: dict[Connection, ReplicaState] = {}
        self._message_ids = itertools.cycle(range(MESSAGE_ID_LIMIT))
        self.rpc: RpcServer
        """Set by the composition root: the two need each other."""
        self.replicas_changed: Callable[[], None] = lambda: None
        """Called when replicas came or went; set by the composition root."""

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

    def submit(self, model_id: ModelId, task: Task) -> None:
        """Get `task` its output, which it may have at once."""
        state = self._models.get(model_id)
        if state is None:
            task.take(None, NO_MODELS, monotonic())
            return
        known: bytes | Task | None = None
        if self._cache.enabled:
            known = state.shelf.entries.get(task.payload)
            state.metrics.cache_hit_ratio.times.count += 1
        if isinstance(known, bytes):
            state.metrics.cache_hit_ratio.hits += 1
            state.shelf.used.add(task.payload)
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
            state.shelf.entries[task.payload] = task
        if state.is_counted:
            state.metrics.num_predictions.count += 1
        if state.idle and not state.dispatch_due:
            self._dispatch_soon(state)

    def leave(self, task: Task, model_id: ModelId) -> None:
        """`task` has no more use for its output: its time is over, or its client left."""
        host = task.leave()
        state = self._models.get(model_id)
        if state is None or host.wanted or host.joined or host.sent_at is not None:
            return
        state.queue.drop(host)
        state.shelf.give_up(host.payload, host)

    @staticmethod
    def _may_join(state: ModelState, task: Task) -> bool:
        """Not what ended unnoticed, nor what a replica keeps for longer than its queries could wait."""
        if state.suspects and any(task in part for part in state.suspects):
            return True
        return task.queued or (task.sent_at is not None and monotonic() - task.sent_at < state.slo_seconds)

    @staticmethod
    def _join(state: ModelState, host: Task, task: Task) -> None:
        if host.queued and task.deadline < host.deadline:
            state.queue.hurry(host, task.deadline)
        task.join(host)

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
            now = monotonic()
            if state.model.batch_delay_micros:
                if not waited and self._delay(state, sizer, most, now):
                    return
            else:
                most = min(most, -(-len(state.queue) // len(state.idle)))  # leave the other idle ones their part
            seconds = sizer.expect(min(most, len(state.queue))) + state.delivery_seconds
            replica = state.idle.popleft()
            batch = state.queue.draw(most, now, seconds)
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
                state.shelf.give_up(task.payload, task)
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
        if self.rpc.send_batch(replica.connection, request):  # if not, `on_left` was called
            for task in tasks:
                task.sent_at = batch.sent_at
                task.sends += 1

    def on_answered(self, connection: Connection, response: Response) -> None:
        replica = self._replicas[connection]
        batch = replica.batch
        if batch is None or response.message_id != batch.message_id:
            return  # of a batch that it was no longer asked for
        if len(response.outputs) != len(batch.tasks):
            reason = f"it answered {len(batch.tasks)} inputs with {len(response.outputs)} outputs"
            self.rpc.expel(connection, reason)
            return
        replica.batch = None
        if batch.state.trial is batch:
            batch.state.trial = None
        seconds = monotonic() - batch.sent_at
        replica.sizer.observe(len(batch.tasks), seconds)
        if not replica.is_relay:
            batch.state.metrics.add_batch(len(batch.tasks), seconds)
            self._metrics.aggregate_outputs.count += len(batch.tasks)
        self._rest(replica, is_quick=len(batch.tasks) > 1 and seconds < QUICK_SECONDS)
        # What failed elsewhere comes with the whole reason.
        self._deliver(batch, response, "" if replica.is_relay else MODEL_RAISED)

    def _rest(self, replica: ReplicaState, is_quick: bool) -> None:
        """The replica has nothing to do: let it go, or give it the next batch before the answers are written.

        Except that a quick model waits for what comes while they are written, and in the turn of the loop after that:
        half of what a query costs is its part of a batch, so batches should be large where that delays nobody.
        """
        state = replica.state
        if replica.draining:
            self.rpc.dismiss(replica.connection)
        elif state is not None and not (replica.is_relay and state.has_own):
            state.idle.append(replica)
            if not is_quick or len(state.queue) >= replica.sizer.choose(state.batch_budget_seconds):
                self._dispatch(state)
            elif not state.dispatch_due:
                state.dispatch_due = True
                self._loop.call_soon(lambda: self._loop.call_soon(self._dispatch, state))

    def _deliver(self, batch: Batch, response: Response, raised: str) -> None:
        state, tasks, outputs = batch.state, batch.tasks, response.outputs
        size = sum(map(len, outputs))
        if size > MAX_OUTPUT_BYTES:
            response = _without_oversized(response)
        if any(response.failed):
            self._deliver_failures(batch, response, raised)
            answered = [index for index, failed in enumerate(response.failed) if not failed]
            tasks, outputs = [tasks[index] for index in answered], [outputs[index] for index in answered]
        embed = jsontext.embed if size < LARGE_OUTPUT_BYTES else embed_large
        values = list(map(embed, outputs))
        if self._cache.enabled and state.live:
            self._cache.put(state.shelf, [task.payload for task in tasks], values)
        for task, value in zip(tasks, values, strict=True):
            if task.joined is None:
                task.take(value, "", monotonic())  # `resolve` in place: this runs for every query
            else:
                task.resolve(value, "", monotonic())

    @staticmethod
    def _deliver_failures(batch: Batch, response: Response, raised: str) -> None:
        for task, output, failed in zip(batch.tasks, response.outputs, response.failed, strict=True):
            if failed:
                batch.state.shelf.give_up(task.payload, task)
                task.resolve(None, raised + output.decode(errors="replace"), monotonic())

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
        is_blamed = has_ended and len(batch.tasks) == 1 and state.blame.note(batch.tasks[0].payload, now)
        if is_blamed:
            logger.warning("An input of %s ended %d replicas: it is not sent to others", state.model.id, ENDS_TO_BLAME)
        left: list[Task] = []
        for task in batch.tasks:
            task.sent_at = None
            has_chance = state.is_served and task.deadline > now and (has_ended or task.sends < _MAX_SENDS)
            if state.live and has_chance and not is_blamed and (task.wanted or task.joined):
                left.append(task)
            else:
                state.shelf.give_up(task.payload, task)
                task.resolve(None, INPUT_BLAMED if is_blamed else _why_lost(state, task), now)
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
        if state.is_served:
            return
        for task in state.take_waiting():
            state.shelf.give_up(task.payload, task)
            task.resolve(None, NO_MODELS, monotonic())

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
        self.replicas_changed()
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
        self.replicas_changed()
        if state is not None:
            self._answer_queue_if_unserved(state)

    def on_draining(self, connection: Connection) -> None:
        replica = self._replicas[connection]
        replica.draining = True
        self.replicas_changed()
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
            self.rpc.dismiss(connection)

    @staticmethod
    def _attach(state: ModelState, replica: ReplicaState) -> None:
        replica.state = state
        replica.sizer = state.new_sizer()
        state.replicas.append(replica)
        state.replicas_changed()
        if replica.batch is None and not replica.draining and not replica.is_relay:
            state.idle.append(replica)

    # --- configuration ---

    def configure(self, models: Mapping[ModelId, Model], slo_seconds: Mapping[ModelId, float]) -> None:
        """Serve exactly `models`; `slo_seconds` is the shortest SLO of the applications that ask each of them."""
        gone = [known for known, state in self._models.items() if not state.is_of(models.get(known))]
        for model_id in gone:
            self._remove_model(self._models.pop(model_id))
        for model_id, model in models.items():
            slo = slo_seconds.get(model_id, 1.0)
            if model_id in self._models:
                self._models[model_id].slo_seconds = slo
                self._change_batching(self._models[model_id], model)
            else:
                self._add_model(model, slo)

    def _add_model(self, model: Model, slo_seconds: float) -> None:
        state = ModelState(model, slo_seconds, self._metrics.add_model(model.id))
        state.metrics.batching = Gauge(state.batching)
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
        self._metrics.remove_model(state.model.id)
        self._cache.forget(state.shelf)
        for replica in state.replicas:
            replica.state = None
        for task in state.take_waiting():
            task.resolve(None, NO_MODELS, monotonic())


def _without_oversized(response: Response) -> Response:
    """The response with an error in the place of each output that is larger than outputs may be."""
    outputs, failed = list(response.outputs), list(response.failed)
    for index, output in enumerate(outputs):
        if len(output) > MAX_OUTPUT_BYTES:
            text = f"OutputError: an output is of {len(output)} bytes, and the most are {MAX_OUTPUT_BYTES}"
            outputs[index], failed[index] = text.encode(), True
    return response._replace(outputs=outputs, failed=failed)


def _why_refused(state: ModelState, task: Task) -> str:
    """Why a task is not queued; empty if it is."""
    if not state.is_served:
        return NO_MODELS
    return INPUT_BLAMED if state.blame.is_blamed(task.payload, monotonic()) else ""


def _why_lost(state: ModelState, task: Task) -> str:
    """Why a task that was with a replica that died is not sent to another."""
    if not state.live:
        return NO_MODELS
    return REPLICA_DIED if task.sends >= _MAX_SENDS else LAST_REPLICA_DIED
