import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest

from clipper_common import jsontext
from clipper_common.datatypes import ModelId
from query_frontend.monitoring import reporting
from query_frontend.monitoring.metric_kinds import Counter, Gauge, Histogram, Meter, RatioCounter, percentile
from query_frontend.monitoring.metrics import Line, SystemMetrics
from query_frontend.monitoring.reporting import Pauses, Report, from_text, to_text


def report_of(workers: Iterable[SystemMetrics], departed: Iterable[Line] = ()) -> Any:
    """The JSON of /metrics."""
    report = Report()
    for metrics in workers:
        for line in metrics.lines():
            report.add(line)
    for line in departed:
        report.add_departed(line)
    return jsontext.parse(b"".join(asyncio.run(report.render(Pauses()))))


def depart(workers: Iterable[SystemMetrics], before: Iterable[Line] = ()) -> list[Line]:
    report = Report()
    for line in (*before, *(line for metrics in workers for line in metrics.lines())):
        report.add(line)
    return list(report.depart())


def test_percentiles_interpolate_at_rank_times_n_plus_one() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.99) == 0.0
    assert percentile([1.0, 9.0], 0.99) == 9.0


def test_a_histogram_keeps_a_bounded_sample_and_the_mean_of_all() -> None:
    histogram = Histogram("queries", capacity=10)
    for value in range(1000):
        histogram.add(value)
    report = Histogram.render([histogram.state()])
    assert report["size"] == "10"
    assert float(report["mean"]) == 499.5
    assert report["unit"] == "queries"


def test_every_value_is_as_likely_to_be_in_the_sample() -> None:
    random.seed(5)
    kept = [0] * 10
    for _ in range(300):
        histogram = Histogram("queries", capacity=20)
        for value in range(500):
            histogram.add_times(float(value), 2)
        Histogram.render([histogram.state()])
        for value in histogram._sample:
            kept[int(value) // 50] += 1
    assert sum(kept) == 300 * 20
    assert all(500 < count < 700 for count in kept), "600 each, and a deviation of 23"


def test_an_empty_histogram_is_all_zero() -> None:
    report = Histogram.render([Histogram("microseconds").state()])
    assert {report[name] for name in ("min", "max", "mean", "std_dev", "p50", "p95", "p99")} == {"0.0"}


def test_a_meter_averages_over_minutes() -> None:
    now = [0.0]
    events = Counter()
    meter = Meter(events, clock=lambda: now[0])
    for _ in range(360):
        events.add(50)
        now[0] += 5.0
        meter.state()
    report = Meter.render([meter.state()])
    assert float(report["rate"]) == pytest.approx(10.0)
    assert float(report["rate_1min"]) == pytest.approx(10.0)
    now[0] += 60.0
    report = Meter.render([meter.state()])
    assert float(report["rate_1min"]) == pytest.approx(10.0 / 2.718, rel=0.01)
    assert float(report["rate_15min"]) > 9.0


def test_the_report_has_the_names_and_the_form_of_0_4() -> None:
    metrics = SystemMetrics()
    app = metrics.add_app("a")
    app.add_default("slo_missed", 0.001)
    app.add_answer(0.001)
    metrics.add_model(ModelId("m", "1")).add_batch(3, 0.002)
    report = report_of([metrics])
    names = {category: [next(iter(entry)) for entry in entries] for category, entries in report.items()}
    assert names == {
        "counters": [
            "internal:prediction_cache_lookups",
            "internal:aggregate_num_predictions",
            "internal:slow_turns",
            "internal:slow_computing_turns",
            "app:a:num_predictions",
            "app:a:defaults_slo_missed",
            "model:m:1:num_predictions",
            "model:m:1:waited_micros",
            "model:m:1:gained_queries",
            "model:m:1:blamed_answers",
        ],
        "ratio_counters": [
            "internal:prediction_cache_hit_ratio",
            "app:a:default_prediction_ratio",
            "model:m:1:cache_hit_ratio",
        ],
        "meters": [
            "internal:aggregate_model_throughput",
            "app:a:prediction_throughput",
            "model:m:1:prediction_throughput",
        ],
        "histograms": [
            "internal:rpc_request_queueing_delay",
            "app:a:prediction_latency",
            "model:m:1:prediction_latency",
            "model:m:1:batch_size",
        ],
        "gauges": [
            "internal:workers",
            "internal:body_memory",
            "internal:connections",
            "internal:longest_turn",
            "model:m:1:batching",
            "model:m:1:blamed",
        ],
    }
    leaves = [leaf for entries in report.values() for entry in entries for leaf in next(iter(entry.values())).values()]
    assert all(isinstance(leaf, str) for leaf in leaves)
    metrics.remove_app("a")
    metrics.remove_model(ModelId("m", "1"))
    assert len(report_of([metrics])["counters"]) == 4


# --- of several workers ---


def histogram_of(values: list[float], capacity: int = 4096) -> Histogram:
    histogram = Histogram("microseconds", capacity)
    for value in values:
        histogram.add(value)
    return histogram


def test_counters_and_ratios_of_workers_add_up() -> None:
    assert Counter.render([3, 4]) == {"count": "7"}
    assert RatioCounter.render([(1, 1), (0, 3), (0, 0)]) == {"ratio": "0.25"}
    assert RatioCounter.render([(0, 0), (0, 0)]) == {"ratio": "nan"}


def test_meters_of_workers_add_up() -> None:
    report = Meter.render([(100, 10.0, [5.0, 4.0, 3.0]), (20, 2.0, [1.0, 1.0, 1.0])])
    assert report["rate"] == "12.0"
    assert [report[f"rate_{minutes}min"] for minutes in (1, 5, 15)] == ["6.0", "5.0", "4.0"]


def test_whole_samples_of_workers_are_one_sample() -> None:
    one, other = [1.0, 2.0, 9.0], [4.0, 5.0, 6.0, 7.0]
    merged = Histogram.render([histogram_of(one).state(), histogram_of(other).state()])
    assert merged == Histogram.render([histogram_of(one + other).state()])


def test_a_sample_counts_by_what_it_stands_for() -> None:
    random.seed(7)
    busy, idle = histogram_of([10.0] * 9000, capacity=100), histogram_of([1000.0] * 100, capacity=100)
    report = Histogram.render([busy.state(), idle.state()])
    assert float(report["mean"]) == pytest.approx((9000 * 10 + 100 * 1000) / 9100)
    assert report["p95"] == "10.0", "one value in 91 is larger"
    assert report["max"] == "1000.0"


def test_an_idle_worker_changes_no_histogram() -> None:
    busy = histogram_of([1.0, 2.0, 3.0])
    assert Histogram.render([busy.state(), histogram_of([]).state()]) == Histogram.render([busy.state()])


def test_gauges_of_workers() -> None:
    one = {"policy": "learned", "replicas": "2", "limit_min": "3", "limit_mean": "4.0", "limit_max": "5"}
    other = {"policy": "learned", "replicas": "2", "limit_min": "1", "limit_mean": "2.0", "limit_max": "9"}
    assert Gauge.render([one, other]) == {
        "policy": "learned",
        "replicas": "2",
        "limit_min": "1.0",
        "limit_mean": "3.0",
        "limit_max": "9.0",
    }


def test_workers_that_saw_another_number_of_workers() -> None:
    assert Gauge.render([{"serving": "2"}, {"serving": "3"}, {"serving": "3"}]) == {"serving": "2"}


def test_what_a_departed_worker_counted_stays() -> None:
    metrics, gone = SystemMetrics(), SystemMetrics()
    for of in (metrics, gone):
        of.add_app("a").add_default("slo_missed", 0.001)
    gone.add_app("forgotten").add_default("slo_missed", 0.001)
    report = report_of([metrics], depart([gone]))
    counters = {name: leaves for entry in report["counters"] for name, leaves in entry.items()}
    assert counters["app:a:num_predictions"] == {"count": "2"}
    assert "app:forgotten:num_predictions" not in counters


def test_what_many_that_departed_leave_is_no_more_than_what_one_leaves() -> None:
    left: list[Line] = []
    for _ in range(5):
        gone = SystemMetrics()
        app = gone.add_app("a")
        for microseconds in range(5000):
            app.add_answer(microseconds / 1e6)
        left = depart([gone], left)
    metrics = SystemMetrics()
    metrics.add_app("a")
    report = report_of([metrics], left)
    leaves = {name: leaves for of in report.values() for entry in of for name, leaves in entry.items()}
    assert leaves["app:a:num_predictions"] == {"count": "25000"}
    assert float(leaves["app:a:prediction_throughput"]["rate_1min"]) == 0.0
    latency = leaves["app:a:prediction_latency"]
    assert int(latency["size"]) <= 4096
    assert float(latency["mean"]) == pytest.approx(2499.5)
    assert float(latency["p50"]) == pytest.approx(2500, rel=0.1)
    assert len(jsontext.dumps(left)) < 1.2 * len(jsontext.dumps(depart([gone])))


def test_a_report_is_the_same_after_a_journey_as_text() -> None:
    metrics = SystemMetrics()
    metrics.add_app("a").add_default("slo_missed", 0.001)
    metrics.add_model(ModelId("m", "1")).add_batch(3, 0.002)
    lines = list(metrics.lines())
    travelled = Report()
    for text in to_text(lines):
        travelled.add(from_text(text))
    stayed = Report()
    for line in lines:
        stayed.add(line)
    assert asyncio.run(travelled.render(Pauses())) == asyncio.run(stayed.render(Pauses()))


# --- of many ---


def test_a_report_of_many_applications_lets_others_have_their_turn() -> None:
    metrics = SystemMetrics()
    for number in range(3000):
        metrics.add_app(f"a{number}").add_answer(0.001)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> list[bytes]:
        counting = asyncio.create_task(count_turns())
        pauses = Pauses()
        parts = await (await reporting.report_of(metrics, pauses)).render(pauses)
        counting.cancel()
        return parts

    report = jsontext.parse(b"".join(asyncio.run(run())))
    assert len(report["counters"]) == 3000 + 4
    assert turns > 20


def test_a_report_is_freed_piece_by_piece() -> None:
    """To free the states of 10,000 applications and models at once takes 80 ms."""
    metrics = SystemMetrics()
    for number in range(10):
        metrics.add_app(f"app-{number}")

    async def left_after_each_piece() -> list[int]:
        report = Report()
        for line in metrics.lines():
            report.add(line)
        left = [sum(map(len, report._states.values()))]
        async for _ in report._render(Pauses()):
            left.append(sum(map(len, report._states.values())))
        return left

    left = asyncio.run(left_after_each_piece())
    assert left[-1] == 0
    assert max(before - after for before, after in zip(left, left[1:], strict=False)) == 1


def test_what_goes_while_a_report_is_made_is_left_out() -> None:
    metrics = SystemMetrics()
    for name in "abc":
        metrics.add_app(name)
    lines = metrics.lines()
    names = [next(lines)[1]]
    while not names[-1].startswith("app:a"):
        names.append(next(lines)[1])
    metrics.remove_app("b")
    metrics.add_app("d")
    names += [name for _, name, _ in lines]
    assert any(name.startswith("app:c") for name in names) and not any(name.startswith("app:b") for name in names)


def test_samples_are_smaller_the_more_histograms_there_are() -> None:
    metrics = SystemMetrics()
    for number in range(1000):
        latency = metrics.add_app(f"a{number}").prediction_latency
        for value in range(4096 if number < 2 else 0):
            latency.add(float(value))
    found = {name: state for category, name, state in metrics.lines() if category == "histograms"}
    sample = found["app:a1:prediction_latency"][3]
    assert len(sample) == 256 * 4096 // 1001
    assert percentile(sample, 0.5) == pytest.approx(2048, rel=0.01)
