"""The connected replicas of a model version, and the batch that each of them has."""

from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from clipper_common.datatypes import BatchPolicy, InputType
from clipper_common.wire import PredictRequest, Response
from query_frontend.rpc.server import Connection
from query_frontend.serving.batching import BatchSizer, batch_sizer
from query_frontend.serving.model_queue import Task
from query_frontend.serving.waiting import BatchClients

if TYPE_CHECKING:
    from query_frontend.serving.served_model import ServedModel

_OVERDUE: Final = 2.0
_PROBED: Final = 500
"""A replica that is expected to be late gets one in so many batches, to see whether it still is."""


class ReplicaTransport(Protocol):
    """The transport carries batches to replicas: the RPC server is one."""

    def send_batch(self, connection: Connection, request: PredictRequest) -> bool:
        """Send a batch; False when the replica is gone, and then `Executor.on_left` was called."""

    def disconnect(self, connection: Connection, reason: str) -> None:
        """Disconnect a replica that misbehaves."""

    def release(self, connection: Connection) -> None:
        """Let a draining replica go."""


class Batch:
    """A batch is tasks that travel together."""

    def __init__(
        self, model: "ServedModel", message_id: int, tasks: list[Task], sent_at: float, clients: BatchClients
    ) -> None:
        self.model = model
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
        """The last deadline of those who wait for the batch; None if no deadline is later than `now`."""
        deadlines = (task.deadline for task in self.tasks if task.wanted or task.joined)
        return max((deadline for deadline in deadlines if deadline > now), default=None)

    def remaining_micros(self) -> list[int]:
        """Return how long the output of each task is waited for from now on."""
        now = monotonic()
        return [max(int((task.deadline - now) * 1e6), 0) for task in self.tasks]


class ConnectedReplica:
    """A replica is a connected container, of which this says what it is doing."""

    def __init__(self, connection: Connection, transport: ReplicaTransport) -> None:
        self.connection = connection
        self._transport = transport
        self.is_relay = connection.metadata.is_relay
        self.takes_deadlines = connection.metadata.takes_deadlines
        self.model: ServedModel | None = None
        """It is None while its model version is not registered."""
        self.sizer = batch_sizer(BatchPolicy.LEARNED, 0)
        self.batch: Batch | None = None
        self.times_passed_over = 0
        """How often it was idle, and got no batch because it would have been late."""
        self.is_draining = False
        self._has_left = False
        self._deliveries = 0
        """The number of its answered batches whose outputs are not all delivered yet."""
        self._rest_due = False
        """Whether it has nothing to do, and gets nothing until these are delivered."""

    def join_model(self, model: "ServedModel", sizer: BatchSizer) -> None:
        """Get batches of a model version, which is registered now, in the sizes that `sizer` chooses."""
        self.model = model
        self.sizer = sizer

    def change_sizer(self, sizer: BatchSizer) -> None:
        """Forget what was learned of batches, since its model says otherwise how large they should be."""
        self.sizer = sizer

    def leave_model(self) -> None:
        """Get no batches, since the model version is not registered any more."""
        self.model = None

    def drain(self) -> None:
        """Get no more batches, and be released when the last one is answered."""
        self.is_draining = True

    def leave(self) -> None:
        """Get no batches, since the connection is lost."""
        self._has_left = True

    def send(self, batch: Batch, input_type: InputType) -> bool:
        """Send it a batch; False when it is gone, and then it has left."""
        self.batch = batch
        remaining = batch.remaining_micros() if self.takes_deadlines else None
        request = PredictRequest(batch.message_id, input_type, [task.payload for task in batch.tasks], remaining)
        return self._transport.send_batch(self.connection, request)

    def would_answer(self, deadline: float, now: float) -> bool:
        """Whether it is expected to answer an input by `deadline`: at once, or after the batch that it has.

        It is not if that batch takes twice as long as expected, since nobody knows when it ends.
        """
        starts_at = now
        if self.batch is not None:
            seconds = self.sizer.expect(len(self.batch.tasks))
            if now - self.batch.sent_at > _OVERDUE * seconds:
                return False
            starts_at = max(now, self.batch.sent_at + seconds)
        return starts_at + self.sizer.expect(1) < deadline

    def seconds_busy(self, now: float) -> float:
        """The seconds until its batch is expected to be answered, as far as is known; 0 if it has none."""
        if self.batch is None:
            return 0.0
        return max(self.batch.sent_at + self.sizer.expect(len(self.batch.tasks)) - now, 0.0)

    def finish(self, batch: Batch) -> float:
        """Learn from a batch that is answered. Return the seconds that it took."""
        self.batch = None
        seconds = monotonic() - batch.sent_at
        self.sizer.observe(len(batch.tasks), seconds)
        return seconds

    def rest(self, is_quick: bool) -> None:
        """Do nothing any more: be let go, or get the next batch.

        It gets none while there are outputs of an earlier one to deliver: answers would pile up.
        """
        if self._deliveries:
            self._rest_due = True
        elif self.is_draining:
            self._transport.release(self.connection)
        elif self.model is not None:
            self.model.on_rest(self, is_quick)

    def hold_while(self, delivering: Iterator[None]) -> Iterator[None]:
        """Make the steps that deliver a large batch. Meanwhile it computes the next one, and none after that."""
        self._deliveries += 1
        try:
            yield from delivering
        finally:
            self._deliveries -= 1
            if self._rest_due and not self._deliveries:
                self._rest_due = False
                if self._is_free():
                    self.rest(False)

    def _is_free(self) -> bool:
        """Whether it has nothing to do: it may be gone by now, or have been found idle."""
        is_idle = self.model is not None and self in self.model.replicas.idle
        return self.batch is None and not self._has_left and not is_idle


class ReplicaPool:
    """The replicas of a model version: which of them get batches, and which of these are idle."""

    def __init__(self) -> None:
        self._all: list[ConnectedReplica] = []
        self.is_served = False
        """Whether one of them takes batches."""
        self.has_several = False
        """Whether there is a choice between replicas."""
        self.has_own = False
        """Whether one of these is connected to us itself, not relayed."""
        self.idle: deque[ConnectedReplica] = deque()
        """The idle replicas: our own first, and of each kind the one that has been idle for longest."""

    def __iter__(self) -> Iterator[ConnectedReplica]:
        return iter(self._all)

    def serves(self, task: Task) -> bool:
        """Whether one of them may take a task."""
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
        """Let a replica have a batch, since it has none. Return False if it is held in reserve."""
        if self._is_in_reserve(replica):
            return False
        if replica.is_relay or not self.idle:
            self.idle.append(replica)
        else:
            self.idle.insert(len(self.idle) - sum(other.is_relay for other in self.idle), replica)
        return True

    def remove(self, replica: ConnectedReplica) -> None:
        self._all.remove(replica)
        self.pass_over(replica)

    def choose(self, deadline: float, now: float, relays: bool = True) -> ConnectedReplica | None:
        """Return the idle replica that gets the next batch, in which no deadline is later than `deadline`.

        Unless `relays` may have it, one of our own must be idle. It is the one that has been idle for longest of those
        that would answer in time, or the quickest if none would, not even one that is busy: for that one the batch
        waits, and this returns None. What is expected may be wrong. To find out, a replica that is passed over again
        and again gets a batch now and then.
        """
        for replica in self.idle:
            if replica.is_relay and not relays:
                break  # so are all after it
            if replica.would_answer(deadline, now):
                return replica
            replica.times_passed_over += 1
            if replica.times_passed_over >= _PROBED:
                replica.times_passed_over = 0
                return replica
        return self._choose_late(deadline, now, relays)

    def _choose_late(self, deadline: float, now: float, relays: bool) -> ConnectedReplica | None:
        """Return the quickest idle replica, which would be late; None if a busy one would not."""
        used = [replica for replica in self.in_use() if relays or not replica.is_relay]
        if any(replica.batch is not None and replica.would_answer(deadline, now) for replica in used):
            return None
        return min((replica for replica in used if replica in self.idle), key=lambda replica: replica.sizer.expect(1))

    def pass_over(self, replica: ConnectedReplica) -> None:
        """Have no more batches sent to a replica that drains, or is gone."""
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
