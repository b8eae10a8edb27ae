"""How many inputs a replica is sent at once: fixed, or learned from how long its batches took."""

from math import sqrt
from typing import Final, Protocol

from clipper_common.constants import MAX_BATCH_SIZE


class BatchSizer(Protocol):
    def observe(self, size: int, seconds: float) -> None:
        """A batch of `size` inputs took `seconds`, from being sent to being answered."""

    def choose(self, budget_seconds: float) -> int:
        """The most inputs, at least 1, that should be sent when the answer must come within the budget."""


class FixedBatchSize:
    """What the user said."""

    def __init__(self, size: int) -> None:
        self._size = size

    def observe(self, size: int, seconds: float) -> None:
        pass

    def choose(self, budget_seconds: float) -> int:
        return self._size


class LearnedBatchSize:
    """Fits ``seconds = base + slope * size`` and chooses the largest size that keeps the budget, with some margin.

    A least-squares line with exponential forgetting (old batches count less, so the model may change its speed),
    and around it the spread of the residuals, of which `_MARGIN` deviations are kept free. (More would backfire: on a
    noisy machine the batches shrink, and with them the throughput, so that queries wait longer.) An observation far
    above the line is counted as `_OUTLIER` times its prediction: one pause of the machine does not stop batching, a
    model that really became slow is believed after a few batches. The line is pulled to the origin
    by a light weight, so that before sizes differ a batch twice as large is expected to take twice as long. Sizes
    are not extrapolated beyond twice the largest that was seen of late.

    (The paper, NSDI'17 section 4.3, has additive increase with multiplicative decrease and quantile regression; this
    is nearer to the second. 0.4 regressed sizes on latencies and padded batches with copies to explore.)
    """

    _MEMORY: Final = 0.98
    _ORIGIN_WEIGHT: Final = 0.05
    _MARGIN: Final = 1.0
    _OUTLIER: Final = 2.0
    _GROWTH: Final = 2
    _FIRST: Final = 4

    def __init__(self) -> None:
        self._weight = self._sizes = self._squares = self._times = self._products = 0.0
        self._variance = 0.0
        self._reach = 0.0

    def observe(self, size: int, seconds: float) -> None:
        expected = self._expect(size)
        if self._weight > 3:
            seconds = min(seconds, self._OUTLIER * max(expected, 1e-4))
            self._variance += (1 - self._MEMORY) * ((seconds - expected) ** 2 - self._variance)
        memory = self._MEMORY
        self._weight = self._weight * memory + 1
        self._sizes = self._sizes * memory + size
        self._squares = self._squares * memory + size * size
        self._times = self._times * memory + seconds
        self._products = self._products * memory + size * seconds
        self._reach = max(float(size), self._reach * self._MEMORY)

    def choose(self, budget_seconds: float) -> int:
        if not self._weight:
            return self._FIRST
        limit = max(self._FIRST, self._GROWTH * self._reach)
        base, slope = self._fit()
        room = budget_seconds - base - self._MARGIN * sqrt(self._variance)
        if slope > 0:
            limit = min(limit, room / slope)
        return max(1, min(int(limit), MAX_BATCH_SIZE))

    def _expect(self, size: int) -> float:
        base, slope = self._fit()
        return base + slope * size

    def _fit(self) -> tuple[float, float]:
        weight = self._weight + self._ORIGIN_WEIGHT
        spread = weight * self._squares - self._sizes**2
        if spread <= 0:
            return 0.0, 0.0
        slope = (weight * self._products - self._sizes * self._times) / spread
        base = (self._times - slope * self._sizes) / weight
        if base < 0:  # no batch is faster than none: a line through the origin
            return 0.0, self._products / self._squares
        if slope < 0:
            return self._times / weight, 0.0
        return base, slope


def batch_sizer(batch_size: int) -> BatchSizer:
    """For a model's `batch_size`, of which -1 means: learn it."""
    return FixedBatchSize(batch_size) if batch_size > 0 else LearnedBatchSize()
