"""What all deployers do: save the function, package it, deploy it, and make an endpoint of it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipper_admin import functions
from clipper_admin.clipper_admin import CLIPPER_TEMP_DIR, ClipperConnection, Version
from clipper_common import modeldir
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction


def deploy_function(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    base_image: str,
    save_model: Callable[[Path], None] | None = None,
    **options: Any,
) -> None:
    """Save `func`, and a model beside it with `save_model`; build an image of both on `base_image`; deploy that.

    `options` are further arguments of ``ClipperConnection.build_and_deploy_model``.
    """
    with tempfile.TemporaryDirectory(prefix="clipper-model-", dir=CLIPPER_TEMP_DIR) as folder:
        save_function(clipper_conn, func, Path(folder))
        if save_model is not None:
            save_model(Path(folder))
        clipper_conn.logger.info("Using base image %s", base_image)
        clipper_conn.build_and_deploy_model(name, version, input_type, folder, base_image, **options)


def save_function(clipper_conn: ClipperConnection, func: PredictFunction, folder: Path) -> None:
    """Pickle `func` into a model folder. Raises ClipperException that says what of it cannot be pickled."""
    functions.check_callable(func)
    clipper_conn.logger.info("Saving function to %s", folder)
    try:
        modeldir.save_function(func, folder)
    except Exception as error:
        raise functions.not_picklable(func, error) from error
    clipper_conn.logger.info("Serialized and supplied predict function")


@contextmanager
def endpoint(
    clipper_conn: ClipperConnection, name: str, input_type: str, default_output: str, slo_micros: int
) -> Iterator[None]:
    """Register an application, and link it to the model of the same name that the block deploys.

    When the block fails, the application is gone again.
    """
    clipper_conn.register_application(name, input_type, default_output, slo_micros)
    try:
        yield
        clipper_conn.link_model_to_app(name, name)
    except BaseException:
        try:
            clipper_conn.unregister_application(name)
        except ClipperException as error:
            clipper_conn.logger.warning("Application %s could not be removed again: %s", name, error)
        raise
