"""What all deployers do: check, save the function and the model, package them, deploy, and make an endpoint of it."""

import functools
import inspect
import logging
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, TypedDict, get_args

from clipper_admin import culprits, files, functions, images, pickling
from clipper_admin.arguments import check_text
from clipper_admin.clipper_admin import CLIPPER_TEMP_DIR, ClipperConnection, Version
from clipper_admin.images import ModelImage
from clipper_admin.undoing import undone_on_failure
from clipper_common import modeldir
from clipper_common.constants import DEFAULT_BATCH_SIZE, LOAD_SECONDS
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction

Parameters = ParamSpec("Parameters")

DEFAULT_IMAGE: Final = "default"
_one_at_a_time: Final = threading.RLock()


class DeployOptions(TypedDict, total=False):
    """What every deployer can be told, beyond the model."""

    base_image: str | None
    labels: Iterable[str] | None
    registry: str | None
    num_replicas: int
    batch_size: int
    pkgs_to_install: Iterable[str] | None
    make_current: bool
    resources: Mapping[str, Any] | None
    gpus: int | str | Iterable[str] | None
    batch_policy: str | None
    batch_delay_micros: int
    load_timeout: float
    inputs: str
    outputs: str
    max_output_bytes: int | None


class EndpointOptions(DeployOptions, total=False):
    """And what an endpoint has besides."""

    default_output: str
    version: Version
    slo_micros: int
    missing_values: bool
    max_body_bytes: int | None


_DEFAULTS: Final[dict[str, Any]] = {
    "default_output": "None",
    "version": 1,
    "slo_micros": 3000000,
    "base_image": DEFAULT_IMAGE,
    "labels": None,
    "registry": None,
    "num_replicas": 1,
    "batch_size": DEFAULT_BATCH_SIZE,
    "pkgs_to_install": None,
    "make_current": True,
    "resources": None,
    "gpus": None,
    "batch_policy": None,
    "batch_delay_micros": 0,
    "load_timeout": LOAD_SECONDS,
    "inputs": modeldir.ARRAY_INPUTS,
    "outputs": modeldir.JSON_OUTPUTS,
    "max_output_bytes": None,
    "missing_values": False,
    "max_body_bytes": None,
}
_OF_0_4: Final = ["num_replicas", "batch_size", "pkgs_to_install"]
_NEW: Final = [
    *(*_OF_0_4, "make_current", "resources", "gpus", "batch_policy", "batch_delay_micros"),
    *("load_timeout", "inputs", "outputs"),
]
_ORDER: Final = {
    DeployOptions: ["base_image", "labels", "registry", *_NEW, "max_output_bytes"],
    EndpointOptions: [
        *("default_output", "version", "slo_micros", "labels", "registry", "base_image"),
        *(*_NEW, "missing_values", "max_output_bytes", "max_body_bytes"),
    ],
}
"""In the order of Clipper 0.4: scripts may give them by position."""

# --- one place for what the arguments of all deployers mean ---

_TEXTS: Final = {
    "head": """
clipper_conn : ClipperConnection
    A connection to a running cluster.
name : str
    The model's name.
version : str
    A version that this model has not had.
input_type : str
    What an input is: ``integers``, ``floats``, ``doubles``, ``bytes`` or ``strings``.""",
    "inputs": """Inputs are a numpy array with a row for each, of a type that fits `input_type`, or a list where they
    cannot be one array. It returns a list, tuple or array with as many outputs: strings and numbers are answered as
    they are, dictionaries, lists and arrays as JSON. The function is pickled, with what it captured and the modules of
    your own that it uses.""",
    "options": """
base_image : str, optional
    What holds the program that serves the model; by default Clipper's own for the running Python.
labels : list of str, optional
    Notes for humans.
registry : str, optional
    A container registry to push the image to.
num_replicas : int, optional
    How many replicas to start.
batch_size : int, optional
    The most inputs that the function is given at once; -1 lets Clipper learn a good number.
pkgs_to_install : list of str, optional
    Python packages that the function or the model needs, as pip names them.
make_current : bool, optional
    Whether the version answers queries from now on.
resources, gpus
    As in ``ClipperConnection.deploy_model``: the most that each replica may use, and the GPUs that it sees.
batch_policy, batch_delay_micros
    As there: how the batch size is learned, and how long batches wait to fill.
load_timeout : float, optional
    Seconds that a replica may take to load the model.
inputs : str, optional
    ``array``, or ``list``: the function is given a list of one-dimensional arrays also where the inputs are equally
    long; ``numpy.asarray`` makes the two-dimensional array of it without a copy.
outputs : str, optional
    ``json``, or ``text``: each output becomes its ``str()``, as in Clipper 0.4.
max_output_bytes : int, optional
    As in ``ClipperConnection.deploy_model``: the size of the largest output.

Raises
------
UnconnectedException
    When there is no cluster to speak to.
ClipperException
    When an argument is wrong, the function or the model cannot be saved, the version exists, or a replica does
    not start. Nothing is left of what was begun.""",
    "endpoint": """
clipper_conn : ClipperConnection
    A connection to a running cluster.
name : str
    Name of the application and of the model.
default_output : str, optional
    What is answered, with the reason, when no prediction is there by the deadline.
slo_micros : int, optional
    The deadline of a query, in microseconds.
missing_values : bool, optional
    As in ``ClipperConnection.register_application``: whether floats and doubles may be null, NaN and infinite.
max_body_bytes : int, optional
    As there: the size of the largest request.""",
    "endpoint_options": """
version, labels, registry, base_image, num_replicas, batch_size, pkgs_to_install, make_current
    As there.
resources, gpus, batch_policy, batch_delay_micros, load_timeout
    As there.
inputs, outputs, max_output_bytes
    As there.

Raises
------
UnconnectedException
    When there is no cluster to speak to.
ClipperException
    When an argument is wrong or a step fails. What was begun is undone.""",
}


def with_options(
    *, own_after: str = "", **defaults: Any
) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """Give a function that ends with ``**options: Unpack[DeployOptions]`` these arguments one by one.

    Its signature and its docstring name them all, and they can be given by position. Keyword-only arguments of its
    own stand after the one that `own_after` names. `defaults` replace the common ones.
    """

    def decorate(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
        signature = _signature(function, own_after, _DEFAULTS | defaults)

        @functools.wraps(function)
        def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            every: Callable[..., None] = function
            every(**bound.arguments)

        called.__signature__ = signature  # type: ignore[attr-defined]
        called.__doc__ = _documentation(function)
        return called

    return decorate


def _signature(function: Callable[..., None], own_after: str, defaults: Mapping[str, Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    *head, options = signature.parameters.values()
    (kind,) = get_args(options.annotation)
    types = DeployOptions.__annotations__ | kind.__annotations__
    tail = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults[name], annotation=types[name])
        for name in _ORDER[kind]
        if name not in signature.parameters  # `inputs` of the deployer for ONNX are others
    ]
    own = [parameter for parameter in head if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    head = head[: len(head) - len(own)]
    place = 1 + _ORDER[kind].index(own_after) if own else 0
    tail[place:place] = [parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for parameter in own]
    return signature.replace(parameters=[*head, *tail])


def _documentation(function: Callable[..., None]) -> str:
    text = inspect.cleandoc(function.__doc__ or "")  # python -OO leaves none
    for name, common in _TEXTS.items():
        text = text.replace(f"{{{name}}}", common.strip())
    return text


# --- the pipeline ---


def deploy_function(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    image: ModelImage,
    save_model: Callable[[Path], Iterable[str]] = lambda folder: (),
    called_with: Sequence[str] = ("model", "inputs"),
    base_image: str | None = None,
    registry: str | None = None,
    inputs: str = modeldir.ARRAY_INPUTS,
    outputs: str = modeldir.JSON_OUTPUTS,
    **options: Any,
) -> None:
    """Save `func`, and a model beside it with `save_model`; build an image of both on `base_image`; deploy that.

    `save_model` writes into a folder and returns the packages that it takes to load the model, beyond those of `image`.
    `options` are further arguments of ``ClipperConnection.build_and_deploy_model``.
    """
    functions.check_function(func, called_with)
    # An image of the user's may have modules that are not here, and so may what pip is told to install.
    has_own_packages = base_image not in (None, DEFAULT_IMAGE) or bool(options.get("pkgs_to_install"))
    functions.check_names(func, not has_own_packages, clipper_conn.logger)
    settings = functions.check_settings(inputs, outputs)
    base = image.name() if base_image in (None, DEFAULT_IMAGE) else check_base_image(base_image, image)
    with _temporary_folder() as folder:
        needed = {*save_model(folder), *save_function(clipper_conn, func, folder), *image.packages}
        modeldir.save_versions(modeldir.running_versions(needed, image.packages), folder)
        modeldir.save_settings(settings, folder)
        clipper_conn.logger.info("Using base image %s", base)
        clipper_conn.build_and_deploy_model(
            name, version, input_type, folder, base, container_registry=registry, **options
        )


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Where a model's files stand while they are packaged."""
    advice = "Name a folder with room that this user may write to with the environment variable TMPDIR."
    with files.explained(f"The model cannot be kept in {CLIPPER_TEMP_DIR} while it is packaged", advice):
        temporary = tempfile.TemporaryDirectory(prefix="clipper-model-", dir=CLIPPER_TEMP_DIR)
    with temporary as folder:
        yield Path(folder)


def check_base_image(base_image: object, image: ModelImage) -> str:
    """The name of an image to build on: one of the user's, or of ours one that can read what is saved here."""
    name = check_text("base_image", base_image)
    theirs, ours = images.served_by(name), images.served_by(image.name())
    if theirs and theirs != ours:
        raise ClipperException(
            f"Invalid value: base_image={name!r}. It serves {_served(theirs)}, and not {_served(ours)}. "
            "Leave base_image out: 'make images' builds the default."
        )
    return name


def _served(what: tuple[str, str] | None) -> str:
    python, framework = what or ("", "")
    return f"models of {framework or 'plain Python'} that Python {python} saved"


def save_function(clipper_conn: ClipperConnection, func: PredictFunction, folder: Path) -> set[str]:
    """Pickle `func` into a model folder. Returns the packages that it needs.

    Raises ClipperException that says what of it cannot be pickled.
    """
    clipper_conn.logger.info("Saving function to %s", folder)
    with open(folder / modeldir.FUNCTION_FILE, "wb") as file:
        needed = functions.save(func, file)
    clipper_conn.logger.info("Serialized and supplied predict function")
    return needed


def save_python_function(name: str, func: PredictFunction) -> str:
    """Pickle `func` into a new folder, as Clipper 0.4's function of this name (deprecated: the deployers do it).

    Returns the path of the folder, for ``ClipperConnection.build_model``; the caller removes it. `name` has no effect.
    Raises ClipperException that says what of the function cannot be pickled.
    """
    folder = Path(tempfile.mkdtemp(suffix="clipper"))
    try:
        with open(folder / modeldir.FUNCTION_FILE, "wb") as file:
            needed = functions.save(func, file)
        modeldir.save_versions(modeldir.running_versions(needed), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return str(folder)


def serialize_object(obj: Any) -> bytes:
    """The pickle of `obj` with the modules of the user's own that it needs (deprecated: the deployers do it)."""
    return pickling.dumps(obj)


def save_pickle(value: Any, argument: str, file: Path) -> set[str]:
    """Pickle a part of a model. Returns the packages that it needs."""
    try:
        with open(file, "wb") as stream:
            return pickling.dump(value, stream, definitions=False)
    except Exception as error:
        with explained(argument, f"It cannot be pickled{culprits.because(value)}"):
            raise error


@contextmanager
def explained(argument: str, what: str) -> Iterator[None]:
    """Whatever the framework raises in the block becomes an error that names the argument."""
    try:
        yield
    except ClipperException:
        raise
    except Exception as error:
        raise ClipperException(f"Invalid value: {argument}. {what}: {type(error).__name__}: {error}") from error


@contextmanager
def quiet(logger_name: str) -> Iterator[None]:
    """Without the remarks of a framework on how it could be called otherwise. Errors are heard.

    Threads take turns: levels and warnings are those of the process, and must be left as they were found.
    """
    logger = logging.getLogger(logger_name)
    with _one_at_a_time:
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.setLevel(level)


def check_path(argument: str, path: str | Path) -> Path:
    """The path of a model's file or folder. Raises ClipperException if it is not there."""
    found = Path(path).expanduser()
    if not found.exists():
        raise ClipperException(f"Invalid value: {argument}={str(path)!r}. There is no such file or folder.")
    return found


def make_endpoint(
    deploy: Callable[..., None],
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    *model: Any,
    default_output: str = "None",
    version: Version = 1,
    slo_micros: int = 3000000,
    missing_values: bool = False,
    max_body_bytes: int | None = None,
    **options: Any,
) -> None:
    """Register an application, `deploy` a model of the same name, and link the two."""
    with endpoint(clipper_conn, name, input_type, default_output, slo_micros, missing_values, max_body_bytes):
        deploy(clipper_conn, name, version, input_type, *model, **options)


@contextmanager
def endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    default_output: str,
    slo_micros: int,
    missing_values: bool = False,
    max_body_bytes: int | None = None,
) -> Iterator[None]:
    """Register an application, and link it to the model of the same name that the block deploys.

    When the block fails, the application is gone again.
    """
    clipper_conn.register_application(name, input_type, default_output, slo_micros, missing_values, max_body_bytes)
    complaint = f"Application {name} could not be removed again"
    with undone_on_failure(lambda: clipper_conn.unregister_application(name), complaint, clipper_conn.logger):
        yield
        clipper_conn.link_model_to_app(name, name)
