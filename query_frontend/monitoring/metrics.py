"""The metrics of the query frontend, by their names in its route /metrics.

`reporting` makes a report of the states of one or several workers.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, Final

from clipper_common.datatypes import ModelId
from clipper_common.records import Model
from query_frontend.monitoring.metric_kinds import (
    CATEGORY_OF,
    SAMPLE_SIZE,
    SERVING_WORKERS,
    SYSTEM_SAMPLE_SIZE,
    Counter,
    Gauge,
    Histogram,
    Leaves,
    Meter,
    Metric,
    RatioCounter,
)

_MAX_SAMPLES: Final = 256 * SAMPLE_SIZE
"""The most values that all histograms of a worker put into a report."""
_LEAST_SAMPLE: Final = 64

Line = tuple[str, str, Any]
"""The category, the name and the state of a metric."""


class ArmCounters:
    """The counts of one of the links among which an application's selection policy chooses."""

    def __init__(self) -> None:
        self.num_predictions = Counter()
        self.num_defaults = Counter()


class AppMetrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self.num_predictions = Counter()
        self.prediction_latency = Histogram("microseconds")
        self.prediction_throughput = Meter(self.num_predictions)
        self.default_prediction_ratio = RatioCounter(self.num_predictions)
        self._defaults: dict[str, Counter] = {}
        """The number of default answers by their cause."""
        self._arms: dict[str, ArmCounters] = {}
        """The counts by link, while the application has a policy that chooses."""

    def count_arms(self, links: Iterable[str]) -> dict[str, ArmCounters]:
        """Count by these links from now on, and no others; counts of links that were among the last ones go on."""
        self._arms = {link: self._arms.get(link) or ArmCounters() for link in links}
        return self._arms

    def named(self) -> list[tuple[str, Metric]]:
        return [
            ("num_predictions", self.num_predictions),
            ("prediction_latency", self.prediction_latency),
            ("prediction_throughput", self.prediction_throughput),
            ("default_prediction_ratio", self.default_prediction_ratio),
            *((f"defaults_{cause}", counter) for cause, counter in self._defaults.items()),
            *((f"arm:{link}:num_predictions", arm.num_predictions) for link, arm in self._arms.items()),
            *((f"arm:{link}:num_defaults", arm.num_defaults) for link, arm in self._arms.items()),
        ]

    def add_answer(self, seconds: float) -> None:
        """Count an answer of the model."""
        self.num_predictions.count += 1
        self.prediction_latency.add(seconds * 1e6)

    def add_default(self, cause: str, seconds: float) -> None:
        """Count a default answer."""
        self.add_answer(seconds)
        self.default_prediction_ratio.hits += 1
        self._defaults.setdefault(cause, Counter()).count += 1


class ArmMetrics(AppMetrics):
    """Counts answers for one link of an application as well as for the application."""

    def __init__(self, of_app: AppMetrics, counters: ArmCounters) -> None:
        self._of_app = of_app
        self._counters = counters

    def add_answer(self, seconds: float) -> None:
        self._of_app.add_answer(seconds)
        self._counters.num_predictions.count += 1

    def add_default(self, cause: str, seconds: float) -> None:
        self._of_app.add_default(cause, seconds)
        self._counters.num_predictions.count += 1
        self._counters.num_defaults.count += 1


class ModelMetrics:
    """The metrics of one model version."""

    def __init__(self) -> None:
        self._outputs = Counter()
        self.num_predictions = Counter()
        self.prediction_latency = Histogram("microseconds")
        self.prediction_throughput = Meter(self._outputs)
        self.cache_hit_ratio = RatioCounter(Counter())
        self.batch_size = Histogram("queries")
        self.batching = Gauge(dict)
        """The present state of the batch sizers; set by the owner of the model version."""
        self.waited_micros = Counter()
        """Microseconds for which batches waited for more inputs while a replica was idle."""
        self.gained_queries = Counter()
        """The number of inputs that arrived while batches waited."""
        self.blamed = Gauge(dict)
        """The inputs that are not sent to replicas, since some died of them; set by the owner of the model version."""
        self.blamed_answers = Counter()
        """The number of default answers for such inputs."""

    def named(self) -> list[tuple[str, Metric]]:
        return [
            ("num_predictions", self.num_predictions),
            ("prediction_latency", self.prediction_latency),
            ("prediction_throughput", self.prediction_throughput),
            ("cache_hit_ratio", self.cache_hit_ratio),
            ("batch_size", self.batch_size),
            ("batching", self.batching),
            ("waited_micros", self.waited_micros),
            ("gained_queries", self.gained_queries),
            ("blamed", self.blamed),
            ("blamed_answers", self.blamed_answers),
        ]

    def add_batch(self, size: int, seconds: float) -> None:
        self.prediction_latency.add_times(seconds * 1e6, size)
        self._outputs.count += size
        self.batch_size.add(float(size))


def batching_leaves(record: Model, limits: Sequence[int], return_share: float, return_seconds: float) -> Leaves:
    """Return how batches of a model version are made; `limits` are the sizes that the replicas in use choose."""
    shown = limits or [0]
    return {
        "policy": record.batch_policy,
        "delay_micros": str(record.batch_delay_micros),
        "replicas": str(len(limits)),
        "limit_min": str(min(shown)),
        "limit_mean": str(fmean(shown)),
        "limit_max": str(max(shown)),
        "return_share": str(return_share),
        "return_micros": str(return_seconds * 1e6),
    }


class SystemMetrics:
    """The metrics of the whole frontend, and of each application and model version."""

    def __init__(self) -> None:
        self.rpc_request_queueing_delay = Histogram("microseconds", SYSTEM_SAMPLE_SIZE)
        self.prediction_cache_lookups = Counter()
        self.prediction_cache_hit_ratio = RatioCounter(self.prediction_cache_lookups)
        self.aggregate_num_predictions = Counter()
        self.aggregate_outputs = Counter()
        self.aggregate_throughput = Meter(self.aggregate_outputs)
        self.workers = Gauge(lambda: {SERVING_WORKERS: "1"})
        """The number of workers; read from the table that they share, where there are several."""
        self.body_memory = Gauge(dict)
        """The bytes that large bodies and outputs hold, and their limit."""
        self.connections = Gauge(dict)
        """The number of HTTP connections, and its limit."""
        self.slow_turns = Counter()
        self.slow_computing_turns = Counter()
        self.longest_turn = Gauge(dict)
        """The longest turns of the event loop; empty where they are not measured."""
        self._apps: dict[str, AppMetrics] = {}
        self._models: dict[ModelId, ModelMetrics] = {}
        self._gone = ModelMetrics()
        """The sums of the counts of removed models, of those that aggregates need."""

    def add_app(self, name: str) -> AppMetrics:
        self._apps[name] = AppMetrics()
        return self._apps[name]

    def remove_app(self, name: str) -> None:
        del self._apps[name]

    def add_model(self, model: ModelId) -> ModelMetrics:
        self._models[model] = ModelMetrics()
        return self._models[model]

    def remove_model(self, model: ModelId) -> None:
        self._add_up(self._gone, self._models.pop(model))

    def _sum_up(self) -> None:
        """Compute the aggregates of all models. This is not done for each query."""
        total = ModelMetrics()
        for metrics in (self._gone, *self._models.values()):
            self._add_up(total, metrics)
        self.prediction_cache_lookups.count = total.cache_hit_ratio.times.count
        self.prediction_cache_hit_ratio.hits = total.cache_hit_ratio.hits
        self.aggregate_num_predictions.count = total.num_predictions.count

    @staticmethod
    def _add_up(total: ModelMetrics, part: ModelMetrics) -> None:
        total.cache_hit_ratio.times.count += part.cache_hit_ratio.times.count
        total.cache_hit_ratio.hits += part.cache_hit_ratio.hits
        total.num_predictions.count += part.num_predictions.count

    def lines(self) -> Iterator[Line]:
        """Yield all metrics. The caller may yield to the event loop in between; metrics removed then are left out."""
        self._sum_up()
        num_histograms = 1 + len(self._apps) + 2 * len(self._models)
        most = max(_LEAST_SAMPLE, _MAX_SAMPLES // num_histograms)
        for name, metric in self._all():
            state = metric.state(most) if isinstance(metric, Histogram) else metric.state()
            yield CATEGORY_OF[type(metric)], name, state

    def _all(self) -> Iterator[tuple[str, Metric]]:
        own: list[tuple[str, Metric]] = [
            ("internal:rpc_request_queueing_delay", self.rpc_request_queueing_delay),
            ("internal:prediction_cache_lookups", self.prediction_cache_lookups),
            ("internal:prediction_cache_hit_ratio", self.prediction_cache_hit_ratio),
            ("internal:aggregate_model_throughput", self.aggregate_throughput),
            ("internal:aggregate_num_predictions", self.aggregate_num_predictions),
            ("internal:workers", self.workers),
            ("internal:body_memory", self.body_memory),
            ("internal:connections", self.connections),
            ("internal:slow_turns", self.slow_turns),
            ("internal:slow_computing_turns", self.slow_computing_turns),
            ("internal:longest_turn", self.longest_turn),
        ]
        yield from own
        for app in list(self._apps):
            if app in self._apps:
                yield from _named(f"app:{app}", self._apps[app])
        for model in list(self._models):
            if model in self._models:
                yield from _named(f"model:{model}", self._models[model])


def _named(prefix: str, group: AppMetrics | ModelMetrics) -> list[tuple[str, Metric]]:
    return [(f"{prefix}:{name}", metric) for name, metric in group.named()]
