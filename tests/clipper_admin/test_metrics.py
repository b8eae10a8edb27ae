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
    metrics.add_metric(name, "Gauge", "second")
    assert f"{name} 7.0" in exposed()
    assert f"# HELP {name} first" in exposed()


def test_a_name_has_one_type(name: str) -> None:
    metrics.add_metric(name, "Gauge", "first")
    with pytest.raises(ClipperException, match=f"'{name}' cannot be added as Counter: it is there as Gauge"):
        metrics.add_metric(name, "Counter", "second")
    metrics.add_metric(f"{name}_seen", "Counter", "shown as ..._total")
    with pytest.raises(ClipperException, match=f"'{name}_seen_total' cannot be added"):
        metrics.add_metric(f"{name}_seen_total", "Gauge", "")


def test_buckets(name: str) -> None:
    metrics.add_metric(name, "Histogram", "milliseconds", buckets=[1, 2])
    metrics.report_metric(name, 1.5)
    assert f'{name}_bucket{{le="1.0"}} 0.0' in exposed()
    assert f'{name}_bucket{{le="2.0"}} 1.0' in exposed()


@pytest.mark.parametrize("bad", ["", "7th", "with blank", "with-dash", "ümlaut", 'quote"', "new\nline", None, 7, ["x"]])
def test_bad_names(bad: object) -> None:
    with pytest.raises(
        ClipperException, match="cannot be the name of a metric: it should have letters, digits and '_'"
    ):
        metrics.add_metric(bad, "Counter", "")  # type: ignore[arg-type]


@pytest.mark.parametrize("buckets", [[], [2, 1], ["x"], 7, None])
def test_bad_buckets(name: str, buckets: object) -> None:
    with pytest.raises(ClipperException, match=f"'{name}' cannot be added"):
        metrics.add_metric(name, "Histogram", "", buckets)  # type: ignore[arg-type]
    metrics.add_metric(name, "Histogram", "")
    metrics.report_metric(name, 1)
    assert f"{name}_count 1.0" in exposed()


def test_refusals(name: str) -> None:
    with pytest.raises(ClipperException, match=f"no metric '{name}'"):
        metrics.report_metric(name, 1)
    with pytest.raises(ClipperException, match="'Clock' is no type of metric; these are: Counter"):
        metrics.add_metric(name, "Clock", "")
    with pytest.raises(ClipperException, match="the container's own begin with clipper_mc_"):
        metrics.add_metric("clipper_mc_pred", "Counter", "")
    with pytest.raises(ClipperException, match="its description is None, and no text"):
        metrics.add_metric(name, "Gauge", None)  # type: ignore[arg-type]
    with pytest.raises(ClipperException, match="'python_info' cannot be added"):
        metrics.add_metric("python_info", "Gauge", "")
    metrics.add_metric(name, "Counter", "")
    with pytest.raises(ClipperException, match="cannot take the value -1"):
        metrics.report_metric(name, -1)
    with pytest.raises(ClipperException, match="cannot take the value 'x'"):
        metrics.report_metric(name, "x")  # type: ignore[arg-type]
