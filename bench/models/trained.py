"""Loads a model of handwritten digits that was trained before, the same way in every server that serves it.

An input is a number, which makes it different from all others and is ignored, and 64 pixels from 0 to 1. A file that
ends with .pt is a TorchScript module; any other is a pickle of scikit-learn.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Predict = Callable[[Sequence[Any]], list[str]]
"""Takes the inputs of a batch, and returns the digit of each as text."""


def load(file: Path) -> Predict:
    return _load_module(file) if file.suffix == ".pt" else _load_pickle(file)


def _load_pickle(file: Path) -> Predict:
    with file.open("rb") as opened:
        model = pickle.load(opened)
    return lambda inputs: [str(digit) for digit in model.predict(np.asarray(inputs, dtype=np.float64)[:, 1:])]


def _load_module(file: Path) -> Predict:
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(file)

    def predict(inputs: Sequence[Any]) -> list[str]:
        images = torch.from_numpy(np.asarray(inputs, dtype=np.float32)[:, 1:]).reshape(-1, 1, 8, 8)
        with torch.inference_mode():
            digits = module(images).argmax(dim=1)
        return [str(digit) for digit in digits.tolist()]

    return predict
