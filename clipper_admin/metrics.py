"""Metrics that a model reports about itself, for use inside a model's own code.

The container serves them to Prometheus beside its own::

    from clipper_admin import metrics

    metrics.add_metric("cold_inputs", "Counter", "Inputs whose user is not known")
    metrics.report_metric("cold_inputs", 1)
"""

import functools
import re
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

from clipper_common.errors import ClipperException

DEFAULT_BUCKETS: Final = (5, 10, 20, 35, 50, 75, 100, 150, 200, 250, 300, 400, 500)
"""Upper bounds of a histogram's buckets; one without bound comes last by itself."""

_REPORT_METHODS: Final = {"Counter": "inc", "Gauge": "set", "Histogram": "observe", "Summary": "observe"}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTAINERS: Final = "clipper_containers"
_CONTAINERS_OWN: Final = "clipper_mc_"
"""The prefix of the metrics of Clipper's containers. The `rpc.py` of Clipper 0.4 adds its metrics by this module."""

_metrics: Final[dict[str, Any]] = {}
_lock: Final = threading.Lock()


def add_metric(name: str, metric_type: str, description: str, buckets: Sequence[float] = DEFAULT_BUCKETS) -> None:
    """Define a metric. Adding it again changes nothing.

    Parameters
    ----------
    name : str
        A name of letters, digits and ``_`` that does not begin with a digit. Prometheus shows a counter under this
        name, and under ``<name>_total``, as is its convention.
    metric_type : str
        ``Counter`` (it only grows), ``Gauge`` (a present value), ``Histogram`` or ``Summary``.
    description : str
        Shown as the metric's help text.
    buckets : sequence of float, optional
        The upper bounds of a histogram's buckets, ascending.

    Raises
    ------
    ClipperException
        When the name, the type, the description or the buckets are invalid, or the name belongs to a metric of another
        type or of the container. Then nothing is added.
    """
    with _lock:
        known = _metrics.get(name) if isinstance(name, str) else None
        if known is None:
            _metrics[name] = _create(name, metric_type, description, buckets)
        elif (kind := _kind(known)) != metric_type:
            raise ClipperException(f"Metric '{name}' cannot be added as {metric_type}: it is there as {kind}")


def report_metric(name: str, val: float) -> None:
    """Report a value of a metric.

    Parameters
    ----------
    name : str
        A name that was given to `add_metric`.
    val : float
        The value to add to a counter, to set on a gauge, or to be observed by a histogram or summary.

    Raises
    ------
    ClipperException
        When the metric is unknown, or the value is invalid for its type.
    """
    metric = _metrics.get(name)
    if metric is None:
        raise ClipperException(f"There is no metric '{name}': call add_metric('{name}', ...) first")
    try:
        getattr(metric, _REPORT_METHODS[_kind(metric)])(float(val))
    except (TypeError, ValueError) as error:
        raise ClipperException(f"Metric '{name}' cannot take the value {val!r}: {error}") from error


def _create(name: str, metric_type: str, description: str, buckets: Sequence[float]) -> Any:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ClipperException(
            f"{name!r} cannot be the name of a metric: it should have letters, digits and '_', and no digit first"
        )
    if name.startswith(_CONTAINERS_OWN) and _CONTAINERS in sys.modules:
        raise ClipperException(f"Metric '{name}' cannot be added: the container's own begin with {_CONTAINERS_OWN}")
    if metric_type not in _REPORT_METHODS:
        raise ClipperException(f"{metric_type!r} is no type of metric; these are: {', '.join(_REPORT_METHODS)}")
    if not isinstance(description, str):
        raise ClipperException(f"Metric '{name}' cannot be added: its description is {description!r}, and no text")
    try:
        import prometheus_client
    except ImportError as error:
        raise ClipperException(
            f"Metric '{name}' cannot be added: the package prometheus_client, which Clipper's containers have, is "
            "missing here"
        ) from error
    options = {"buckets": buckets} if metric_type == "Histogram" else {}
    try:
        kind = _counter_class() if metric_type == "Counter" else getattr(prometheus_client, metric_type)
        return kind(name, description, **options)
    except (TypeError, ValueError) as error:
        raise ClipperException(f"Metric '{name}' cannot be added: {error}") from error


def _kind(metric: Any) -> str:
    """The type of a metric, as `add_metric` takes it."""
    return next(name for name in _REPORT_METHODS if any(base.__name__ == name for base in type(metric).__mro__))


@functools.cache
def _counter_class() -> type[Any]:
    """Counters that are shown under the name that they were given, too, as those of Clipper 0.4 are."""
    from prometheus_client import Counter
    from prometheus_client.core import Metric

    class NamedCounter(Counter):
        def __init__(self, name: str, description: str) -> None:
            self._given_name = name
            super().__init__(name, description)

        def collect(self) -> list[Metric]:
            families = list(super().collect())
            for family in families:
                named = [sample._replace(name=self._given_name) for sample in family.samples if _is_total(sample.name)]
                family.samples += [sample for sample in named if sample not in family.samples]
            return families

    return NamedCounter


def _is_total(name: str) -> bool:
    return name.endswith("_total")
