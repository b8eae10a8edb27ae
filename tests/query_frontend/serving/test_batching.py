"""Each policy on models whose speed is known; and a replica under load, simulated on the real queue."""

import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest

from clipper_common.constants import MAX_BATCH_SIZE
from clipper_common.datatypes import BatchPolicy
from query_frontend.serving.batching import (
    AimdBatchSize,
    BatchSizer,
    FixedBatchSize,
    LearnedBatchSize,
    QuantileBatchSize,
    batch_sizer,
)
from query_frontend.serving.model_queue import ModelQueue, Task
from tests.query_frontend.serving.test_model_queue import make_task

ModelTime = Callable[[int, random.Random], float]

LEARNING = [BatchPolicy.LEARNED, BatchPolicy.QUANTILE, BatchPolicy.AIMD]
every_learning_policy = pytest.mark.parametrize("policy", LEARNING)


def affine(base: float, slope: float) -> ModelTime:
    return lambda size, rng: base + slope * size


def noisy(base: float, slope: float, spread: float = 0.1) -> ModelTime:
    return lambda size, rng: (base + slope * size) * (1 + spread * abs(rng.gauss(0, 1)))


def heavy_tailed(base: float, slope: float) -> ModelTime:
    """One batch of fifty takes three times as long and 5 ms."""
    return lambda size, rng: (base + slope * size) * (3 if (outlier := rng.random() < 0.02) else 1) + 0.005 * outlier


def uneven(slope: float) -> ModelTime:
    """The model raises on some batches, which are computed again in parts: times of equal sizes differ by 1 to 8."""
    return lambda size, rng: slope * size * rng.choice([0.25, 0.25, 1.5, 2.0])


def quantised(base: float, step: float, lanes: int) -> ModelTime:
    """As a forest whose trees are shared out among threads: the time rises by steps."""
    return lambda size, rng: base + step * -(-size // lanes)


def teach(
    sizer: BatchSizer, model: ModelTime, budget: float, batches: int, waiting: int = 10**6, seed: int = 1
) -> list[int]:
    """The sizes that `sizer` chose for so many batches, of which no more than `waiting` inputs could be sent."""
    rng = random.Random(seed)
    chosen = []
    for _ in range(batches):
        chosen.append(sizer.choose(budget))
        size = min(chosen[-1], waiting)
        sizer.observe(size, model(size, rng))
    return chosen


def settled(sizer: BatchSizer, model: ModelTime, budget: float, batches: int) -> float:
    """The mean of the sizes after so many batches."""
    teach(sizer, model, budget, batches)
    last = teach(sizer, model, budget, 200, seed=2)
    return sum(last) / len(last)


def new(policy: BatchPolicy) -> BatchSizer:
    return batch_sizer(policy, 7)


# --- the size that a policy settles at ---


def test_each_policy_has_its_sizer() -> None:
    kinds = [type(new(policy)) for policy in BatchPolicy]
    assert kinds == [LearnedBatchSize, AimdBatchSize, QuantileBatchSize, FixedBatchSize]


def test_a_fixed_size_is_fixed() -> None:
    assert set(teach(batch_sizer(BatchPolicy.FIXED, 7), affine(1.0, 1.0), 0.01, 5)) == {7}


MODELS = [
    pytest.param(affine(0.005, 0.0001), 0.023, 180, id="affine"),
    pytest.param(affine(0.0, 0.001), 0.01, 10, id="linear"),
    pytest.param(affine(0.0002, 0.00001), 0.009, 880, id="fast"),
    pytest.param(affine(0.0, 0.003), 0.01, 3, id="slow"),
    pytest.param(noisy(0.002, 0.0001), 0.01, 75, id="noisy"),
    pytest.param(heavy_tailed(0.002, 0.0001), 0.01, 80, id="heavy-tailed"),
    pytest.param(quantised(0.001, 0.002, 16), 0.0101, 64, id="quantised"),
]


@pytest.mark.parametrize(("model", "budget", "best"), MODELS)
def test_learns_nearly_the_largest_size_within_the_budget(model: ModelTime, budget: float, best: int) -> None:
    assert 0.75 * best <= settled(LearnedBatchSize(), model, budget, 300) <= 1.25 * best


@pytest.mark.parametrize(("model", "budget", "best"), MODELS)
def test_aimd_goes_to_and_fro_around_the_budget(model: ModelTime, budget: float, best: int) -> None:
    assert 0.7 * best <= settled(AimdBatchSize(), model, budget, 2000) <= max(1.1 * best, best + 1)


@pytest.mark.parametrize(
    ("model", "budget"),
    [(noisy(0.002, 0.0001, 0.3), 0.02), (heavy_tailed(0.001, 0.0001), 0.03)],
    ids=["noisy", "heavy-tailed"],
)
def test_of_a_hundred_batches_the_quantile_lets_one_be_late(model: ModelTime, budget: float) -> None:
    sizer = QuantileBatchSize()
    teach(sizer, model, budget, 3000)
    rng = random.Random(3)
    late = 0
    for _ in range(5000):
        size = sizer.choose(budget)
        seconds = model(size, rng)
        late += seconds > budget
        sizer.observe(size, seconds)
    assert 0.003 <= late / 5000 <= 0.02


@every_learning_policy
def test_a_model_slower_than_the_budget_gets_few_at_a_time(policy: BatchPolicy) -> None:
    assert settled(new(policy), affine(0.0, 0.5), 0.01, 50) < 1.2


@pytest.mark.parametrize("policy", [BatchPolicy.LEARNED, BatchPolicy.QUANTILE])
def test_a_model_whose_batches_all_take_about_the_same_gets_large_ones(policy: BatchPolicy) -> None:
    """With one at a time, a model that needs 12 ms however few they are would do 80 a second."""
    assert 60 <= settled(new(policy), affine(0.012, 0.00002), 0.009, 300) <= 160


@every_learning_policy
def test_is_bounded(policy: BatchPolicy) -> None:
    assert max(teach(new(policy), affine(0.0, 1e-9), 10.0, 5000)) == MAX_BATCH_SIZE


@every_learning_policy
def test_does_not_extrapolate_far_beyond_what_it_saw(policy: BatchPolicy) -> None:
    assert teach(new(policy), affine(0.001, 0.00001), 0.1, 100, waiting=10)[-1] <= 26


# --- start, outliers, drift ---


@pytest.mark.parametrize("policy", [BatchPolicy.LEARNED, BatchPolicy.QUANTILE])
def test_grows_fast_from_nothing(policy: BatchPolicy) -> None:
    assert teach(new(policy), affine(0.005, 0.0001), 0.023, 9)[-1] > 100


@every_learning_policy
def test_a_slow_start_is_forgotten(policy: BatchPolicy) -> None:
    """The first batches load what the model had not loaded."""
    sizer = new(policy)
    for seconds in (3.0, 0.5):
        sizer.observe(sizer.choose(0.02), seconds)
    assert settled(sizer, affine(0.001, 0.0001), 0.02, 250) > 90


@every_learning_policy
def test_one_pause_of_the_machine_does_not_stop_batching(policy: BatchPolicy) -> None:
    sizer, model = new(policy), affine(0.005, 0.0001)
    before = settled(sizer, model, 0.023, 500)
    sizer.observe(sizer.choose(0.023), 5.0)
    assert sizer.choose(0.023) > before / 8
    assert settled(sizer, model, 0.023, 300) > 0.8 * before


@every_learning_policy
@pytest.mark.parametrize("factor", [2.0, 0.5, 10.0, 0.1])
def test_follows_a_model_that_changes_its_speed(policy: BatchPolicy, factor: float) -> None:
    sizer, budget = new(policy), 0.02
    teach(sizer, affine(0.0, 0.0002), budget, 500)
    best = budget / (0.0002 * factor)
    assert 0.7 * best <= settled(sizer, affine(0.0, 0.0002 * factor), budget, 1000) <= 1.3 * best


@pytest.mark.parametrize("policy", [BatchPolicy.LEARNED, BatchPolicy.QUANTILE])
@pytest.mark.parametrize("factor", [2.0, 0.5, 10.0, 0.1])
def test_follows_within_a_hundred_batches(policy: BatchPolicy, factor: float) -> None:
    sizer, budget = new(policy), 0.02
    teach(sizer, affine(0.001, 0.0002), budget, 500)
    best = (budget - 0.001 * factor) / (0.0002 * factor)
    last = teach(sizer, affine(0.001 * factor, 0.0002 * factor), budget, 110)[-10:]
    assert 0.6 * best <= sum(last) / 10 <= 1.4 * best


def test_times_that_always_vary_are_no_change_of_the_speed() -> None:
    sizer = new(BatchPolicy.LEARNED)
    teach(sizer, uneven(0.002), 0.02, 100)
    sizes = teach(sizer, uneven(0.002), 0.02, 1000, seed=2)
    assert sum(7 <= size <= 15 for size in sizes) > 850  # 10 take the budget on average


@every_learning_policy
def test_expects_what_batches_take(policy: BatchPolicy) -> None:
    sizer = new(policy)
    assert sizer.expect(10) == 0.0
    rng = random.Random(1)
    for _ in range(200):
        size = rng.randint(1, 100)
        sizer.observe(size, 0.002 + 0.0001 * size)
    assert sizer.expect(50) == pytest.approx(0.007, rel=0.1)


# --- a replica under load ---


class Served(NamedTuple):
    share: float
    """Of the offered queries, answered in time."""
    per_second: float


def serve(sizer: BatchSizer, model: ModelTime, rate: float, slo: float, seconds: float = 6.0) -> Served:
    """One replica, queries with Poisson arrivals; what the executor does, in simulated time."""
    rng = random.Random(5)
    warm_up = seconds / 3
    arrivals = poisson(rng, rate, seconds)
    queue, now, good, offered = ModelQueue(), 0.0, 0, 0
    coming = next(arrivals, None)
    while coming is not None or queue:
        if not queue and coming is not None:
            now = max(now, coming)
        while coming is not None and coming <= now:
            offered += coming > warm_up
            queue.put(make_task(coming + slo))
            coming = next(arrivals, None)
        size = min(sizer.choose(0.46 * slo), len(queue))
        batch: list[Task] = queue.draw(size, now, sizer.expect(size) + 0.05 * slo)
        if batch:
            took = model(len(batch), rng)
            now += took
            sizer.observe(len(batch), took)
            good += sum(now < task.deadline and task.deadline - slo > warm_up for task in batch)
    return Served(good / offered, good / (seconds - warm_up))


def poisson(rng: random.Random, rate: float, seconds: float) -> Iterator[float]:
    when = rng.expovariate(rate)
    while when < seconds:
        yield when
        when += rng.expovariate(rate)


LOADED = [
    pytest.param(noisy(0.008, 0.0004), 0.08, id="affine"),
    pytest.param(heavy_tailed(0.008, 0.0004), 0.1, id="heavy-tailed"),
    pytest.param(noisy(0.0, 0.001), 0.04, id="linear"),
    pytest.param(quantised(0.004, 0.008, 16), 0.08, id="quantised"),
]


@cache
def best_fixed(model: ModelTime, slo: float) -> tuple[int, float]:
    """The size with the highest goodput, and that."""
    best = (0, 0.0)
    for size in (1, 4, 16, 32, 64, 96):
        capacity = size / model(size, random.Random(1))
        for part in (0.8, 0.9, 1.0):
            served = serve(FixedBatchSize(size), model, part * capacity, slo)
            best = max(best, (size, served.per_second), key=lambda found: found[1])
    return best


@pytest.mark.parametrize(("model", "slo"), LOADED)
def test_learned_sizes_serve_as_many_as_the_best_fixed_one(model: ModelTime, slo: float) -> None:
    size, goodput = best_fixed(model, slo)
    for part in (0.85, 1.0, 1.2):
        learned, fixed = (
            serve(sizer, model, part * goodput, slo) for sizer in (LearnedBatchSize(), FixedBatchSize(size))
        )
        assert learned.per_second >= 0.95 * fixed.per_second


@every_learning_policy
@pytest.mark.parametrize(("model", "slo"), LOADED)
def test_goodput_does_not_fall_when_more_is_offered(policy: BatchPolicy, model: ModelTime, slo: float) -> None:
    """If those that would be late did not let others go first, all that is sent under overload would be late."""
    _, goodput = best_fixed(model, slo)
    rates = [serve(new(policy), model, part * goodput, slo).per_second for part in (1.0, 1.2, 1.5, 2.0)]
    assert min(rates) >= 0.75 * goodput
    assert all(after >= 0.9 * before for before, after in pairwise(rates))
