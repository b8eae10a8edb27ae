"""Which replicas of a model version get batches, and when one that is busy does."""

from time import monotonic
from typing import Any, cast
from unittest.mock import Mock

import pytest

from clipper_common import wire
from clipper_common.datatypes import BatchPolicy, InputType, ModelId
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving.batching import batch_sizer
from query_frontend.serving.model_queue import Task
from query_frontend.serving.replica import Batch, ConnectedReplica, ReplicaPool
from query_frontend.serving.waiting import BatchClients

MODEL = ModelId("m", "1")


def replica(name: str = "r", transport: Any = None, takes_deadlines: bool = False) -> ConnectedReplica:
    metadata = wire.Metadata(MODEL, InputType.BYTES, wire.RPC_VERSION_4, name, "key", takes_deadlines)
    return ConnectedReplica(ReplicaConnection(0, cast(Any, None), metadata, 0.0), transport or Mock())


def relay(takes_deadlines: bool = True) -> ConnectedReplica:
    return replica(f"{wire.RELAY_PREFIX}peer/m:1/0", takes_deadlines=takes_deadlines)


def batch(*deadlines: float, sent_at: float = 0.0) -> Batch:
    tasks = [Task(b"", deadline) for deadline in deadlines]
    return Batch(cast(Any, None), 1, tasks, sent_at, BatchClients(MODEL, len(deadlines)))


def test_relays_of_older_frontends_are_held_in_reserve_while_there_is_a_replica_of_our_own() -> None:
    pool, own, other = ReplicaPool(), replica(), relay(takes_deadlines=False)
    assert not pool.is_served
    pool.add(other)
    assert pool.is_served and not pool.has_own
    assert list(pool.idle) == pool.in_use() == [other]
    pool.add(own)
    assert pool.has_own and list(pool.idle) == pool.in_use() == [own]
    assert not pool.put_idle(other)
    pool.remove(own)
    assert not pool.has_own and list(pool.idle) == pool.in_use() == [other]
    pool.remove(other)
    assert not pool.is_served and not pool.idle


def test_relays_get_batches_while_our_own_replicas_are_busy() -> None:
    pool, other, another, own, busy = ReplicaPool(), relay(), relay(), replica(), replica()
    assert busy.send(batch(1.0), InputType.BYTES)
    for one in (other, another, own, busy):
        pool.add(one)
    assert list(pool.idle) == [own, other, another] and len(pool.in_use()) == 4
    busy.finish(batch(1.0), None)
    assert pool.put_idle(busy)
    assert list(pool.idle) == [own, busy, other, another]
    pool.remove(own)
    pool.remove(busy)
    assert list(pool.idle) == [other, another] and not pool.has_own


def test_who_may_take_what_was_relayed() -> None:
    pool, relayed = ReplicaPool(), Relayed(b"", 1.0)
    pool.add(relay())
    assert pool.serves(Task(b"", 1.0)) and not pool.serves(relayed)
    pool.add(replica())
    assert pool.serves(relayed)


class Relayed(Task):
    is_relayed = True


def test_a_replica_that_drains_gets_no_more_batches() -> None:
    pool, first, second = ReplicaPool(), replica(), replica()
    pool.add(first)
    pool.add(second)
    assert pool.num_serving() == 2
    first.drain()
    pool.exclude(first)
    assert list(pool.idle) == [second] and pool.num_serving() == 1
    second.drain()
    pool.exclude(second)
    assert not pool.is_served and not pool.idle
    assert list(pool) == [first, second]


def test_a_replica_that_is_busy_is_not_idle_when_its_model_is_registered() -> None:
    pool, busy = ReplicaPool(), replica()
    assert busy.send(batch(1.0), InputType.BYTES)
    pool.add(busy)
    assert pool.is_served and not pool.idle


def test_a_replica_rests_once_all_outputs_of_its_earlier_batches_are_delivered() -> None:
    model: Any = Mock()
    model.replicas.idle = []
    one = replica()
    one.join_model(model, batch_sizer(BatchPolicy.FIXED, 1))
    delivering = one.hold_while(iter([None, None]))
    next(delivering)
    one.become_idle(True)
    model.on_replica_idle.assert_not_called()
    assert list(delivering) == [None]
    model.on_replica_idle.assert_called_once_with(one, False)


def test_a_replica_that_left_meanwhile_does_not_rest() -> None:
    model: Any = Mock()
    model.replicas.idle = []
    one = replica()
    one.join_model(model, batch_sizer(BatchPolicy.FIXED, 1))
    delivering = one.hold_while(iter([None]))
    next(delivering)
    one.become_idle(True)
    one.note_lost()
    assert list(delivering) == []
    model.on_replica_idle.assert_not_called()


def test_a_draining_replica_is_released_when_it_rests() -> None:
    transport = Mock()
    one = replica(transport=transport)
    one.drain()
    one.become_idle(False)
    transport.release.assert_called_once_with(one.connection)


def test_the_last_deadline_of_a_batch_is_that_of_who_still_waits() -> None:
    sent = batch(1.0, 3.0, 2.0)
    assert sent.last_deadline(0.5) == 3.0
    sent.tasks[1].resolve(None, "", 0.5)
    assert sent.last_deadline(0.5) == 2.0
    assert sent.last_deadline(2.0) is None


# --- which of the idle replicas gets a batch ---


def pool_of(*seconds: float) -> tuple[ReplicaPool, list[ConnectedReplica]]:
    """Idle replicas whose batches take so long."""
    pool, replicas = ReplicaPool(), [replica(str(number)) for number in range(len(seconds))]
    for one, each in zip(replicas, seconds, strict=True):
        for _ in range(10):
            one.sizer.observe(1, each)
        pool.add(one)
    return pool, replicas


def give_batch(pool: ReplicaPool, one: ConnectedReplica, sent_at: float) -> None:
    pool.idle.remove(one)
    one.send(batch(1.0, sent_at=sent_at), InputType.BYTES)


def taught(waits: bool, compute: float = 0.003, wait: float = 0.004) -> ConnectedReplica:
    """A replica whose batches have computed for so many seconds, some after a wait for another frontend's batch."""
    one = replica()
    for _ in range(50):
        sent = batch(1.0, sent_at=monotonic() - compute - waits * wait)
        assert one.send(sent, InputType.BYTES)
        one.finish(sent, round(compute * 1e6) if waits else None)
    return one


def test_the_wait_for_the_batch_of_another_frontend_is_not_learned_as_time_of_the_model() -> None:
    alone, shared = taught(False), taught(True)
    assert shared.sizer.expect(1) == pytest.approx(0.003, rel=0.1)
    assert shared.expect(1) == pytest.approx(alone.expect(1) + 0.004, rel=0.2)


def test_a_replica_that_is_shared_is_expected_to_answer_later_and_gets_smaller_batches() -> None:
    alone, shared = taught(False), taught(True, wait=0.012)
    assert alone.would_answer(10.005, 10.0) and not shared.would_answer(10.005, 10.0)
    assert 1 <= shared.most_inputs(0.009) < alone.most_inputs(0.009)


def test_a_batch_that_did_not_wait_took_no_longer_than_until_its_answer() -> None:
    one = replica()
    sent = batch(1.0, sent_at=monotonic() - 0.003)
    assert one.send(sent, InputType.BYTES)
    seconds = one.finish(sent, 5_000_000)  # the replica had been idle for long
    assert one.expect(1) == one.sizer.expect(1) == pytest.approx(seconds, rel=0.02)


def test_idle_replicas_that_would_be_late_are_not_usable() -> None:
    pool, (slow, quick, _) = pool_of(0.03, 0.003, 0.003)
    assert pool.num_usable(10.1, 10.0) == 3
    assert pool.num_usable(10.02, 10.0) == 2
    give_batch(pool, quick, sent_at=10.0)
    assert pool.num_usable(10.02, 10.0) == 1
    assert pool.num_usable(10.001, 10.0) == 1, "one that is late must do"


def test_the_replica_that_was_idle_for_longest_gets_the_next_batch() -> None:
    pool, (first, _) = pool_of(0.004, 0.003)
    assert pool.choose(10.02, 10.0) is first


def test_a_replica_that_would_be_late_is_passed_over() -> None:
    pool, (slow, quick) = pool_of(0.03, 0.003)
    assert pool.choose(10.02, 10.0) is quick
    assert pool.choose(10.10, 10.0) is slow, "it gets what it can do in time"


def test_a_batch_waits_for_a_busy_replica_that_will_be_in_time_rather_than_for_an_idle_one_that_will_not() -> None:
    pool, (slow, quick) = pool_of(0.03, 0.003)
    give_batch(pool, quick, sent_at=9.999)
    assert pool.choose(10.02, 10.0) is None
    assert pool.choose(10.004, 10.0) is slow, "nobody will be in time"


def test_nobody_waits_for_a_replica_whose_batch_takes_far_too_long() -> None:
    pool, (slow, quick) = pool_of(0.03, 0.003)
    give_batch(pool, quick, sent_at=9.99)
    assert pool.choose(10.02, 10.0) is slow


def test_the_quickest_replica_gets_a_batch_that_will_be_late_anyway() -> None:
    pool, (_, quick) = pool_of(0.05, 0.04)
    assert pool.choose(10.02, 10.0) is quick


def test_a_replica_that_is_passed_over_gets_a_batch_now_and_then() -> None:
    """It may have become quicker, which nobody would see."""
    pool, (slow, quick) = pool_of(0.03, 0.003)
    chosen = [pool.choose(10.02, 10.0) for _ in range(2000)]
    assert 0 < chosen.count(slow) <= 0.005 * len(chosen)
    assert chosen.count(slow) + chosen.count(quick) == len(chosen)
