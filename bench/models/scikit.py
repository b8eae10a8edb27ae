"""Models of scikit-learn for bench/batching.py: trains them (`train`), and serves one of them (as a program).

All tell handwritten digits apart: scikit-learn's own 1,797 images of 8 x 8 pixels, of which more are made by adding
noise. An input is a number, which makes it different from all others and is ignored, and 64 pixels from 0 to 1.
"""

import os
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC, LinearSVC

PIXELS: Final = 64
ENLARGED: Final = 3
_TREES: Final = 100
_IMAGES: Final = 6000
_IMAGES_OF_KERNEL_SVM: Final = 4000
_NOISE: Final = 0.08


def enlarge(images: Any) -> Any:
    """Images of 24 x 24 pixels."""
    blocks = np.ones((1, ENLARGED, ENLARGED))
    return np.kron(images.reshape(-1, 8, 8), blocks).reshape(len(images), -1)


def _kernel_svm() -> Any:
    return make_pipeline(FunctionTransformer(enlarge), SVC(gamma=0.1))


MODELS: Final[dict[str, tuple[str, Callable[[], Any]]]] = {
    "no-op": ("answers the same to everything", DummyClassifier),
    "linear-svm": ("LinearSVC", LinearSVC),
    "logistic-regression": ("LogisticRegression", lambda: LogisticRegression(max_iter=500)),
    "random-forest": (f"RandomForestClassifier of {_TREES} trees", lambda: RandomForestClassifier(_TREES, n_jobs=1)),
    "kernel-svm": (f"SVC with RBF kernel on pixels enlarged to {PIXELS * ENLARGED**2}", _kernel_svm),
}
"""By name: what it is, and how to make one."""


def train(name: str, folder: Path) -> str:
    """Train the model of this name and save it in `folder`. Returns what it is, and how fast it alone is."""
    what, make = MODELS[name]
    images, digits = _data(_IMAGES_OF_KERNEL_SVM if name == "kernel-svm" else _IMAGES)
    model = make().fit(images, digits)
    with _file(folder).open("wb") as file:
        pickle.dump(model, file)
    if name == "kernel-svm":
        what += f", {len(model[-1].support_vectors_)} support vectors"
    times = [f"{1000 * _seconds(model, images[:size]):.2g} ms for {size}" for size in (1, 64)]
    return f"{what}; {', '.join(times)}"


def _data(number: int) -> tuple[Any, Any]:
    images, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(images), number)
    noise = rng.normal(0, _NOISE, (number, PIXELS))
    return np.clip(images[chosen] / images.max() + noise, 0, 1), digits[chosen]


def _seconds(model: Any, images: Any) -> float:
    """The best of several calls."""
    times = []
    for _ in range(10):
        started = time.perf_counter()
        model.predict(images)
        times.append(time.perf_counter() - started)
    return min(times)


def _file(folder: Path) -> Path:
    return folder / "model.pickle"


def serve() -> None:
    """Answer batches with the model in CLIPPER_MODEL_PATH, one call for each."""
    import rpc  # type: ignore[import-not-found]

    with _file(Path(os.environ["CLIPPER_MODEL_PATH"])).open("rb") as file:
        model = pickle.load(file)

    class Container(rpc.ModelContainerBase):  # type: ignore[misc]
        def predict_doubles(self, inputs: Any) -> Sequence[str]:
            return [str(digit) for digit in model.predict(np.asarray(inputs)[:, 1:])]

    rpc.RPCService().start(Container())


if __name__ == "__main__":
    serve()
