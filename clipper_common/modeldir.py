"""What lies in a model folder, how a function gets out of it, and whether it can be read here."""

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
# Files of a rehearsal, in which a container's code runs the function on one batch: the batch, the report, and the value
# that the function returned.
BATCH_FILE: Final = "batch.pkl"
REPORT_FILE: Final = "report.json"
RETURNED_FILE: Final = "returned.pkl"

PYTORCH_MODEL_FILE: Final = "pytorch_model.pkl"
PYTORCH_WEIGHTS_FILE: Final = "pytorch_weights.pkl"
TENSORFLOW_FOLDER: Final = "tfmodel"
TENSORFLOW_CHECKPOINT: Final = "model.ckpt"
TENSORFLOW_TAG: Final = "serve"
KERAS_FILES: Final = ("keras_model.h5", "keras_model.keras")
"""A model in HDF5, as 0.4 had it, and in Keras's own format."""
KERAS_CLASSES_FILE: Final = "keras_classes.pkl"
ONNX_FILE: Final = "model.onnx"
MXNET_PREFIX: Final = "mxnet_model"
MXNET_METADATA_FILE: Final = "mxnet_model_metadata.json"
SPARK_FOLDER: Final = "pyspark_model_data"
SPARK_METADATA_FILE: Final = "metadata.json"

PredictFunction = Callable[..., Any]


def load_function(directory: Path) -> PredictFunction:
    """Read a function that was saved into a model folder."""
    function: PredictFunction = load_pickle(directory / FUNCTION_FILE)
    return function


def load_pickle(path: Path) -> Any:
    """Read what the SDK pickled."""
    with open(path, "rb") as file:
        return namespace.read(file)


# --- how a function is called ---

JSON_OUTPUTS: Final = "json"
TEXT_OUTPUTS: Final = "text"
ARRAY_INPUTS: Final = "array"
LIST_INPUTS: Final = "list"


@dataclass(frozen=True)
class FunctionSettings:
    """How a function gets its inputs, and what becomes of its outputs; as it was for models without settings."""

    inputs: str = ARRAY_INPUTS
    """`LIST_INPUTS` makes a list of arrays of a batch whose inputs are equally long."""
    outputs: str = TEXT_OUTPUTS
    """`TEXT_OUTPUTS` is ``str()`` of each."""


def save_settings(settings: FunctionSettings, directory: Path) -> None:
    """Write how the function in a folder is called. Containers older than these settings ignore them."""
    (directory / SETTINGS_FILE).write_text(json.dumps(asdict(settings)))


def load_settings(directory: Path) -> FunctionSettings:
    """How the function in a folder is called."""
    path = directory / SETTINGS_FILE
    saved = json.loads(path.read_text()) if path.is_file() else {}
    return FunctionSettings(**{key: value for key, value in saved.items() if key in ("inputs", "outputs")})


@dataclass(frozen=True)
class Rehearsal:
    """The report on a batch in a rehearsal."""

    texts: Sequence[str] = ()
    """The outputs as clients get them."""
    complaint: str = ""
    """Why what the function returned cannot be answered."""
    raised: str = ""
    """Type and message of what the function raised."""
    frames: Sequence[tuple[str, int, str]] = ()
    """Where it did: file, line and its text, innermost last."""


def save_rehearsal(rehearsal: Rehearsal, directory: Path) -> None:
    """Write the report on a batch."""
    (directory / REPORT_FILE).write_text(json.dumps(asdict(rehearsal)))


def load_rehearsal(directory: Path) -> Rehearsal | None:
    """Read the report on a batch; None if the process ended before it was written."""
    path = directory / REPORT_FILE
    return Rehearsal(**json.loads(path.read_text())) if path.is_file() else None


# --- modules that travel within a pickle ---


def make_module(name: str) -> types.ModuleType:
    """A module that came with a pickle. Code that imports it later finds it."""
    return namespace.add_module(name)


def fill_module(module: types.ModuleType, content: Mapping[str, Any]) -> None:
    """Second step, because modules refer to each other in circles."""
    namespace.fill(module, content)


def accompanied(function: Any, modules: Iterable[types.ModuleType]) -> Any:
    """A function that came with the modules that it will import when it is called."""
    return function


# --- versions ---


@dataclass(frozen=True)
class Package:
    """An installed distribution."""

    name: str
    version: str

    @property
    def pin(self) -> str:
        """What makes pip install this version; a build such as ``+cpu`` is not what matters."""
        return f"{self.name}=={self.version.partition('+')[0]}"

    @property
    def minor(self) -> str:
        """The version as far as it says what can read what was saved."""
        return ".".join(re.findall(r"\d+", self.version)[:2])


@dataclass(frozen=True)
class Versions:
    """What a model was saved with."""

    python: str
    packages: Mapping[str, Package] = field(default_factory=dict)
    """By the name of the module that the model imports."""
    exact: tuple[str, ...] = ()
    """The modules whose versions must fit."""


def running_versions(modules: Iterable[str], exact: tuple[str, ...] = ()) -> Versions:
    """Those of this interpreter, for modules that are imported by these names."""
    names = {module: importlib.metadata.packages_distributions().get(module, []) for module in modules}
    packages = {
        module: Package(found[0], importlib.metadata.version(found[0])) for module, found in names.items() if found
    }
    return Versions(platform.python_version(), packages, exact)


def save_versions(versions: Versions, directory: Path) -> None:
    """Write what the model in a folder was saved with."""
    (directory / VERSIONS_FILE).write_text(json.dumps(asdict(versions), indent=1, sort_keys=True))


def load_versions(directory: Path) -> Versions | None:
    """What the model in a folder was saved with, if it says."""
    path = directory / VERSIONS_FILE
    if not path.is_file():  # a folder of Clipper 0.4
        return None
    saved = json.loads(path.read_text())
    packages = {module: Package(**package) for module, package in saved["packages"].items()}
    return Versions(saved["python"], packages, tuple(saved["exact"]))


@dataclass(frozen=True)
class Differences:
    """How this interpreter differs from the one that saved a model."""

    python: str = ""
    """The version that saved it, if this is another one."""
    missing: tuple[Package, ...] = ()
    exact: tuple[tuple[Package, Package], ...] = ()
    """Saved with, and installed here, where that is known not to fit."""
    others: tuple[tuple[Package, Package], ...] = ()


def differences(saved: Versions) -> Differences:
    """How this interpreter differs from the one that saved a model."""
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
    """What provides `module` here; perhaps under another name, such as tensorflow-cpu."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return Package(package.name, importlib.metadata.version(package.name))
    except importlib.metadata.PackageNotFoundError:
        return running_versions([module]).packages.get(module, package)
