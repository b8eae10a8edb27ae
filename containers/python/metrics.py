"""The metrics of the container, in Prometheus' default registry beside those of the model."""

import logging
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .prediction import BatchReport

logger = logging.getLogger(__name__)

_LATENCY_BUCKETS_MS: Final = (5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 150.0, 200.0, 250.0, 300.0, 400.0, 500.0)
_OVERHEAD_BUCKETS_MS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class _Times:
    """A histogram of milliseconds. Only one thread writes it, so it needs no lock."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        millis = seconds * 1000
        self._counts[bisect_left(self._bounds, millis)] += 1
        self._sum += millis

    def collect(self, name: str, documentation: str) -> Metric:
        names = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self._sum)


class ContainerMetrics(Collector):
    """The counts and times of all batches."""

    def __init__(self) -> None:
        self._batches = self._inputs = self._errors = 0
        self._receiving = _Times(_OVERHEAD_BUCKETS_MS)
        self._parsing = _Times(_OVERHEAD_BUCKETS_MS)
        self._handling = _Times(_LATENCY_BUCKETS_MS)
        self._end_to_end = _Times(_LATENCY_BUCKETS_MS)

    def observe(self, batch: BatchReport) -> None:
        self._batches += 1
        self._inputs += batch.inputs
        self._errors += batch.errors
        self._receiving.observe(batch.parsing_at - batch.received_at)
        self._parsing.observe(batch.predicting_at - batch.parsing_at)
        self._handling.observe(batch.done_at - batch.predicting_at)
        self._end_to_end.observe(batch.done_at - batch.received_at)

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("clipper_mc_pred", "Batches answered", value=self._batches)
        yield CounterMetricFamily("clipper_mc_inputs", "Inputs answered", value=self._inputs)
        yield CounterMetricFamily("clipper_mc_errors", "Inputs answered with an error", value=self._errors)
        yield self._receiving.collect("clipper_mc_recv_time_ms", "Receiving a batch, ms")
        yield self._parsing.collect("clipper_mc_parse_time_ms", "Making the model's inputs of a batch, ms")
        yield self._handling.collect("clipper_mc_handle_time_ms", "Predicting a batch, ms")
        yield self._end_to_end.collect("clipper_mc_end_to_end_latency_ms", "All of a batch, ms")


METRICS: Final = ContainerMetrics()
REGISTRY.register(METRICS)


def serve(port: int, host: str) -> None:
    """Serve the registry from a daemon thread. If the port is not available, log a warning and serve no metrics."""
    try:
        start_http_server(port, host)
    except OSError as error:
        logger.warning("No metrics: cannot listen on port %d (%s).", port, error)
