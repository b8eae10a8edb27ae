"""The files of a model folder, loading a function from it, and whether this interpreter can load it."""

import importlib.metadata
import importlib.util
import json
import platform
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from clipper_common import namespace

FUNCTION_FILE: Final = "func.pkl"
VERSIONS_FILE: Final = "versions.json"
SETTINGS_FILE: Final = "function.json"
# Files of a rehearsal, which runs the function on one batch by the code of a container: the batch, the report, and the
# value that the function returned.
BATCH_FILE: Final = "batch.pkl"
REPORT_FILE: Final = "report.json"
RETURNED_FILE: Final = "returned.pkl"

PYTORCH_MODEL_FILE: Final = "pytorch_model.pkl"
PYTORCH_WEIGHTS_FILE: Final = "pytorch_weights.pkl"
TENSORFLOW_FOLDER: Final = "tfmodel"
TENSORFLOW_CHECKPOINT: Final = "model.ckpt"
TENSORFLOW_TAG: Final = "serve"
KERAS_FILES: Final = ("keras_model.h5", "keras_model.keras")
"""The file of a model in HDF5, as in 0.4, or in Keras's own format."""
KERAS_CLASSES_FILE: Final = "keras_classes.pkl"
ONNX_FILE: Final = "model.onnx"
MXNET_PREFIX: Final = "mxnet_model"
MXNET_METADATA_FILE: Final = "mxnet_model_metadata.json"
SPARK_FOLDER: Final = "pyspark_model_data"
SPARK_METADATA_FILE: Final = "metadata.json"

PredictFunction = Callable[..., Any]


def load_function(directory: Path) -> PredictFunction:
    """Load the function that was saved in a model folder."""
    function: PredictFunction = load_pickle(directory / FUNCTION_FILE)
    return function


def load_pickle(path: Path) -> Any:
    """Load a value that was pickled by the SDK."""
    with open(path, "rb") as file:
        return namespace.read(file)


# --- how a function is called ---

JSON_OUTPUTS: Final = "json"
TEXT_OUTPUTS: Final = "text"
ARRAY_INPUTS: Final = "array"
LIST_INPUTS: Final = "list"


@dataclass(frozen=True)
class FunctionSettings:
    """The form of a function's inputs, and how its outputs are rendered. Models without settings have the defaults."""

    inputs: str = ARRAY_INPUTS
    """`ARRAY_INPUTS`, or `LIST_INPUTS` for a list of arrays even if the inputs of a batch have the same length."""
    outputs: str = TEXT_OUTPUTS
    """`JSON_OUTPUTS`, or `TEXT_OUTPUTS` for ``str()`` of each output."""


def save_settings(settings: FunctionSettings, directory: Path) -> None:
    """Write the settings of the function in a folder. Containers older than these settings ignore them."""
    (directory / SETTINGS_FILE).write_text(json.dumps(asdict(settings)))


def load_settings(directory: Path) -> FunctionSettings:
    """Read the settings of the function in a folder; the defaults if it has none."""
    path = directory / SETTINGS_FILE
    saved = json.loads(path.read_text()) if path.is_file() else {}
    return FunctionSettings(**{key: value for key, value in saved.items() if key in ("inputs", "outputs")})


@dataclass(frozen=True)
class Rehearsal:
    """The report on a batch in a rehearsal."""

    texts: Sequence[str] = ()
    """The outputs as clients get them."""
    complaint: str = ""
    """The reason why the returned value cannot be the outputs; empty if it can."""
    raised: str = ""
    """The type and message of the exception that the function raised; empty if it raised none."""
    frames: Sequence[tuple[str, int, str]] = ()
    """The traceback of the exception: file, line number and text of each frame, innermost last."""


def save_rehearsal(rehearsal: Rehearsal, directory: Path) -> None:
    """Write the report of a rehearsal."""
    (directory / REPORT_FILE).write_text(json.dumps(asdict(rehearsal)))


def load_rehearsal(directory: Path) -> Rehearsal | None:
    """Read the report of a rehearsal; None if the process ended before it was written."""
    path = directory / REPORT_FILE
    return Rehearsal(**json.loads(path.read_text())) if path.is_file() else None


# --- modules within a pickle ---


def make_module(name: str) -> types.ModuleType:
    """Return a new module that comes with a pickle, and make it importable."""
    return namespace.add_module(name)


def fill_module(module: types.ModuleType, content: Mapping[str, Any]) -> None:
    """Set the content of a module. This is a step of its own, since modules may refer to each other."""
    namespace.fill(module, content)


def accompanied(function: Any, modules: Iterable[types.ModuleType]) -> Any:
    """Return the function. Unpickling the arguments has made the modules that it imports when it is called."""
    return function


# --- versions ---


@dataclass(frozen=True)
class Package:
    """An installed distribution."""

    name: str
    version: str

    @property
    def pin(self) -> str:
        """The requirement by which pip installs this version, without a build such as ``+cpu``."""
        return f"{self.name}=={self.version.partition('+')[0]}"

    @property
    def minor(self) -> str:
        """The first two numbers of the version, which decide whether saved data can be read."""
        return ".".join(re.findall(r"\d+", self.version)[:2])


@dataclass(frozen=True)
class Versions:
    """The versions of Python and packages with which a model was saved."""

    python: str
    packages: Mapping[str, Package] = field(default_factory=dict)
    """The packages, by the name of the module that the model imports."""
    exact: tuple[str, ...] = ()
    """The names of the modules whose minor versions must be the same."""


def running_versions(modules: Iterable[str], exact: tuple[str, ...] = ()) -> Versions:
    """Return the versions in this interpreter of the packages that provide `modules`."""
    names = {module: importlib.metadata.packages_distributions().get(module, []) for module in modules}
    packages = {
        module: Package(found[0], importlib.metadata.version(found[0])) for module, found in names.items() if found
    }
    return Versions(platform.python_version(), packages, exact)


def save_versions(versions: Versions, directory: Path) -> None:
    """Write the versions with which the model in a folder was saved."""
    (directory / VERSIONS_FILE).write_text(json.dumps(asdict(versions), indent=1, sort_keys=True))


def load_versions(directory: Path) -> Versions | None:
    """Read the versions with which the model in a folder was saved; None for a folder of Clipper 0.4."""
    path = directory / VERSIONS_FILE
    if not path.is_file():
        return None
    saved = json.loads(path.read_text())
    packages = {module: Package(**package) for module, package in saved["packages"].items()}
    return Versions(saved["python"], packages, tuple(saved["exact"]))


@dataclass(frozen=True)
class Differences:
    """The differences between this interpreter and the one that saved a model."""

    python: str = ""
    """The Python version that saved the model, if this one has another minor version; otherwise empty."""
    missing: tuple[Package, ...] = ()
    """The packages that are not installed here."""
    exact: tuple[tuple[Package, Package], ...] = ()
    """The saved and the installed package, where their minor versions differ and must not."""
    others: tuple[tuple[Package, Package], ...] = ()
    """The saved and the installed package, where their minor versions differ and may."""


def differences(saved: Versions) -> Differences:
    """Compare this interpreter with the one that saved a model."""
    another = saved.python if _minor(saved.python) != _minor(platform.python_version()) else ""
    here = {module: _installed(module, package) for module, package in saved.packages.items()}
    pairs = {module: (saved.packages[module], package) for module, package in here.items() if package}
    differ = {module: pair for module, pair in pairs.items() if pair[0].minor != pair[1].minor}
    return Differences(
        another,
        tuple(saved.packages[module] for module, package in here.items() if not package),
        tuple(pair for module, pair in differ.items() if module in saved.exact),
        tuple(pair for module, pair in differ.items() if module not in saved.exact),
    )


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _installed(module: str, package: Package) -> Package | None:
    """Return the package that provides `module` here, perhaps under another name, such as tensorflow-cpu, or None."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return Package(package.name, importlib.metadata.version(package.name))
    except importlib.metadata.PackageNotFoundError:
        return running_versions([module]).packages.get(module, package)
