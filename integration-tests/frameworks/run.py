"""Deploys the models of one framework, and compares what is answered over REST with the models called directly.

``python run.py pytorch docker``; in an environment that has the SDK and the framework, and nothing else. Prints a line
of JSON for each model. ``--measure=10`` asks each for ten seconds from 64 connections besides, and calls it directly in
a loop for as long.
"""

import importlib
import json
import sys
import tempfile
import time
import urllib.request
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Not by PYTHONPATH: replicas would inherit it, and find what must travel with the models.
sys.path[:0] = map(str, [Path(__file__).parents[1], Path(__file__).parents[2]])

from managers import MANAGERS  # noqa: E402

from bench import wrk  # noqa: E402
from clipper_admin import ClipperConnection  # noqa: E402

PREDICTIONS = 200
CLIENTS = 8
CONNECTIONS = 64
WARM_UP_SECONDS = 3.0
SLO_MICROS = 20_000_000


@dataclass
class Model:
    """A model, and what it says when it is called directly."""

    name: str
    input_type: str
    create_endpoint: Callable[..., None]
    """The deployer's, with the model: it is given a connection, a name and an input type."""
    predict: Callable[[Any], Sequence[Any]]
    """The model called directly, with a batch."""
    options: dict[str, Any] = field(default_factory=dict)

    def deploy(self, conn: ClipperConnection, **options: Any) -> None:
        self.create_endpoint(
            conn, self.name, self.input_type, default_output="none", slo_micros=SLO_MICROS, **self.options, **options
        )

    @property
    def inputs(self) -> Any:
        """Return as many inputs as are asked for, of the type of the model."""
        return samples(PREDICTIONS, seed=1)[0].astype({"floats": np.float32, "doubles": np.float64}[self.input_type])


def samples(number: int, seed: int = 0) -> tuple[Any, Any]:
    """Points in four dimensions around three centres, and which centre."""
    random = np.random.default_rng(seed)
    classes = random.integers(3, size=number)
    return np.eye(4)[classes] * 2 + random.normal(size=(number, 4), scale=1), classes


def models_of(framework: str) -> Iterator[Model]:
    """The models of a framework; the module that makes them lies beside this one."""
    yield from importlib.import_module(f"with_{framework}").models()


def ask(conn: ClipperConnection, app: str, value: Sequence[float]) -> Any:
    body = json.dumps({"input": list(map(float, value))}).encode()
    request = urllib.request.Request(
        f"http://{conn.get_query_addr()}/{app}/predict", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.loads(response.read())
    assert answer["default"] is False, answer
    return answer["output"]


def check(conn: ClipperConnection, model: Model, measured_seconds: float) -> dict[str, Any]:
    """Deploy `model` and compare. Returns how long it took, and what was measured if that was asked for."""
    expected = [np.atleast_1d(scores) for scores in model.predict(model.inputs)]
    assert len({tuple(scores.round(3)) for scores in expected}) > PREDICTIONS // 4, "the model says always the same"
    called = time.monotonic()
    model.deploy(conn)
    ask(conn, model.name, model.inputs[0])
    first = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda value: ask(conn, model.name, value), model.inputs))
    done = time.monotonic()
    for answer, scores in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, scores, rtol=1e-4, atol=1e-5)
    measured = measure(conn, model, measured_seconds) if measured_seconds else {}
    conn.stop_models([model.name])
    return {
        "model": model.name,
        "predictions": len(answers),
        "seconds_to_first_prediction": round(first - called, 2),
        "seconds_for_predictions": round(done - first, 2),
        **measured,
    }


def measure(conn: ClipperConnection, model: Model, seconds: float) -> dict[str, float]:
    """Queries per second through Clipper, and calls per second of the model itself with one input."""
    port = int(conn.get_query_addr().rpartition(":")[2])
    with tempfile.NamedTemporaryFile() as body:
        body.write(json.dumps({"input": model.inputs[0].tolist()}).encode())
        body.flush()
        wrk.run(port, f"/{model.name}/predict", Path(body.name), CONNECTIONS, WARM_UP_SECONDS)  # batches are learned
        found = wrk.run(port, f"/{model.name}/predict", Path(body.name), CONNECTIONS, seconds)
    assert not found.bad_status and not found.failed, found
    ratios = [ratio for each in conn.inspect_instance()["ratio_counters"] for ratio in each.items()]
    defaults = [float(ratio["ratio"]) for name, ratio in ratios if name == f"app:{model.name}:default_prediction_ratio"]
    assert defaults == [0.0], "some answers were not the model's"
    one, calls = model.inputs[:1], 0
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        model.predict(one)
        calls += 1
    return {
        "queries_per_second": round(found.requests / found.seconds),
        "p99_millis": round(found.p99_millis, 1),
        "calls_per_second": round(calls / (time.monotonic() - started)),
    }


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("framework")
    parser.add_argument("manager", choices=MANAGERS)
    parser.add_argument("--measure", type=float, default=0.0)
    options = parser.parse_args()
    conn = ClipperConnection(MANAGERS[options.manager](f"framework-{options.framework}"))
    conn.start_clipper(cache_size=0)  # a cache would answer in the place of the model
    try:
        for model in models_of(options.framework):
            print(json.dumps(check(conn, model, options.measure)), flush=True)
    finally:
        conn.stop_all(graceful=False)


if __name__ == "__main__":
    main()
