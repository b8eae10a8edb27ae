"""Batch sizers: policies that choose the number of inputs of a batch, most of them by the times of earlier batches.

A batch sizer is told the times of batches, and has neither a clock nor an event loop. It also estimates how long a
batch will take, so that inputs that could not be answered in time any more are sent after others.
"""

from math import inf, sqrt
from typing import Final, Protocol

from clipper_common.constants import MAX_BATCH_SIZE
from clipper_common.datatypes import BatchPolicy

_MEMORY: Final = 0.98
_ORIGIN_WEIGHT: Final = 0.01
_OUTLIER: Final = 2.0
_BELIEVED: Final = 4
_USUAL_DEVIATIONS: Final = 3.0
"""Batches of a model whose times always vary much are within as many standard deviations, and not far off."""
_SETTLED: Final = 3.0
"""Batches of a model that has just started may be much slower than all later ones, and are forgotten then."""
_GROWTH: Final = 2.0
"""Sizes are extrapolated to this many times the largest recent size at most."""
_FIRST: Final = 4
_CHEAP: Final = 1.2
"""A model that is slow however small its batches are gains nothing from small ones."""
_EXPLORE: Final = 1.25
_SAME: Final = 0.05
_DOUBT: Final = 0.02


class BatchSizer(Protocol):
    def observe(self, size: int, seconds: float) -> None:
        """A batch of `size` inputs took `seconds`, from being sent to being answered."""

    def choose(self, budget_seconds: float) -> int:
        """The most inputs, at least 1, that should be sent when the answer must come within the budget."""

    def expect(self, size: int) -> float:
        """The seconds that a batch of `size` inputs seldom exceeds; 0 before any was observed."""

    def fixed(self) -> float:
        """The seconds that a batch takes however small it is, as far as is known."""


class _BatchTimes:
    """Fits ``seconds = base + slope * size``, and knows how far batches are off it.

    A least-squares line with exponential forgetting: old batches count less, so the model may change its speed. An
    observation far above the line is counted as `_OUTLIER` times its prediction: one pause of the machine does not
    stop batching. Several in a row that are far off, above or below, are believed: the model is another, and all before
    is forgotten. The line is pulled to the origin by a light weight, so that before sizes differ a batch twice as
    large is expected to take twice as long.
    """

    def __init__(self) -> None:
        self._forget()
        self._reach = 0.0

    def _forget(self) -> None:
        self._weight = self._sizes = self._squares = self._times = self._products = 0.0
        self._base = self._slope = 0.0
        """The line, when the last batch was observed."""
        self._fixed = 0.0
        self._variance = 0.0
        self._surprises = 0

    def observe(self, size: int, seconds: float) -> None:
        expected = self._base + self._slope * size
        if self._weight <= _SETTLED:
            if expected > _OUTLIER * seconds:
                self._forget()
        elif self._is_surprising(seconds, expected):
            self._forget()
        else:
            seconds = min(seconds, _OUTLIER * expected)
            self._variance += (1 - _MEMORY) * ((seconds - expected) ** 2 - self._variance)
        memory = _MEMORY
        self._weight = self._weight * memory + 1
        self._sizes = self._sizes * memory + size
        self._squares = self._squares * memory + size * size
        self._times = self._times * memory + seconds
        self._products = self._products * memory + size * seconds
        self._reach = max(float(size), self._reach * memory)
        self._fit_line()
        self._fixed = self._learn_fixed(size)

    def _learn_fixed(self, size: int) -> float:
        """Return the base of the line, which batches of the same size do not tell.

        The longer batches have had the same size, the more of their time may be fixed: to find out, others are needed.
        """
        if not self._is_uniform():
            return self._base
        return self._fixed + _DOUBT * (self._base + self._slope * size - self._fixed)

    def _is_surprising(self, seconds: float, expected: float) -> bool:
        """Whether this is one too many that is far off the line."""
        is_near = expected < _OUTLIER * seconds and seconds < _OUTLIER * expected
        is_usual = abs(seconds - expected) < _USUAL_DEVIATIONS * sqrt(self._variance)
        self._surprises = 0 if is_near or is_usual else self._surprises + 1
        return self._surprises >= _BELIEVED

    def expect(self, size: int) -> float:
        return self._base + self._slope * size + sqrt(self._variance)

    def fixed(self) -> float:
        return self._fixed

    def _fit_line(self) -> None:
        weight = self._weight + _ORIGIN_WEIGHT
        spread = weight * self._squares - self._sizes * self._sizes
        if spread <= 0:
            self._base = self._slope = 0.0
            return
        slope = (weight * self._products - self._sizes * self._times) / spread
        base = (self._times - slope * self._sizes) / weight
        if base < 0:  # no batch is faster than none: a line through the origin
            base, slope = 0.0, self._products / self._squares
        elif slope < 0:
            base, slope = self._times / weight, 0.0
        self._base, self._slope = base, slope

    def _largest_within(self, seconds: float) -> int:
        """The largest size that keeps `seconds` by the line; or more, if it takes little longer than a single input."""
        if not self._weight:
            return _FIRST
        base, slope = self._base, self._slope
        limit = (max(seconds, _CHEAP * (base + slope)) - base) / slope if slope > 0 else inf
        limit = min(limit, max(_FIRST, _GROWTH * self._reach))
        if self._is_uniform():
            limit = max(limit + 1, limit * _EXPLORE)
        return max(1, min(int(limit), MAX_BATCH_SIZE))

    def _is_uniform(self) -> bool:
        """Whether recent batches had nearly the same size. They tell nothing of others then, so a larger one is
        tried."""
        variance = self._weight * self._squares - self._sizes * self._sizes
        return self._weight > 2 * _SETTLED and variance < (_SAME * self._sizes) ** 2


class FixedBatchSize(_BatchTimes):
    """The batch size that the user has set."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def choose(self, budget_seconds: float) -> int:
        return self._size


class LearnedBatchSize(_BatchTimes):
    """The largest size that keeps the budget by the line.

    No margin is kept for slow batches: it would cost throughput all the time, while a batch that is late now and then
    costs some of its inputs only, since the next one leaves out what it could not answer in time.
    """

    def choose(self, budget_seconds: float) -> int:
        return self._largest_within(budget_seconds)


class QuantileBatchSize(_BatchTimes):
    """The largest size of which 99 of 100 batches keep the budget (quantile regression; the paper's second policy).

    The 99th percentile of the time is taken for a multiple of the line, which fits models whose spread grows with
    their time. The factor follows the gradient of the pinball loss of quantile regression (Koenker and Bassett,
    "Regression Quantiles", Econometrica 46, 1978), one step for each batch: up by `_STEP` * 0.99 when the batch took
    longer, down by `_STEP` * 0.01 when it did not, so that it rests where 1 batch of 100 takes longer.
    """

    _RANK: Final = 0.99
    _STEP: Final = 0.1

    def _forget(self) -> None:
        super()._forget()
        self._factor = 1.0

    def observe(self, size: int, seconds: float) -> None:
        if self._weight > _SETTLED:
            exceeds = seconds > self._factor * (self._base + self._slope * size)
            self._factor = max(1.0, self._factor + self._STEP * (self._RANK - (not exceeds)))
        _BatchTimes.observe(self, size, seconds)

    def choose(self, budget_seconds: float) -> int:
        return self._largest_within(budget_seconds / self._factor)


class AimdBatchSize(_BatchTimes):
    """Allows one input more after each full batch that kept its budget, and a tenth less after one that did not.

    (Additive increase, multiplicative decrease; the paper's first policy, NSDI'17 section 4.3. Its budget was the
    whole of the SLO.)
    """

    _INCREASE: Final = 1
    _BACK_OFF: Final = 0.9

    def __init__(self) -> None:
        super().__init__()
        self._limit = 1.0
        self._budget = inf

    def observe(self, size: int, seconds: float) -> None:
        _BatchTimes.observe(self, size, seconds)
        if seconds > self._budget:
            self._limit = max(1.0, self._limit * self._BACK_OFF)
        elif size >= int(self._limit):
            self._limit = min(self._limit + self._INCREASE, MAX_BATCH_SIZE)

    def choose(self, budget_seconds: float) -> int:
        self._budget = budget_seconds
        return int(self._limit)


_LEARNING: Final[dict[BatchPolicy, type[LearnedBatchSize | QuantileBatchSize | AimdBatchSize]]] = {
    BatchPolicy.LEARNED: LearnedBatchSize,
    BatchPolicy.QUANTILE: QuantileBatchSize,
    BatchPolicy.AIMD: AimdBatchSize,
}


def batch_sizer(policy: BatchPolicy, batch_size: int) -> BatchSizer:
    """A new one, which has observed nothing. `batch_size` is that of the fixed policy, and means nothing to others."""
    return FixedBatchSize(batch_size) if policy is BatchPolicy.FIXED else _LEARNING[policy]()
