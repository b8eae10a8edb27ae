"""The metrics that models report about themselves."""

import uuid

import prometheus_client
import pytest

from clipper_admin import ClipperException, metrics


@pytest.fixture
def name() -> str:
    return f"test_{uuid.uuid4().hex}"


def exposed() -> list[str]:
    return prometheus_client.generate_latest().decode().splitlines()


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("Counter", "{}_total 5.0"),
        ("Gauge", "{} 3.0"),
        ("Summary", "{}_sum 5.0"),
        ("Histogram", '{}_bucket{{le="5.0"}} 2.0'),
    ],
)
def test_each_type(kind: str, line: str, name: str) -> None:
    metrics.add_metric(name, kind, "what it means")
    metrics.report_metric(name, 2)
    metrics.report_metric(name, 3)
    assert line.format(name) in exposed()


def test_adding_again_changes_nothing(name: str) -> None:
    metrics.add_metric(name, "Gauge", "first")
    metrics.report_metric(name, 7)
    metrics.add_metric(name, "Counter", "second")
    assert f"{name} 7.0" in exposed()


def test_buckets(name: str) -> None:
    metrics.add_metric(name, "Histogram", "milliseconds", buckets=[1, 2])
    metrics.report_metric(name, 1.5)
    assert f'{name}_bucket{{le="1.0"}} 0.0' in exposed()
    assert f'{name}_bucket{{le="2.0"}} 1.0' in exposed()


def test_refusals(name: str) -> None:
    with pytest.raises(ClipperException, match=f"no metric '{name}'"):
        metrics.report_metric(name, 1)
    with pytest.raises(ClipperException, match="'Clock' is no type of metric; these are: Counter"):
        metrics.add_metric(name, "Clock", "")
    with pytest.raises(ClipperException, match="'python_info' cannot be added"):
        metrics.add_metric("python_info", "Gauge", "")
    metrics.add_metric(name, "Counter", "")
    with pytest.raises(ClipperException, match="cannot take the value -1"):
        metrics.report_metric(name, -1)
    with pytest.raises(ClipperException, match="cannot take the value 'x'"):
        metrics.report_metric(name, "x")  # type: ignore[arg-type]
