"""The metrics that models report about themselves."""

import subprocess
import sys
import uuid

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

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


def test_a_counter_answers_to_the_name_that_was_given(name: str) -> None:
    for given in (name, f"{name}_of_0_4_total"):
        metrics.add_metric(given, "Counter", "seen")
        metrics.report_metric(given, 2)
        metrics.add_metric(given, "Counter", "again")
        metrics.report_metric(given, 1)
    lines = exposed()
    for shown in (name, f"{name}_total", f"{name}_of_0_4_total"):
        assert [line for line in lines if line.startswith(f"{shown} ")] == [f"{shown} 3.0"]


def test_prometheus_can_read_counters(name: str) -> None:
    metrics.add_metric(name, "Counter", "seen")
    families = text_string_to_metric_families("\n".join(exposed()) + "\n")
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values[name] == values[f"{name}_total"] == 0.0


RPC_OF_0_4 = """
import clipper_admin.metrics as metrics
metrics.add_metric("clipper_mc_pred_total", "Counter", "Total Predictions Made")
metrics.add_metric("clipper_mc_recv_time_ms", "Histogram", "ms", [0.1, 1.0, float("inf")])
metrics.report_metric("clipper_mc_pred_total", 1)
metrics.report_metric("clipper_mc_recv_time_ms", 0.5)
"""


def test_the_rpc_module_of_0_4_adds_its_own_metrics() -> None:
    subprocess.run([sys.executable, "-c", RPC_OF_0_4], check=True, timeout=30)


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


def test_refusals(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clipper_containers", sys)  # as in a container of ours
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
