"""When the wait of a batch begins and ends, by a loop that only notes its timers."""

from typing import Any, cast
from unittest.mock import Mock

import pytest

from clipper_common import wire
from clipper_common.datatypes import BatchPolicy, InputType, ModelId
from clipper_common.records import Model
from query_frontend.monitoring.metrics import ModelMetrics
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving.batch_wait import BatchWait
from query_frontend.serving.batching import batch_sizer
from query_frontend.serving.model_queue import ModelQueue, Task
from query_frontend.serving.replica import Batch, ConnectedReplica, ReplicaPool
from query_frontend.serving.waiting import BatchClients

MODEL = ModelId("m", "1")
SLO = 1.0


class Timer:
    def __init__(self, seconds: float, call: Any) -> None:
        self.seconds = seconds
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Waiter:
    """A batch wait with its queue, its replicas and the timers that it asked for."""

    def __init__(self, num_replicas: int = 1, **batching: Any) -> None:
        self.timers: list[Timer] = []
        self.dispatched: list[bool] = []
        self.metrics = ModelMetrics()
        loop = Mock()
        loop.call_later = self._call_later
        self.wait = BatchWait(loop, self.metrics, self.dispatched.append)
        self.configure(**batching)
        self.queue = ModelQueue()
        self.replicas = ReplicaPool()
        for number in range(num_replicas):
            metadata = wire.Metadata(MODEL, InputType.BYTES, wire.RPC_VERSION_4, f"r{number}", "key")
            replica = ConnectedReplica(ReplicaConnection(0, cast(Any, None), metadata, 0.0), Mock())
            replica.join_model(Mock(), batch_sizer(BatchPolicy.LEARNED, 0))
            self.replicas.add(replica)

    def configure(self, **batching: Any) -> None:
        self.wait.configure(Model(MODEL, InputType.BYTES, **batching))

    def _call_later(self, seconds: float, call: Any) -> Timer:
        self.timers.append(Timer(seconds, call))
        return self.timers[-1]

    def put(self, arrival: float, slo: float = SLO) -> Task:
        task = Task(b"", arrival + slo, arrival)
        assert self.queue.put(task)
        return task

    def should_wait(self, now: float, most: int = 10) -> bool:
        return self.wait.should_wait(self.queue, self.replicas, self.replicas.idle[0], most, 0.05 * SLO, now)

    def running(self) -> list[float]:
        return [timer.seconds for timer in self.timers if not timer.is_cancelled]


def test_a_delay_counts_from_the_first_arrival() -> None:
    one = Waiter(batch_delay_micros=200_000)
    one.put(9.9)
    assert one.should_wait(10.0)
    assert one.running() == pytest.approx([0.1])
    one.put(10.05)
    assert one.should_wait(10.05), "the delay of the second query is none of its own"
    assert one.running() == pytest.approx([0.1])
    assert not one.should_wait(10.1)


def test_a_delay_counts_from_the_arrival_of_patient_queries_too() -> None:
    """Their arrival does not follow from their deadline and the shortest latency objective of all applications."""
    one = Waiter(batch_delay_micros=200_000)
    one.put(9.9, slo=100 * SLO)
    assert one.should_wait(10.0)
    assert one.running() == pytest.approx([0.1])


def test_a_delay_is_brought_forward_by_a_nearer_deadline() -> None:
    one = Waiter(batch_delay_micros=5_000_000)
    one.put(10.0, slo=100.0)
    assert one.should_wait(10.0)
    one.put(10.5)
    assert one.should_wait(10.5)
    assert one.running() == pytest.approx([0.9])
    assert not one.should_wait(11.4)


def test_what_waited_elsewhere_is_not_delayed() -> None:
    one = Waiter(batch_delay_micros=200_000)
    assert one.queue.put(Task(b"", 20.0))
    assert not one.should_wait(10.0)


def test_a_full_batch_is_not_delayed() -> None:
    one = Waiter(batch_delay_micros=200_000)
    one.put(10.0)
    assert not one.should_wait(10.0, most=1)


def test_a_wait_that_ends_leaves_no_timer_and_is_counted() -> None:
    one = Waiter(batch_delay_micros=200_000)
    one.put(10.0)
    assert one.should_wait(10.0)
    one.put(10.05)
    one.put(10.06)
    one.wait.end(len(one.queue), 10.1)
    assert one.running() == []
    assert one.metrics.waited_micros.state() == pytest.approx(100_000, rel=0.01)
    assert one.metrics.gained_queries.state() == 2
    one.wait.end(0, 10.2)
    assert one.metrics.gained_queries.state() == 2


def test_the_timer_of_a_wait_dispatches() -> None:
    one = Waiter(batch_delay_micros=200_000)
    one.put(10.0)
    assert one.should_wait(10.0)
    one.timers[0].call()
    assert one.dispatched == [True]


def answer(one: Waiter, now: float) -> BatchClients:
    """The first replica has answered ten clients."""
    clients = BatchClients(MODEL, 10)
    replica = next(iter(one.replicas))
    one.wait.expect(Batch(cast(Any, None), 0, [], 0.0, clients), replica, now)
    return clients


def with_returns(num_replicas: int = 1, **batching: Any) -> Waiter:
    """All clients ask again 1 ms after they were answered; a batch takes 10 ms."""
    one = Waiter(num_replicas, **batching)
    for replica in one.replicas:
        for size in (1, 10) * 20:
            replica.sizer.observe(size, 0.01)
    for batch in range(100):
        clients = answer(one, float(batch))
        for _ in range(10):
            clients.note_return(MODEL, batch + 0.001)
    answer(one, 100.0)
    one.put(100.0005)
    return one


def test_a_batch_waits_for_clients_that_are_expected_back() -> None:
    one = with_returns()
    assert one.should_wait(100.0005)
    assert one.running() == pytest.approx([0.001], rel=0.1)


@pytest.mark.parametrize("batching", [{"batch_wait": False}, {"batch_size": 10}])
def test_a_batch_waits_for_nobody_if_its_model_says_so(batching: dict[str, Any]) -> None:
    one = with_returns()
    assert one.should_wait(100.0005)
    one.configure(**batching)
    assert not one.should_wait(100.0006)
    assert not with_returns(**batching).should_wait(100.0005)


def test_a_batch_waits_for_clients_while_the_only_other_idle_replica_is_too_slow() -> None:
    one = with_returns(num_replicas=2)
    for _ in range(40):
        one.replicas.idle[1].sizer.observe(1, 5 * SLO)
    assert one.should_wait(100.0005)


def test_a_batch_waits_for_nobody_while_another_replica_is_idle() -> None:
    one = with_returns(num_replicas=2)
    assert not one.should_wait(100.0005)
    other = one.replicas.idle.pop()
    assert one.should_wait(100.0005)
    assert other.send(Batch(cast(Any, None), 1, [Task(b"", 200.0)], 99.9902, BatchClients(MODEL, 1)), InputType.BYTES)
    for _ in range(4):
        one.put(100.0005)
    assert not one.should_wait(100.0005), "it has its answer in a moment"
