"""The wait of a model version's next batch: for its delay to end, or for clients that are expected back."""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Final

from clipper_common.datatypes import BatchPolicy
from clipper_common.records import Model
from query_frontend.monitoring.metrics import ModelMetrics
from query_frontend.serving.model_queue import ModelQueue
from query_frontend.serving.replica import Batch, ConnectedReplica, ReplicaPool
from query_frontend.serving.waiting import Returns

_MARGIN: Final = 2
"""The number of times that answers could be delivered between the expected end of a batch that waited and its first
deadline. The queue asks for one time, and timers are late."""


class BatchWait:
    """A batch wait is over when a batch is sent, or when its timer calls `dispatch`."""

    def __init__(self, loop: AbstractEventLoop, metrics: ModelMetrics, dispatch: Callable[[bool], None]) -> None:
        self._loop = loop
        self._metrics = metrics
        self._dispatch: Callable[[bool], None] | None = dispatch
        self.returns = Returns()
        self._awaits_returns = False
        self._delay_seconds = 0.0
        self._timer: TimerHandle | None = None
        self._timer_ends = 0.0
        self._is_on = False
        """Whether a batch waits."""
        self._since = 0.0
        """Monotonic time at which that batch began to wait."""
        self._num_first = 0
        """The number of tasks that were queued then."""
        self._delay_ends = 0.0
        """Monotonic time at which the model's delay ends for that batch."""

    def configure(self, record: Model) -> None:
        """Make batches wait as `record` says."""
        self._delay_seconds = record.batch_delay_micros / 1e6
        self._awaits_returns = (
            record.batch_wait and not record.batch_delay_micros and record.batch_policy is not BatchPolicy.FIXED
        )

    def expect(self, batch: Batch, replica: ConnectedReplica, now: float) -> None:
        """Expect the clients of a batch back that `replica` has just answered."""
        if self._awaits_returns:
            self.returns.expect(batch.clients, now, replica.sizer.fixed())

    def should_wait(
        self,
        queue: ModelQueue,
        replicas: ReplicaPool,
        replica: ConnectedReplica,
        most: int,
        delivery_seconds: float,
        now: float,
    ) -> bool:
        """Return whether the next batch, of `most` tasks, is to wait. Then `dispatch` is called when the wait is over.

        There must be tasks, and `replica` must be idle.
        """
        if self._delay_seconds:
            until = self._end_of_delay(queue, replica, most, delivery_seconds, now)
        elif self._awaits_returns and self.returns.are_likely():
            until = self._end_of_returns(queue, replicas, replica, most, delivery_seconds, now)
        else:
            return False
        if until <= now:
            return False
        if not self._is_on:
            self._is_on, self._since, self._num_first = True, now, len(queue)
        if self._timer is None or until < self._timer_ends:
            self._cancel()
            self._timer = self._loop.call_later(until - now, self._on_timer)
            self._timer_ends = until
        return True

    def _end_of_delay(
        self, queue: ModelQueue, replica: ConnectedReplica, most: int, delivery_seconds: float, now: float
    ) -> float:
        """Return when the delay of the next batch ends: as the model's delay says, and the first deadline allows."""
        if len(queue) >= most:
            return now
        if not self._is_on:
            self._delay_ends = queue.first_arrival() + self._delay_seconds
        seconds = replica.expect(most)
        return min(self._delay_ends, queue.first_deadline() - seconds - _MARGIN * delivery_seconds)

    def _end_of_returns(
        self,
        queue: ModelQueue,
        replicas: ReplicaPool,
        replica: ConnectedReplica,
        most: int,
        delivery_seconds: float,
        now: float,
    ) -> float:
        """Return until when the only idle replica that is quick enough should wait for clients, which otherwise wait
        for the next one."""
        last = queue.last_deadline() - delivery_seconds
        if replicas.num_usable(last, now) > 1:
            return now
        seconds = replica.expect(min(len(queue), most))
        latest = queue.first_deadline() - seconds - _MARGIN * delivery_seconds
        busy = [
            other.seconds_busy(now) for other in replicas if other.batch is not None and other.would_answer(last, now)
        ]
        return self.returns.wait_until(len(queue), most, min(seconds, min(busy, default=seconds)), latest, now)

    def end(self, queued: int, now: float) -> None:
        """Note that the next batch stops waiting, with `queued` tasks in the queue."""
        if self._is_on:
            self._is_on = False
            self._cancel()
            self._metrics.waited_micros.add(round((now - self._since) * 1e6))
            self._metrics.gained_queries.add(max(queued - self._num_first, 0))

    def close(self) -> None:
        """Cancel the timer, and drop the reference to the model version, which owns this wait."""
        self._cancel()
        self._dispatch = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self._dispatch is not None:
            self._dispatch(True)
