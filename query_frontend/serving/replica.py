"""The connected replicas of a model version, and the batch that each of them has."""

from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from clipper_common.datatypes import BatchPolicy, InputType
from clipper_common.wire import PredictRequest, Response
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving.batching import BatchSizer, batch_sizer
from query_frontend.serving.model_queue import Task
from query_frontend.serving.waiting import BatchClients

if TYPE_CHECKING:
    from query_frontend.serving.served_model import ServedModel

_OVERDUE: Final = 2.0
_PROBED: Final = 500
"""A replica that is expected to be late gets one batch when it was skipped this many times, to see whether it still
is."""
_MEMORY: Final = 0.8
"""A batch counts this part of the next one, for the time that batches wait for those of other frontends."""
_LEAST_BUDGET: Final = 0.25
"""However long batches wait for those of other frontends, this part of the budget is left for the model."""


class ReplicaTransport(Protocol):
    """The transport carries batches to replicas: the RPC server is one."""

    def send_batch(self, connection: ReplicaConnection, request: PredictRequest) -> bool:
        """Send a batch. Return False when the replica is lost; `Executor.on_replica_lost` has been called then."""

    def disconnect(self, connection: ReplicaConnection, reason: str) -> None:
        """Disconnect a replica that misbehaves."""

    def release(self, connection: ReplicaConnection) -> None:
        """Tell a draining replica that it may stop."""

    def refuse(self, connection: ReplicaConnection, reason: str) -> None:
        """End the registration of a replica. `Executor.on_replica_lost` has been called then."""


class Batch:
    """The tasks that a replica is sent together."""

    def __init__(
        self, served_model: "ServedModel", message_id: int, tasks: list[Task], sent_at: float, clients: BatchClients
    ) -> None:
        self.served_model = served_model
        self.message_id = message_id
        self.tasks = tasks
        self.sent_at = sent_at
        self.clients = clients

    def tasks_of(self, response: Response) -> list[Task]:
        """Return the tasks that a response answers."""
        if response.positions is None:
            return self.tasks
        return [self.tasks[position] for position in response.positions]

    def last_deadline(self, now: float) -> float | None:
        """Return the last deadline of the tasks that are waited for; None if no deadline is later than `now`."""
        deadlines = (task.deadline for task in self.tasks if task.is_waiting or task.joined)
        return max((deadline for deadline in deadlines if deadline > now), default=None)

    def remaining_micros(self) -> list[int]:
        """Return the microseconds for which the output of each task is waited for from now on."""
        now = monotonic()
        return [max(int((task.deadline - now) * 1e6), 0) for task in self.tasks]


class ConnectedReplica:
    """A connected container, with the batch that it has and its batch sizer."""

    def __init__(self, connection: ReplicaConnection, transport: ReplicaTransport) -> None:
        self.connection = connection
        self._transport = transport
        self.is_relay = connection.metadata.is_relay
        self.takes_deadlines = connection.metadata.takes_deadlines
        self.served_model: ServedModel | None = None
        """The model version of the replica; None while it is not registered."""
        self.sizer = batch_sizer(BatchPolicy.LEARNED, 0)
        self.batch: Batch | None = None
        self.times_skipped = 0
        """The number of times that the replica was idle and got no batch because it would have been late."""
        self.is_draining = False
        self._is_lost = False
        self._wait_seconds = 0.0
        """For how long batches wait on average for those of other frontends, which it computes before."""
        self._deliveries = 0
        """The number of answered batches of the replica whose outputs are not all delivered yet."""
        self._idle_due = False
        """Whether the replica becomes idle when these are delivered."""

    def join_model(self, served_model: "ServedModel", sizer: BatchSizer) -> None:
        """Get batches of a model version, which is registered now, in the sizes that `sizer` chooses."""
        self.served_model = served_model
        self.sizer = sizer

    def change_sizer(self, sizer: BatchSizer) -> None:
        """Forget what was learned of batches, since the policy of the model has changed."""
        self.sizer = sizer

    def leave_model(self) -> None:
        """Get no batches, since the model version is not registered any more."""
        self.served_model = None

    def drain(self) -> None:
        """Get no more batches, and be released when the last one is answered."""
        self.is_draining = True

    def note_lost(self) -> None:
        """Get no batches, since the connection is lost."""
        self._is_lost = True

    def send(self, batch: Batch, input_type: InputType) -> bool:
        """Send the replica a batch. Return False when it is lost."""
        self.batch = batch
        remaining = batch.remaining_micros() if self.takes_deadlines else None
        request = PredictRequest(batch.message_id, input_type, [task.payload for task in batch.tasks], remaining)
        return self._transport.send_batch(self.connection, request)

    def would_answer(self, deadline: float, now: float) -> bool:
        """Whether the replica is expected to answer an input by `deadline`: at once, or after the batch that it has.

        False if that batch takes twice as long as expected, since its end is unknown.
        """
        starts_at = now
        if self.batch is not None:
            seconds = self.expect(len(self.batch.tasks))
            if now - self.batch.sent_at > _OVERDUE * seconds:
                return False
            starts_at = max(now, self.batch.sent_at + seconds)
        return starts_at + self.expect(1) < deadline

    def expect(self, size: int) -> float:
        """Return the seconds in which a batch of `size` inputs is expected to be answered.

        They include the wait for batches of other frontends, which is no time of the model and unknown to the sizer.
        """
        return self._wait_seconds + self.sizer.expect(size)

    def most_inputs(self, budget_seconds: float) -> int:
        """Return the most inputs that a batch should have if two of them must be answered one after the other within
        twice the budget, of which the first has begun."""
        seconds = max(budget_seconds - self._wait_seconds / 2, _LEAST_BUDGET * budget_seconds)
        return self.sizer.choose(seconds)

    def seconds_busy(self, now: float) -> float:
        """The seconds until its batch is expected to be answered, as far as is known; 0 if it has none."""
        if self.batch is None:
            return 0.0
        return max(self.batch.sent_at + self.expect(len(self.batch.tasks)) - now, 0.0)

    def finish(self, batch: Batch, turn_micros: int | None) -> float:
        """Learn from a batch that is answered. Return the seconds that it took.

        If it took more than `turn_micros`, it waited for the batch of another frontend before.
        """
        self.batch = None
        seconds = monotonic() - batch.sent_at
        own_seconds = seconds if turn_micros is None else min(seconds, turn_micros / 1e6)
        self._wait_seconds = _MEMORY * self._wait_seconds + (1 - _MEMORY) * (seconds - own_seconds)
        self.sizer.observe(len(batch.tasks), own_seconds)
        return seconds

    def become_idle(self, is_quick: bool) -> None:
        """Release the replica if it drains; otherwise let it have the next batch.

        It gets none while outputs of an earlier batch are delivered, since undelivered outputs would pile up.
        """
        if self._deliveries:
            self._idle_due = True
        elif self.is_draining:
            self._transport.release(self.connection)
        elif self.served_model is not None:
            self.served_model.on_replica_idle(self, is_quick)

    def hold_while(self, delivering: Iterator[None]) -> Iterator[None]:
        """Make the steps that deliver a large batch. Meanwhile the replica computes the next batch, and gets none after
        that."""
        self._deliveries += 1
        try:
            yield from delivering
        finally:
            self._deliveries -= 1
            if self._idle_due and not self._deliveries:
                self._idle_due = False
                if self._is_free():
                    self.become_idle(False)

    def _is_free(self) -> bool:
        """Whether the replica is connected, has no batch, and is not known to be idle yet."""
        is_idle = self.served_model is not None and self in self.served_model.replicas.idle
        return self.batch is None and not self._is_lost and not is_idle


class ReplicaPool:
    """The replicas of a model version: which of them get batches, and which of these are idle."""

    def __init__(self) -> None:
        self._all: list[ConnectedReplica] = []
        self.is_served = False
        """Whether a replica takes batches."""
        self.has_several = False
        """Whether there is a choice between replicas."""
        self.has_own = False
        """Whether one of them is connected to this frontend itself, not relayed."""
        self.idle: deque[ConnectedReplica] = deque()
        """The idle replicas: our own first, and of each kind the one that has been idle for longest."""

    def __iter__(self) -> Iterator[ConnectedReplica]:
        return iter(self._all)

    def serves(self, task: Task) -> bool:
        """Whether a replica may get the task."""
        return self.has_own if task.is_relayed else self.is_served

    def num_serving(self) -> int:
        return sum(not replica.is_draining for replica in self._all)

    def in_use(self) -> list[ConnectedReplica]:
        """Return all replicas but those that are held in reserve."""
        return [replica for replica in self._all if not self._is_in_reserve(replica)]

    def _is_in_reserve(self, replica: ConnectedReplica) -> bool:
        """Whether a replica gets no batches while there is one of our own: a relay of an older frontend, which would
        give all queries the same time."""
        return self.has_own and replica.is_relay and not replica.takes_deadlines

    def add(self, replica: ConnectedReplica) -> None:
        self._all.append(replica)
        self._review()
        if replica.batch is None and not replica.is_draining and not replica.is_relay:
            self.put_idle(replica)

    def put_idle(self, replica: ConnectedReplica) -> bool:
        """Note that a replica is idle. Return False if it is held in reserve, and gets no batch."""
        if self._is_in_reserve(replica):
            return False
        if replica.is_relay or not self.idle:
            self.idle.append(replica)
        else:
            self.idle.insert(len(self.idle) - sum(other.is_relay for other in self.idle), replica)
        return True

    def remove(self, replica: ConnectedReplica) -> None:
        self._all.remove(replica)
        self.exclude(replica)

    def choose(self, deadline: float, now: float, relays: bool = True) -> ConnectedReplica | None:
        """Return the idle replica that gets the next batch, in which no deadline is later than `deadline`.

        Unless `relays` may have the batch, a replica of our own must be idle. Of the replicas that would answer in
        time, the one is returned that has been idle for longest. If only a busy one would, this returns None, and the
        batch waits for it; if none would, the quickest idle one is returned. The estimates may be wrong, so a replica
        that is skipped `_PROBED` times gets a batch.
        """
        for replica in self.idle:
            if replica.is_relay and not relays:
                break  # so are all after it
            if replica.would_answer(deadline, now):
                return replica
            replica.times_skipped += 1
            if replica.times_skipped >= _PROBED:
                replica.times_skipped = 0
                return replica
        return self._choose_late(deadline, now, relays)

    def _choose_late(self, deadline: float, now: float, relays: bool) -> ConnectedReplica | None:
        """Return the quickest idle replica, which would be late; None if a busy one would not."""
        for replica in self.in_use():
            is_busy = replica.batch is not None and not replica.is_draining and (relays or not replica.is_relay)
            if is_busy and replica.would_answer(deadline, now):
                return None
        idle = (replica for replica in self.idle if relays or not replica.is_relay)
        return min(idle, key=lambda replica: replica.expect(1))

    def num_usable(self, deadline: float, now: float) -> int:
        """Return how many idle replicas would answer an input by `deadline`; 1 if none would."""
        if len(self.idle) == 1:
            return 1
        number = 0
        for replica in self.idle:
            number += replica.would_answer(deadline, now)
        return max(number, 1)

    def exclude(self, replica: ConnectedReplica) -> None:
        """Send no more batches to a replica that drains or is lost."""
        self._review()
        if replica in self.idle:
            self.idle.remove(replica)

    def _review(self) -> None:
        self.has_several = len(self._all) > 1
        serving = [replica for replica in self._all if not replica.is_draining]
        self.is_served = bool(serving)
        self.has_own = any(not replica.is_relay for replica in serving)
        self.idle = deque(replica for replica in self.idle if not self._is_in_reserve(replica))
        for replica in serving:
            if replica.is_relay and replica.batch is None and replica not in self.idle:
                self.put_idle(replica)
