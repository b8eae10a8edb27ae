"""Base of the containers that serve a pickled function: any input type, ``str()`` of each result."""

import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import numpy as np

from clipper_common import constants, modeldir, namespace

from .prediction import PredictionError, check_length, type_name
from .rpc import ModelContainerBase, RPCService

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


def serve(load: Callable[[Path], Callable[[Any], Any]]) -> None:
    """Serve the function that `load` makes of the model folder."""
    service = RPCService()
    service.start(FunctionContainer(load_or_exit(load, service.get_model_path())))


def load_or_exit(load: Callable[[Path], Loaded], directory: str) -> Loaded:
    """What `load` makes of a model folder; if it cannot, say why and end the process."""
    folder = Path(directory)
    saved = modeldir.load_versions(folder)
    differences = modeldir.differences(saved) if saved else modeldir.Differences()
    if reason := unfit(differences):
        _exit(f"The model in {directory} cannot be loaded here. {reason}")
    for theirs, ours in differences.others:
        print(f"The model was saved with {theirs.pin}; here is {ours.version}.", file=sys.stderr, flush=True)
    namespace.take_over()
    try:
        return load(folder)
    except Exception as error:
        traceback.print_exc()
        _exit(f"Could not load the model in {directory}.{_hint(error, differences)}")


def unfit(found: modeldir.Differences) -> str:
    """Why a model that was saved elsewhere cannot be loaded here, and what to do; empty if it can."""
    here = platform.python_version()
    if found.python:
        return (
            f"It was saved by Python {found.python}, and this is Python {here}: only the minor version that wrote a "
            f"function can read it. Deploy it from Python {here}, or on images for Python {found.python} "
            "(make images IMAGES_PYTHON=...; the process manager uses the Python that deploys)."
        )
    if found.exact:
        saved = " and ".join(f"{theirs.name} {theirs.version}" for theirs, _ in found.exact)
        ours = " and ".join(f"{ours.name} {ours.version}" for _, ours in found.exact)
        return f"It was saved with {saved}, and here is {ours}: {_deploy_with(theirs for theirs, _ in found.exact)}."
    if found.missing:
        return f"It needs a package that is not installed here: {_deploy_with(found.missing)}."
    return ""


def _hint(error: Exception, found: modeldir.Differences) -> str:
    if found.others:
        return f" Perhaps the versions do not fit: {_deploy_with(theirs for theirs, _ in found.others)}."
    if not isinstance(error, ImportError):
        return ""
    package = (error.name or "the missing package").partition(".")[0]
    return f" It needs a package that is not installed here: deploy it with pkgs_to_install=[{package!r}]."


def _deploy_with(packages: Iterable[modeldir.Package]) -> str:
    return f"deploy it with pkgs_to_install={[package.pin for package in packages]}"


def _exit(reason: str) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    sys.exit(constants.EXIT_MODEL_NOT_LOADED)
