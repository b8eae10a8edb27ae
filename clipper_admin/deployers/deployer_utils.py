"""The steps of all deployers: check, save the function and the model, package, deploy, and make an endpoint."""

import logging
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from clipper_admin import culprits, files, functions, images, pickling
from clipper_admin.arguments import check_text
from clipper_admin.clipper_admin import CLIPPER_TEMP_DIR, ClipperConnection, Version
from clipper_admin.deployers.options import DEFAULT_IMAGE
from clipper_admin.images import ModelImage
from clipper_admin.rollback import rollback_on_failure
from clipper_common import modeldir
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction

_one_at_a_time: Final = threading.RLock()


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
    """Make a temporary folder for the files of a model."""
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
    with rollback_on_failure(lambda: clipper_conn.unregister_application(name), complaint, clipper_conn.logger):
        yield
        clipper_conn.link_model_to_app(name, name)
