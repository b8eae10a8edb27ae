"""Deploys the models of one framework, and compares what is answered over REST with the models called directly.

``python run.py pytorch docker``; in an environment that has the SDK and the framework, and nothing else. Prints a line
of JSON for each model.
"""

import importlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from managers import MANAGERS

from clipper_admin import ClipperConnection

PREDICTIONS = 200
CLIENTS = 8
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
        """As many as are asked for, of the type of the model."""
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


def check(conn: ClipperConnection, model: Model) -> dict[str, Any]:
    """Deploy `model` and compare. Returns how long it took."""
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
    conn.stop_models([model.name])
    return {
        "model": model.name,
        "predictions": len(answers),
        "seconds_to_first_prediction": round(first - called, 2),
        "seconds_for_predictions": round(done - first, 2),
    }


def main() -> None:
    framework, manager = sys.argv[1:]
    conn = ClipperConnection(MANAGERS[manager](f"framework-{framework}"))
    conn.start_clipper()
    try:
        for model in models_of(framework):
            print(json.dumps(check(conn, model)), flush=True)
    finally:
        conn.stop_all(graceful=False)


if __name__ == "__main__":
    main()
