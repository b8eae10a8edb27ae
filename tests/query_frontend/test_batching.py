import random

import pytest

from clipper_common.constants import MAX_BATCH_SIZE
from query_frontend.batching import BatchSizer, FixedBatchSize, LearnedBatchSize, batch_sizer


def teach(sizer: BatchSizer, base: float, slope: float, budget: float, batches: int, waiting: int = 10**6) -> int:
    """Let `sizer` meet a model that takes `base + slope * size` seconds, give or take; its last choice."""
    rng = random.Random(1)
    for _ in range(batches):
        size = min(sizer.choose(budget), waiting)
        sizer.observe(size, (base + slope * size) * rng.uniform(0.95, 1.1))
    return sizer.choose(budget)


def test_a_fixed_size_is_fixed() -> None:
    assert teach(batch_sizer(7), 1.0, 1.0, 0.01, 5) == 7


def test_minus_one_learns() -> None:
    assert isinstance(batch_sizer(-1), LearnedBatchSize)
    assert isinstance(batch_sizer(1), FixedBatchSize)


@pytest.mark.parametrize(
    ("base", "slope", "budget"), [(0.005, 0.0001, 0.023), (0.0, 0.001, 0.01), (0.0002, 0.00001, 0.009)]
)
def test_finds_nearly_the_largest_size_within_the_budget(base: float, slope: float, budget: float) -> None:
    best = (budget - base) / slope
    assert 0.6 * best <= teach(LearnedBatchSize(), base, slope, budget, 100) <= best * 1.02


def test_a_slow_model_gets_one_at_a_time() -> None:
    assert teach(LearnedBatchSize(), 0.0, 0.5, 0.01, 3) == 1


def test_grows_fast_from_nothing() -> None:
    assert teach(LearnedBatchSize(), 0.005, 0.0001, 0.023, 8) > 100


def test_one_pause_of_the_machine_does_not_stop_batching() -> None:
    sizer = LearnedBatchSize()
    before = teach(sizer, 0.005, 0.0001, 0.023, 100)
    sizer.observe(before, 5.0)
    assert sizer.choose(0.023) > before / 8
    assert teach(sizer, 0.005, 0.0001, 0.023, 200) > 0.7 * before


def test_follows_a_model_that_becomes_slower() -> None:
    sizer = LearnedBatchSize()
    teach(sizer, 0.001, 0.0001, 0.02, 100)
    assert teach(sizer, 0.001, 0.001, 0.02, 100) <= 20


def test_follows_a_model_that_becomes_faster() -> None:
    sizer = LearnedBatchSize()
    teach(sizer, 0.001, 0.001, 0.02, 100)
    assert teach(sizer, 0.001, 0.0001, 0.02, 200) > 100


def test_does_not_extrapolate_far_beyond_what_it_saw() -> None:
    assert teach(LearnedBatchSize(), 0.001, 0.00001, 0.1, 100, waiting=10) <= 20


def test_is_bounded() -> None:
    assert teach(LearnedBatchSize(), 0.0, 1e-9, 10.0, 100) == MAX_BATCH_SIZE
