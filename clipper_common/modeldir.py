"""What lies in a model folder, and how a function gets in and out of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cloudpickle

FUNCTION_FILE: Final = "func.pkl"

PredictFunction = Callable[..., Any]


def save_function(function: PredictFunction, directory: Path) -> None:
    """Write `function`, with what it captured, into a model folder."""
    with open(directory / FUNCTION_FILE, "wb") as file:
        cloudpickle.dump(function, file)


def load_function(directory: Path) -> PredictFunction:
    """Read the function that `save_function` wrote."""
    with open(directory / FUNCTION_FILE, "rb") as file:
        function: PredictFunction = cloudpickle.load(file)
    return function


def reload_function(function: PredictFunction) -> PredictFunction:
    """The function as a container will have it: pickled and read back."""
    copy: PredictFunction = cloudpickle.loads(cloudpickle.dumps(function))
    return copy
