"""Base of the containers that serve a pickled function: any input type, ``str()`` of each result."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from clipper_common import constants

from .prediction import PredictionError, check_length, type_name
from .rpc import ModelContainerBase

# An array inside a result is written out in full, and numbers as Python writes them, whatever the version of numpy.
_EXACT: Final[dict[str, Any]] = {"threshold": sys.maxsize, "linewidth": sys.maxsize, "floatmode": "unique"}
if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
    _EXACT["legacy"] = "1.25"

# Their text never depends on numpy's print options, which take longer to set than many a function to run.
_SCALARS: Final = frozenset({str, bool, int, float, np.int32, np.int64, np.float32, np.float64})

Loaded = TypeVar("Loaded")


class FunctionContainer(ModelContainerBase):
    """A model that is a function of a list or array of inputs."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def _predict(self, inputs: Any) -> list[str]:
        outputs = _elements(self._function(inputs))
        check_length(outputs, len(inputs))
        if _SCALARS.issuperset(map(type, outputs)):
            return list(map(str, outputs))
        with np.printoptions(**_EXACT):
            return list(map(str, outputs))

    predict_ints = predict_floats = predict_doubles = predict_bytes = predict_strings = _predict


def _elements(result: Any) -> Sequence[Any]:
    if isinstance(result, list | tuple):
        return result
    if getattr(result, "ndim", 0):
        array: Any = np.asarray(result)
        if array.ndim:
            return array  # type: ignore[no-any-return]
    raise PredictionError(
        f"the function returned {type_name(result)}, not a list, tuple or array with one output per input"
    )


def load_or_exit(load: Callable[[Path], Loaded], directory: str) -> Loaded:
    """What `load` makes of a model folder; if it cannot, say why and end the process."""
    try:
        return load(Path(directory))
    except Exception as error:
        traceback.print_exc()
        print(f"Could not load the model in {directory}.{_hint(error)}", file=sys.stderr, flush=True)
        sys.exit(constants.EXIT_MODEL_NOT_LOADED)


def _hint(error: Exception) -> str:
    if not isinstance(error, ImportError):
        return ""
    package = repr((error.name or "the missing package").partition(".")[0])
    return f" It needs a package that is not installed here: deploy it with pkgs_to_install=[{package}]."
