"""Kinds of metrics, and how each is put together from several workers and rendered in the JSON of 0.4.

There are counters, ratios, meters (events per second, with moving averages like the Unix load), histograms (a uniform
sample of all values) and gauges. Every leaf of the JSON is a string, as in 0.4.

The state of a metric is plain data that can be sent to another worker.
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, Final

SAMPLE_SIZE: Final = 4096
SYSTEM_SAMPLE_SIZE: Final = 2056
"""The sample size of a histogram of the whole frontend."""
_TICK_SECONDS: Final = 5.0
_CHUNK: Final = 1000

Leaves = dict[str, str]


class Counter:
    """A number of events."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int) -> None:
        self.count += number

    def state(self) -> int:
        return self.count

    @staticmethod
    def merge(states: Sequence[int]) -> int:
        return sum(states)

    @classmethod
    def render(cls, states: Sequence[int]) -> Leaves:
        return {"count": str(cls.merge(states))}


class RatioCounter:
    """The ratio of `hits` to the events that another counter counts."""

    def __init__(self, times: Counter) -> None:
        self.hits = 0
        self.times = times

    def state(self) -> tuple[int, int]:
        return self.hits, self.times.count

    @staticmethod
    def merge(states: Sequence[tuple[int, int]]) -> tuple[int, int]:
        hits, times = zip(*states, strict=True)
        return sum(hits), sum(times)

    @classmethod
    def render(cls, states: Sequence[tuple[int, int]]) -> Leaves:
        hits, times = cls.merge(states)
        return {"ratio": str(hits / times) if times else "nan"}


class Meter:
    """The rate of a counter's events per second: since the start, and averaged over the last 1, 5 and 15 minutes."""

    _MINUTES: Final = (1, 5, 15)
    _ALPHAS: Final = tuple(1 - math.exp(-_TICK_SECONDS / 60 / minutes) for minutes in _MINUTES)

    def __init__(self, events: Counter, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self._started = self._ticked = clock()
        self._ticked_count = 0
        self._rates: list[float] | None = None

    def _catch_up(self) -> None:
        """Update the averages for the ticks that are due, as if all events since the last update were evenly spread."""
        ticks = int((self._clock() - self._ticked) / _TICK_SECONDS)
        if not ticks:
            return
        rate = (self._events.count - self._ticked_count) / (ticks * _TICK_SECONDS)
        old = self._rates or [rate] * len(self._MINUTES)
        kept = [(1 - alpha) ** ticks for alpha in self._ALPHAS]
        self._rates = [rate + keep * (before - rate) for keep, before in zip(kept, old, strict=True)]
        self._ticked_count = self._events.count
        self._ticked += ticks * _TICK_SECONDS

    def state(self) -> tuple[int, float, list[float]]:
        self._catch_up()
        return self._events.count, self._clock() - self._started, self._rates or [0.0] * len(self._MINUTES)

    @staticmethod
    def merge(states: Sequence[tuple[int, float, list[float]]]) -> tuple[int, float, list[float]]:
        counts, times, rates = zip(*states, strict=True)
        return sum(counts), max(times), [sum(of_each) for of_each in zip(*rates, strict=True)]

    @classmethod
    def render(cls, states: Sequence[tuple[int, float, list[float]]]) -> Leaves:
        count, elapsed, rates = states[0] if len(states) == 1 else cls.merge(states)
        leaves = {"unit": "events per second", "rate": str(count / elapsed if elapsed > 0 else 0.0)}
        for minutes, rate in zip(cls._MINUTES, rates, strict=True):
            leaves[f"rate_{minutes}min"] = str(rate)
        return leaves


class Histogram:
    """A uniform sample of all values, with the mean of all.

    The sample is drawn by Li's algorithm L (ACM TOMS 20(4), 1994), which computes how many values to skip before the
    next one that enters. So nearly all values cost one comparison.
    """

    def __init__(self, unit: str, capacity: int = SAMPLE_SIZE) -> None:
        self._unit = unit
        self._capacity = capacity
        self._sample: list[float] = []
        self._new: list[float] = []
        self._count = 0
        self._sum = 0.0
        self._next = 1
        """The number of the value, counted from 1, that enters the sample next."""
        self._weight = 1.0

    def add(self, value: float) -> None:
        self._new.append(value)
        if len(self._new) >= _CHUNK:
            self._absorb()

    def add_times(self, value: float, times: int) -> None:
        self._new += [value] * times
        if len(self._new) >= _CHUNK:
            self._absorb()

    def _absorb(self) -> None:
        """Count the values that were added since the last call, and sample from them."""
        before = self._count + 1
        self._count += len(self._new)
        self._sum += sum(self._new)
        while self._next <= self._count:
            self._enter(self._new[self._next - before])
        self._new.clear()

    def _enter(self, value: float) -> None:
        if len(self._sample) < self._capacity:
            self._sample.append(value)
            self._next += 1
            if len(self._sample) < self._capacity:
                return
        else:
            self._sample[random.randrange(self._capacity)] = value
            self._next += 1
        self._weight *= math.exp(math.log(1.0 - random.random()) / self._capacity)
        self._next += int(math.log(1.0 - random.random()) / math.log1p(-self._weight))

    def state(self, most: int = SYSTEM_SAMPLE_SIZE + SAMPLE_SIZE) -> tuple[str, int, float, list[float]]:
        """Return the unit, the number of values, their sum, and at most `most` values of the sample in order."""
        self._absorb()
        self._sample.sort()  # the sample does not depend on its order, and sorting it again costs little
        return self._unit, self._count, self._sum, _thin(self._sample, most)

    @staticmethod
    def merge(states: Sequence[tuple[str, int, float, list[float]]]) -> tuple[str, int, float, list[float]]:
        """Merge samples; each gives values in proportion to the number of values that it represents."""
        units, counts, sums, samples = zip(*states, strict=True)
        share = min((len(sample) / count for count, sample in zip(counts, samples, strict=True) if count), default=1.0)
        thinned = [_thin(sample, round(count * share)) for count, sample in zip(counts, samples, strict=True)]
        return units[0], sum(counts), sum(sums), sorted(itertools.chain.from_iterable(thinned))

    @classmethod
    def render(cls, states: Sequence[tuple[str, int, float, list[float]]]) -> Leaves:
        unit, count, total, sample = states[0] if len(states) == 1 else cls.merge(states)
        mean = total / count if count else 0.0
        deviation = math.sqrt(sum((value - mean) ** 2 for value in sample) / len(sample)) if sample else 0.0
        values = {
            "min": sample[0] if sample else 0.0,
            "max": sample[-1] if sample else 0.0,
            "mean": mean,
            "std_dev": deviation,
            "p50": percentile(sample, 0.50),
            "p95": percentile(sample, 0.95),
            "p99": percentile(sample, 0.99),
        }
        return {"unit": unit, "size": str(len(sample))} | {name: str(value) for name, value in values.items()}


def _thin(ordered: list[float], size: int) -> list[float]:
    """Return at most `size` of the values, at even distances."""
    if size >= len(ordered):
        return list(ordered)
    return [ordered[int((place + 0.5) * len(ordered) / size)] for place in range(min(size, len(ordered)))]


def percentile(ordered: Sequence[float], rank: float) -> float:
    """Return a percentile by linear interpolation at ``rank * (n + 1)``, as in 0.4; 0 without values."""
    if not ordered:
        return 0.0
    position = rank * (len(ordered) + 1)
    below = min(max(int(position), 1), len(ordered))
    above = min(below + 1, len(ordered))
    part = min(max(position - below, 0.0), 1.0)
    return ordered[below - 1] + part * (ordered[above - 1] - ordered[below - 1])


SERVING_WORKERS: Final = "serving"
"""The number of workers that accept connections. Each worker reads it from a table that all share."""


class Gauge:
    """A present state, which `read` returns."""

    def __init__(self, read: Callable[[], Leaves]) -> None:
        self.state = read

    def read_with(self, read: Callable[[], Leaves]) -> None:
        """Ask `read` from now on."""
        self.state = read

    @staticmethod
    def render(states: Sequence[Leaves]) -> Leaves:
        """Render the value that all states agree on, else the minimum of ``..._min``, maximum of ``..._max`` or mean.

        `SERVING_WORKERS`, which all workers read from one place, may have changed between them: the first counts.
        """
        return {name: _agree(name, [state[name] for state in states if name in state]) for name in states[0]}


def _agree(name: str, values: Sequence[str]) -> str:
    if len(set(values)) == 1 or name == SERVING_WORKERS:
        return values[0]
    try:
        numbers = list(map(float, values))
    except ValueError:
        return values[0]
    return str(min(numbers) if name.endswith("_min") else max(numbers) if name.endswith("_max") else fmean(numbers))


Lasting = Counter | RatioCounter | Meter | Histogram
Metric = Lasting | Gauge
LASTING: Final[dict[str, type[Lasting]]] = {
    "counters": Counter,
    "ratio_counters": RatioCounter,
    "meters": Meter,
    "histograms": Histogram,
}
CATEGORIES: Final[dict[str, type[Metric]]] = {**LASTING, "gauges": Gauge}
CATEGORY_OF: Final = {kind: category for category, kind in CATEGORIES.items()}


def depart(category: str, states: Sequence[Any]) -> Any:
    """Merge the states of a metric of stopped workers: totals are kept, present rates become zero.

    The result is no larger than the state of one worker.
    """
    left: Any = LASTING[category].merge(states)
    if category == "meters":
        count, elapsed, rates = left
        return count, elapsed, [0.0] * len(rates)
    if category == "histograms":
        unit, count, total, sample = left
        return unit, count, total, _thin(sample, SAMPLE_SIZE)
    return left
