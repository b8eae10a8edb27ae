"""The base of all containers that serve a pickled function."""

import operator
import platform
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import numpy as np

from clipper_common import constants, modeldir, namespace

from . import rendering
from .prediction import check_length
from .rpc import ModelContainerBase, RPCService

Loaded = TypeVar("Loaded")

_WITHOUT_SETTINGS: Final = modeldir.FunctionSettings()


class FunctionContainer(ModelContainerBase):
    """A model that is a function of a list or array of inputs."""

    def __init__(self, function: Callable[[Any], Any], settings: modeldir.FunctionSettings = _WITHOUT_SETTINGS) -> None:
        self._function = function
        self._render = rendering.renderer(settings.outputs)
        self._as_list = settings.inputs == modeldir.LIST_INPUTS

    def _predict(self, inputs: Any) -> list[Any]:
        return self.render(self.call(inputs), len(inputs))

    def call(self, inputs: Any) -> Any:
        """Return the result of the function for a batch."""
        return self._function(InputList(inputs) if self._as_list and isinstance(inputs, np.ndarray) else inputs)

    def render(self, result: Any, num_inputs: int) -> list[Any]:
        """Return the text of each output of the function, or an exception in the place of one that cannot be an answer.

        Raises `PredictionError` if the result is not one output per input.
        """
        outputs = rendering.elements(result)
        check_length(outputs, num_inputs)
        return self._render(outputs)

    predict_ints = predict_floats = predict_doubles = predict_bytes = predict_strings = _predict


class InputList(list[Any]):
    """A list of the rows of a two-dimensional array, which ``numpy.asarray`` of the list returns without a copy."""

    def __init__(self, rows: np.ndarray[Any, Any]) -> None:
        super().__init__(rows)
        self._rows = rows
        self._items = tuple(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if len(self) != len(self._items) or any(map(operator.is_not, self, self._items)):
            return np.array(list(self), dtype)  # the function has changed the list
        return np.array(self._rows, dtype) if copy else np.asarray(self._rows, dtype)


def serve(load: Callable[[Path], Callable[[Any], Any]]) -> None:
    """Serve the function that `load` returns for the model folder. Exits if it cannot be loaded."""
    service = RPCService()
    folder = service.get_model_path()
    function = load_or_exit(load, folder)
    service.start(FunctionContainer(function, modeldir.load_settings(Path(folder))))


def load_or_exit(load: Callable[[Path], Loaded], directory: str) -> Loaded:
    """Return what `load` returns for a model folder. If it fails, print the reason and exit."""
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
    """Return why a model cannot be loaded by this interpreter, and what to do; empty if it can be tried."""
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
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        return (
            f" It needs the module '{module}', which is not here. If a package has it, name that in pkgs_to_install; "
            "if it is a file of your own, write an import statement for it, so that it travels with the function."
        )
    if found.others:
        return f" Perhaps the versions do not fit: {_deploy_with(theirs for theirs, _ in found.others)}."
    return ""


def _deploy_with(packages: Iterable[modeldir.Package]) -> str:
    return f"deploy it with pkgs_to_install={[package.pin for package in packages]}"


def _exit(reason: str) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    sys.exit(constants.EXIT_MODEL_NOT_LOADED)
