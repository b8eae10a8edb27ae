"""Tables and curves of the comparison on real models, and the models themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import open_loop, real_models
from bench.models import scikit, trained
from bench.open_loop import Load
from bench.real_models import Run


def run(server: str, per_second: float, round: int = 1, **fields: Any) -> Run:
    run = Run(round, "random-forest", server, "closed", 16, 0.0, 0.0, per_second, 1.0, 1.0, 2.0, 0.5, 0.0)
    return run._replace(**fields)


def test_throughput_is_compared_within_rounds() -> None:
    runs = [run("clipper", 100), run("mosec", 50), run("clipper", 10, 2), run("mosec", 10, 2)]
    runs += [run("clipper", 40, 3), run("mosec", 30, 3)]
    (table,) = real_models.tables(runs)
    assert table.rows[1][:4] == ["mosec", 16, 30, 0.75]


def test_open_loops_have_a_table_for_each_slo_and_kind_of_arrivals() -> None:
    fields: dict[str, Any] = {"connections": 0, "arrivals": "poisson", "slo_millis": 20.0}
    runs = [run("clipper", 99, rate=rate, share=share, **fields) for rate, share in ((100.0, 1.0), (200.0, 0.5))]
    runs.append(runs[0]._replace(slo_millis=50.0))
    _, *tables = real_models.tables(runs)
    assert [table.title.rpartition("within ")[2] for table in tables] == ["50 ms", "20 ms"]
    assert tables[1].rows == [["clipper", "100.0 %", "50.0 %"]]
    assert real_models.curves(runs[:2], "share", "rate") == {"clipper": {100.0: 1.0, 200.0: 0.5}}


def test_bursts_have_the_mean_rate_and_four_times_of_it_in_a_tenth_of_each_second() -> None:
    times = open_loop.arrivals(Load(1, "/", 1000.0, 20.0, arrivals="bursts"))
    assert len(times) == pytest.approx(20_000, rel=0.05)
    assert np.all(np.diff(times) >= 0)
    assert np.mean(times % 1 < 0.1) == pytest.approx(0.4, abs=0.02)


def test_trained_model_answers_digits_whatever_its_first_number(tmp_path: Path) -> None:
    said = scikit.train("linear-svm", tmp_path)
    assert said.startswith("LinearSVC; ")
    predict = trained.load(scikit.saved_in(tmp_path))
    pixels = [0.5] * scikit.PIXELS
    first, second = predict([[1.0, *pixels], [2.0, *pixels]])
    assert first == second
    assert first in {str(digit) for digit in range(10)}
