"""Serves a model version: gets each of its tasks done by one of its replicas (queue -> batch -> replica -> outcome).

A task whose replica is lost is tried once more; more often only to find the input of which replicas die.

An idle replica takes the next batch, and no other until it has answered, so each gets as much load as it can answer. A
slow replica gets only queries that it is expected to answer in time, unless no other replica would either.
"""

import logging
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from time import monotonic
from typing import Final, NamedTuple

from clipper_common import long_work
from clipper_common.records import Model
from clipper_common.wire import Response
from query_frontend.monitoring.metric_kinds import Counter, Leaves
from query_frontend.monitoring.metrics import ModelMetrics, batching_leaves
from query_frontend.rpc.server import QUICK_SECONDS
from query_frontend.serving import reasons
from query_frontend.serving.batch_wait import BatchWait
from query_frontend.serving.batching import BatchSizer, batch_sizer
from query_frontend.serving.cache import CachePartition, PredictionCache
from query_frontend.serving.delivery import Delivery
from query_frontend.serving.model_queue import ModelQueue, Task
from query_frontend.serving.poison import ENDS_TO_BLAME, Blame
from query_frontend.serving.replica import Batch, ConnectedReplica, ReplicaPool
from query_frontend.serving.suspects import Suspects
from query_frontend.serving.waiting import BatchClients

logger = logging.getLogger(__name__)

_MAX_SENDS: Final = 2
_SLO_SHARE: Final = 0.46
"""The part of the SLO that a batch may take. With one worker, a query waits for at most one batch before its own: each
gets half, less a margin."""
_DELIVERY_SHARE: Final = 0.05
"""The part of the SLO that passes between the answer of a replica and the answers to its queries."""


class ModelContext(NamedTuple):
    """The objects that all served models share."""

    loop: AbstractEventLoop
    cache: PredictionCache
    message_ids: Iterator[int]
    """The ids of batches. No two batches in flight have the same one."""
    num_outputs: Counter
    blame_seconds: float


class ServedModel:
    """A registered model version, with its queue, its replicas and its batches.

    A version that is registered again gets a new object, which knows nothing of the old one.
    """

    def __init__(self, record: Model, slo_seconds: float, metrics: ModelMetrics, context: ModelContext) -> None:
        self._loop = context.loop
        self._cache = context.cache
        self._message_ids = context.message_ids
        self._num_outputs = context.num_outputs
        self.record = record
        self.slo_seconds = slo_seconds
        """The shortest SLO of the applications that ask this model version."""
        self.partition = CachePartition()
        """The part of the cache for this model version. With the cache on, identical queries find the tasks here that
        they can join."""
        self._delivery = Delivery(context.cache, self.partition, record.max_output_bytes)
        self.metrics = metrics
        self.queue = ModelQueue()
        self.replicas = ReplicaPool()
        self._suspects = Suspects()
        self._trial: Batch | None = None
        """The batch of suspects that a replica has now."""
        self._blame = Blame(context.blame_seconds)
        self.filling = 0
        """The number of requests whose inputs are not all queued yet."""
        self._num_filled = 0
        """An upper bound of the queued tasks that belong to such requests."""
        self._has_unrelayed = False
        """Whether tasks may be queued that were not relayed here. Relays get only these."""
        self._dispatch_due = False
        self._wait = BatchWait(context.loop, metrics, self._dispatch)
        self._wait.configure(record)
        self._is_registered = True

    def is_of(self, record: Model | None) -> bool:
        """Whether `record` is the same registration, however its batches are to be made."""
        return record is not None and self.record.with_batching_of(record) == record

    # --- tasks ---

    def submit(self, task: Task) -> None:
        """Get `task` its output; from the cache, the task has it on return."""
        replicas, is_cached = self.replicas, self._cache.enabled
        known: bytes | Task | None = None
        if is_cached:
            known = self.partition.entries.get(task.key)
            self.metrics.cache_hit_ratio.times.count += 1
        if isinstance(known, bytes):
            self.metrics.cache_hit_ratio.hits += 1
            self.partition.used.add(task.key)
            task.resolve(known, "", monotonic())
            return
        if not (replicas.is_served and self._blame.is_empty) and (reason := self._why_refused(task)):
            task.resolve(None, reason, monotonic())
            return
        if known is not None and self._may_join(known, task):
            if not self.queue.let_join(task, known):
                task.resolve(None, reasons.QUEUE_FULL, monotonic())
            return
        if not self.queue.put(task):
            task.resolve(None, reasons.QUEUE_FULL, monotonic())
            return
        if is_cached:
            self.partition.entries[task.key] = task
        if not task.is_relayed:  # else the frontend that was asked counts it
            self._has_unrelayed = True
            self.metrics.num_predictions.count += 1
        if replicas.idle and not self._dispatch_due:
            self._dispatch_soon()

    def fill(self, steps: Iterator[None]) -> Iterator[None]:
        """Make `steps`, which submit many tasks of one request in several turns of the loop: they may travel in one
        batch all the same, unless tasks of others wait beside them."""
        self.filling += 1
        try:
            goes_on = True
            while goes_on:
                before = len(self.queue)
                goes_on = next(steps, True) is None
                self._num_filled += len(self.queue) - before
                if goes_on:
                    yield
        finally:
            self.filling -= 1
            if not self.filling:
                self._num_filled = 0
            self._dispatch_soon()

    def withdraw(self, task: Task) -> None:
        """Stop waiting for the output of `task`: its deadline has passed, or its client has disconnected."""
        host = task.withdraw()
        if host.is_waiting or host.joined or host.sent_at is not None:
            return
        self.queue.drop(host)
        if not self.queue:
            self._wait.end(0, monotonic())
        self.partition.remove_in_flight(host.key, host)

    def _may_join(self, known: Task, task: Task) -> bool:
        """Whether `task` may wait for the output of an identical one: not if that ended unnoticed, is overdue or is
        expected to be late, nor if it may be relayed on and `task` was relayed here."""
        if task.is_relayed and not known.is_relayed:
            return False
        if self._suspects.parts and self._suspects.has(known):
            return True
        if known.queued or known.sent_at is None:
            return known.queued
        assert known.clients is not None, "it was sent with a batch"
        now = monotonic()
        return (
            now - known.sent_at < self.slo_seconds
            and known.clients.expected_at + self._delivery_seconds < task.deadline
        )

    def _why_refused(self, task: Task) -> str:
        """Return why a task is not queued; empty if it is."""
        if not self.replicas.is_served:
            return reasons.NO_MODELS
        if not self._blame.is_blamed(task.key, monotonic()):
            return ""
        self.metrics.blamed_answers.add(1)
        return reasons.INPUT_BLAMED

    # --- batches ---

    def _dispatch_soon(self) -> None:
        """Dispatch once this turn of the loop is over: what arrives in one turn travels in one batch."""
        if self.replicas.idle and not self._dispatch_due:
            self._dispatch_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self, waited: bool = False) -> None:
        replicas = self.replicas
        self._dispatch_due = False
        while replicas.idle and (self.queue or self._suspects.parts):
            if self._suspects.parts and self._try_suspects():
                continue
            if not self.queue or (replicas.idle[0].is_relay and not self._has_unrelayed):
                return
            now = monotonic()
            replica = self._choose_replica(now) if replicas.has_several else replicas.idle[0]
            if replica is None:
                return
            most = replica.most_inputs(self._batch_budget_seconds)
            if self.filling and len(self.queue) < most and self._num_filled >= len(self.queue):
                return  # of all that is queued, more is to come
            if not waited and self._wait.should_wait(self.queue, replicas, replica, most, self._delivery_seconds, now):
                return
            self._wait.end(len(self.queue), now)
            if not self.record.batch_delay_micros:
                most = min(most, -(-len(self.queue) // self._num_usable(now)))  # leave the other idle ones their part
            seconds = replica.expect(min(most, len(self.queue))) + self._delivery_seconds
            replicas.idle.remove(replica)
            tasks = self.queue.draw(most, now, seconds, replica.is_relay)
            self._num_filled = min(self._num_filled, len(self.queue))
            if tasks:
                self._send(replica, tasks)
            else:  # all that it drew had expired
                replicas.put_idle(replica)
                self._has_unrelayed = self._has_unrelayed and not replica.is_relay

    def _choose_replica(self, now: float) -> ConnectedReplica | None:
        """Return the replica that gets the next batch; None if the batch waits for one that is busy."""
        return self.replicas.choose(self._last_answer, now, self._has_unrelayed)

    def _num_usable(self, now: float) -> int:
        """Return how many idle replicas can take a part of what is queued."""
        return self.replicas.num_usable(self._last_answer, now) if len(self.queue) > 1 else 1

    @property
    def _last_answer(self) -> float:
        """The time by which a replica must answer what can wait for longest. There must be tasks."""
        return self.queue.last_deadline() - self._delivery_seconds

    @property
    def _batch_budget_seconds(self) -> float:
        return self.slo_seconds * _SLO_SHARE

    @property
    def _delivery_seconds(self) -> float:
        return self.slo_seconds * _DELIVERY_SHARE

    def _send(self, replica: ConnectedReplica, tasks: list[Task]) -> bool:
        """Send a batch. Return False when the replica is lost; `retry_batch` has been called then."""
        now = monotonic()
        clients = BatchClients(self.record.id, len(tasks), now + replica.expect(len(tasks)))
        batch = Batch(self, next(self._message_ids), tasks, now, clients)
        if not replica.send(batch, self.record.input_type):
            return False
        for task in tasks:
            task.sent_at = batch.sent_at
            task.clients = clients
            task.sends += 1
        return True

    def on_batch_answered(self, replica: ConnectedReplica, batch: Batch, response: Response) -> None:
        """Give the replica that answered its next batch, and deliver the outputs of this one."""
        if self._trial is batch:
            self._trial = None
        seconds = replica.finish(batch, response.turn_micros)
        self._wait.expect(batch, replica, batch.sent_at + seconds)
        size = len(batch.tasks)
        if not replica.is_relay:
            self.metrics.add_batch(size, seconds)
            self._num_outputs.count += size
        replica.become_idle(size > 1 and seconds < QUICK_SECONDS)
        self.deliver(replica, batch, response)

    def deliver(self, replica: ConnectedReplica, batch: Batch, response: Response) -> None:
        """Deliver the outputs in a response: those of a batch, or of a part of one that is relayed."""
        raised = "" if replica.is_relay else reasons.MODEL_RAISED  # that of a relayed input is in its output
        steps = self._delivery.deliver(batch.tasks_of(response), response, raised, sum(map(len, response.outputs)))
        if steps is not None:
            long_work.start_now(replica.hold_while(steps))

    def on_replica_idle(self, replica: ConnectedReplica, is_quick: bool) -> None:
        """Give an idle replica its next batch, before the answers of the last one are written.

        A quick model waits for queries that arrive while these are written and in the turn of the loop after that. Half
        of the cost of a query is its share of a batch, so batches should be large where that delays no query.
        """
        if not self.replicas.put_idle(replica):
            return
        if not is_quick or len(self.queue) >= replica.most_inputs(self._batch_budget_seconds):
            self._dispatch()
        elif not self._dispatch_due:
            self._dispatch_due = True
            self._loop.call_soon(self._dispatch_a_turn_later)

    def _dispatch_a_turn_later(self) -> None:
        self._loop.call_soon(self._dispatch)

    # --- lost replicas ---

    def retry_batch(self, batch: Batch, has_ended: bool) -> None:
        """Try the batch of a lost replica again, as far as another replica can still answer it.

        If the process of the replica has ended, one of the inputs may be the cause. Halves of the batch are then tried
        apart from each other and from the queued tasks, so that the other inputs are answered.
        """
        now = monotonic()
        if self._trial is batch:
            self._trial = None
        is_blamed = has_ended and len(batch.tasks) == 1 and self._blame.note(batch.tasks[0].key, now)
        if is_blamed:
            self.metrics.blamed_answers.add(1)
            logger.warning("An input of %s ended %d replicas: it is not sent to others", self.record.id, ENDS_TO_BLAME)
        left: list[Task] = []
        lost: list[Task] = []
        for task in batch.tasks:
            task.sent_at = None
            has_chance = self.replicas.serves(task) and task.deadline > now and (has_ended or task.sends < _MAX_SENDS)
            if self._is_registered and has_chance and not is_blamed and (task.is_waiting or task.joined):
                left.append(task)
            else:
                lost.append(task)
        why = (lambda _: reasons.INPUT_BLAMED) if is_blamed else self._why_lost
        long_work.start_now(self._delivery.fail_tasks(lost, why))
        if has_ended:
            self._suspects.add_halves(left)
        else:
            self._has_unrelayed = True
            for task in left:
                self.queue.put_back(task)
        self._dispatch_soon()

    def _why_lost(self, task: Task) -> str:
        """Return why a task that was with a replica that died is not sent to another."""
        if not self._is_registered:
            return reasons.NO_MODELS
        return reasons.REPLICA_DIED if task.sends >= _MAX_SENDS else reasons.LAST_REPLICA_DIED

    def _try_suspects(self) -> bool:
        """Send a part of a batch with which a replica died to another one, or drop the part if its outputs are not
        waited for.

        If that replica dies too, its part is halved again. Only one replica is risked at a time, and not the last one
        while other queries wait for it.
        """
        if self._trial is not None or (self.queue and self.replicas.num_serving() < 2):
            return False
        if self.replicas.idle[0].is_relay and self._suspects.next_is_relayed():
            return False  # it waits for a replica of our own: what was relayed is not relayed on
        tasks, unwanted = self._suspects.pop_part(monotonic())
        for task in unwanted:
            self.partition.remove_in_flight(task.key, task)
        if tasks:
            replica = self.replicas.idle.popleft()
            if self._send(replica, tasks):
                self._trial = replica.batch
        return True

    def fail_tasks_if_unserved(self) -> None:
        """If the last replica was lost, answer the queued tasks with the reason that new queries get at once."""
        if not self.replicas.has_own:
            self._fail_waiting_tasks(only_relayed=self.replicas.is_served)

    def _fail_waiting_tasks(self, only_relayed: bool = False) -> None:
        waiting = [*self.queue.clear(only_relayed), *self._suspects.remove(only_relayed)]
        long_work.start_now(self._delivery.fail_tasks(waiting, lambda _: reasons.NO_MODELS))

    # --- replicas ---

    def add_replica(self, replica: ConnectedReplica) -> None:
        """Send batches to this replica, too."""
        replica.join_model(self, self._new_sizer())
        self.replicas.add(replica)
        self._dispatch_soon()

    def remove_replica(self, replica: ConnectedReplica) -> None:
        """Forget a replica that is lost."""
        self.replicas.remove(replica)
        self._dispatch_soon()

    def exclude(self, replica: ConnectedReplica) -> None:
        """Send no more batches to a replica that drains."""
        self.replicas.exclude(replica)
        self._dispatch_soon()

    # --- configuration ---

    def reconfigure(self, record: Model, slo_seconds: float) -> None:
        """Make batches as `record` says from now on. The queue, the cache and the replicas stay."""
        self.slo_seconds = slo_seconds
        if self.record == record:
            return
        old, self.record = self.record, record
        self._wait.configure(record)
        if (old.batch_policy, old.batch_size) != (record.batch_policy, record.batch_size):
            for replica in self.replicas:
                replica.change_sizer(self._new_sizer())
        self._dispatch_soon()

    def _new_sizer(self) -> BatchSizer:
        return batch_sizer(self.record.batch_policy, self.record.batch_size)

    def close(self) -> None:
        """Stop serving: fail the tasks that wait, forget the cached outputs, and detach the replicas."""
        self._is_registered = False
        self._delivery.close()
        self._wait.close()
        for replica in self.replicas:
            replica.leave_model()
        self._fail_waiting_tasks()

    # --- metrics ---

    def batching(self) -> Leaves:
        """Return how batches are made at the moment."""
        limits = [replica.most_inputs(self._batch_budget_seconds) for replica in self.replicas.in_use()]
        returns = self._wait.returns
        return batching_leaves(self.record, limits, returns.share, returns.seconds())

    def blamed(self) -> Leaves:
        """Return how many inputs are not sent to replicas at the moment."""
        return {"inputs_max": str(self._blame.num_blamed(monotonic()))}
