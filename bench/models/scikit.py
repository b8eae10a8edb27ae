"""Models of handwritten digits: trains them (`train`), and serves one of them with Clipper (as a program).

The images are scikit-learn's own 1,797 of 8 x 8 pixels, of which more are made by adding noise. `trained` says what an
input is.
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
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC, LinearSVC

from bench.models import trained

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
    "boosted-trees": ("HistGradientBoostingClassifier", lambda: HistGradientBoostingClassifier(random_state=0)),
    "kernel-svm": (f"SVC with RBF kernel on pixels enlarged to {PIXELS * ENLARGED**2}", _kernel_svm),
}
"""Each model by its name: its description, and how to make one."""


CONVNET: Final = "convnet"
"""The name of the model that is PyTorch's."""


def train(name: str, folder: Path) -> str:
    """Train the model of this name and save it in `folder`. Returns what it is, and how fast it alone is."""
    images, digits = _data(_IMAGES_OF_KERNEL_SVM if name == "kernel-svm" else _IMAGES)
    if name == CONVNET:
        from bench.models import convnet

        what = convnet.WHAT
        convnet.train(images, digits, folder / "model.pt")
    else:
        what, make = MODELS[name]
        model = make().fit(images, digits)
        with (folder / "model.pickle").open("wb") as file:
            pickle.dump(model, file)
        if name == "kernel-svm":
            what += f", {len(model[-1].support_vectors_)} support vectors"
    inputs = np.column_stack([np.zeros(len(images)), images])
    predict = trained.load(saved_in(folder))
    times = [f"{1000 * _seconds(predict, inputs[:size]):.2g} ms for {size}" for size in (1, 64)]
    return f"{what}; {', '.join(times)}"


def saved_in(folder: Path) -> Path:
    """Return the file of the model that was saved in a folder."""
    return next(folder.glob("model.*"))


def _data(number: int) -> tuple[Any, Any]:
    images, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(images), number)
    noise = rng.normal(0, _NOISE, (number, PIXELS))
    return np.clip(images[chosen] / images.max() + noise, 0, 1), digits[chosen]


def _seconds(predict: trained.Predict, inputs: Any) -> float:
    """The best of several calls."""
    times = []
    for _ in range(10):
        started = time.perf_counter()
        predict(inputs)
        times.append(time.perf_counter() - started)
    return min(times)


def serve() -> None:
    """Answer batches with the model in CLIPPER_MODEL_PATH, one call for each."""
    import rpc  # type: ignore[import-not-found]

    predict = trained.load(saved_in(Path(os.environ["CLIPPER_MODEL_PATH"])))

    class Container(rpc.ModelContainerBase):  # type: ignore[misc]
        def predict_doubles(self, inputs: Any) -> Sequence[str]:
            return predict(inputs)

    rpc.RPCService().start(Container())


if __name__ == "__main__":
    serve()
