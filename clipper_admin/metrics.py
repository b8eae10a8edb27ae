"""Metrics that a model reports about itself, for use inside a model's own code.

The container serves them to Prometheus beside its own::

    from clipper_admin import metrics

    metrics.add_metric("cold_inputs", "Counter", "Inputs whose user is not known")
    metrics.report_metric("cold_inputs", 1)
"""

import threading
from collections.abc import Sequence
from typing import Any, Final

from clipper_common.errors import ClipperException

DEFAULT_BUCKETS: Final = (5, 10, 20, 35, 50, 75, 100, 150, 200, 250, 300, 400, 500)
"""Upper bounds of a histogram's buckets; one without bound comes last by itself."""

_REPORT_METHODS: Final = {"Counter": "inc", "Gauge": "set", "Histogram": "observe", "Summary": "observe"}

_metrics: Final[dict[str, Any]] = {}
_lock: Final = threading.Lock()


def add_metric(name: str, metric_type: str, description: str, buckets: Sequence[float] = DEFAULT_BUCKETS) -> None:
    """Make a metric known. Adding it again changes nothing.

    Parameters
    ----------
    name : str
        Letters, digits and ``_``.
    metric_type : str
        ``Counter`` (only grows), ``Gauge`` (a value of now), ``Histogram`` or ``Summary``.
    description : str
        Shown as the metric's help text.
    buckets : sequence of float, optional
        The upper bounds of a histogram's buckets, ascending.

    Raises
    ------
    ClipperException
        When the type is none of these, or Prometheus refuses the name or the buckets.
    """
    with _lock:
        if name not in _metrics:
            _metrics[name] = _create(name, metric_type, description, buckets)


def report_metric(name: str, val: float) -> None:
    """Report a value.

    Parameters
    ----------
    name : str
        A name that was given to `add_metric`.
    val : float
        What is added to a counter, set on a gauge, or observed by a histogram or summary.

    Raises
    ------
    ClipperException
        When the metric is unknown, or the value is not one that it takes.
    """
    if name not in _metrics:
        raise ClipperException(f"There is no metric '{name}': call add_metric('{name}', ...) first")
    metric = _metrics[name]
    try:
        getattr(metric, _REPORT_METHODS[type(metric).__name__])(val)
    except (TypeError, ValueError) as error:
        raise ClipperException(f"Metric '{name}' cannot take the value {val!r}: {error}") from error


def _create(name: str, metric_type: str, description: str, buckets: Sequence[float]) -> Any:
    import prometheus_client

    if metric_type not in _REPORT_METHODS:
        raise ClipperException(f"'{metric_type}' is no type of metric; these are: {', '.join(_REPORT_METHODS)}")
    options = {"buckets": buckets} if metric_type == "Histogram" else {}
    try:
        return getattr(prometheus_client, metric_type)(name, description, **options)
    except ValueError as error:
        raise ClipperException(f"Metric '{name}' cannot be added: {error}") from error
