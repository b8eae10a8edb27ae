"""Models of handwritten digits for applications that have several: trained, and asked in advance.

The images are scikit-learn's own 1,797 of 8 x 8 pixels. Hard ones have noise, and a square of which nothing is seen.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

_TRAINED_WITH: Final = 900
"""The number of images that are for training; the rest are for queries."""
_COPIES: Final = 3
"""The number of hard images that are made of each, with different noise and squares."""
_NOISE: Final = 0.2
_HIDDEN: Final = 3
"""The side of the square, in pixels."""

MODELS: Final[dict[str, Callable[[], Any]]] = {
    "SVM, RBF kernel": lambda: SVC(C=3),
    "SVM, polynomial": lambda: SVC(kernel="poly", degree=4),
    "extra trees": lambda: ExtraTreesClassifier(100, random_state=0),
    "nearest neighbours": lambda: KNeighborsClassifier(8, weights="distance"),
    "logistic regression": lambda: LogisticRegression(max_iter=300),
    "naive Bayes": GaussianNB,
    "decision tree": lambda: DecisionTreeClassifier(random_state=0),
}
DIFFERING: Final = ("SVM, RBF kernel", "extra trees", "logistic regression", "naive Bayes", "decision tree")
"""Five models of differing quality, the best first."""
SIMILAR: Final = ("SVM, RBF kernel", "SVM, polynomial", "extra trees", "nearest neighbours", "logistic regression")
"""Five models of similar quality."""


class Asked(NamedTuple):
    """Images that all models were asked about."""

    labels: list[int]
    outputs: dict[str, list[bytes]]
    """The outputs of each model, as JSON."""

    def error(self, model: str) -> float:
        wrong = sum(int(output) != label for output, label in zip(self.outputs[model], self.labels, strict=True))
        return wrong / len(self.labels)


def ask(names: Iterable[str], seed: int, are_hard: bool, are_apart: bool = False) -> Asked:
    """Train models, and ask them about the images that are for queries.

    Models that are trained apart know a half of the training images each, chosen at random, as models of different
    teams do; others know all.
    """
    return _ask({name: MODELS[name] for name in names}, seed, are_hard, are_apart)


def _ask(models: Mapping[str, Callable[[], Any]], seed: int, are_hard: bool, are_apart: bool) -> Asked:
    images, digits = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    training, asking = np.split(random.permutation(len(images)), [_TRAINED_WITH])
    asked, labels = _images(images[asking] / 16, digits[asking], are_hard, random)
    outputs = {}
    for name, make in models.items():
        known = random.choice(training, len(training) // 2, replace=False) if are_apart else training
        model = make().fit(*_images(images[known] / 16, digits[known], are_hard, random))
        outputs[name] = [b"%d" % digit for digit in model.predict(asked)]
    return Asked(labels.tolist(), outputs)


def ask_forests(count: int, seed: int) -> Asked:
    """Train small forests apart, and ask them about hard images. Each is a tenth of a usual one."""
    return _ask({f"forest {number}": partial(_forest, number) for number in range(count)}, seed, True, True)


def _forest(number: int) -> Any:
    return RandomForestClassifier(10, max_depth=16, random_state=number)


def _images(images: Any, digits: Any, are_hard: bool, random: Any) -> tuple[Any, Any]:
    if not are_hard:
        return images, digits
    copied = np.tile(images, (_COPIES, 1)).reshape(-1, 8, 8)
    copied = np.clip(copied + random.normal(0, _NOISE, copied.shape), 0, 1)
    corners: Sequence[tuple[int, int]] = random.integers(0, 9 - _HIDDEN, (len(copied), 2))
    for image, (top, left) in zip(copied, corners, strict=True):
        image[top : top + _HIDDEN, left : left + _HIDDEN] = 0
    return copied.reshape(len(copied), -1), np.tile(digits, _COPIES)
