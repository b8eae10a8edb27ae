"""Deploys Keras models."""

import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clipper_admin import images, own_modules
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import (
    check_path,
    deploy_function,
    explained,
    make_endpoint,
    quiet,
    save_pickle,
)
from clipper_admin.deployers.options import DeployOptions, EndpointOptions, with_options
from clipper_common import modeldir
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction

if TYPE_CHECKING:
    import keras


@with_options()
def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: PredictFunction,
    model_path_or_object: "keras.Model | str | Path",
    **options: Unpack[EndpointOptions],
) -> None:
    """Register an application, deploy a Keras model as a model of the same name, and link the two.

    Parameters
    ----------
    {endpoint}
    input_type, func, model_path_or_object
        As in `deploy_keras_model`.
    {endpoint_options}
    """
    make_endpoint(deploy_keras_model, clipper_conn, name, input_type, func, model_path_or_object, **options)


@with_options()
def deploy_keras_model(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    model_path_or_object: "keras.Model | str | Path",
    **options: Unpack[DeployOptions],
) -> None:
    """Deploy a Keras model, and a function that predicts with it, as a model.

    Parameters
    ----------
    {head}
    func : function
        Called as ``func(model, inputs)``.
        {inputs}
    model_path_or_object : keras.Model, str or Path
        A model; or the file of one that was saved, ``.h5`` or ``.keras``.
    {options}

    Examples
    --------
    ::

        def predict(model, inputs):
            return model.predict_on_batch(inputs).argmax(axis=1)

        deploy_keras_model(clipper_conn, "digits", 1, "floats", predict, model)
    """
    deploy_function(
        clipper_conn,
        name,
        version,
        input_type,
        func,
        images.KERAS,
        lambda folder: _save(model_path_or_object, folder),
        **options,
    )


def _save(model: "keras.Model | str | Path", folder: Path) -> set[str]:
    hdf5, native = (folder / name for name in modeldir.KERAS_FILES)
    if isinstance(model, str | Path):
        path = _check_file(check_path("model_path_or_object", model))
        with explained("model_path_or_object", "The file cannot be read"):
            shutil.copy(path, native if zipfile.is_zipfile(path) else hdf5)
    else:
        _save_object(model, hdf5, native)
    with explained("model_path_or_object", "The classes of its layers cannot be found"):
        classes = _own_classes(model)
    return save_pickle(classes, "model_path_or_object", folder / modeldir.KERAS_CLASSES_FILE)


def _save_object(model: "keras.Model", hdf5: Path, native: Path) -> None:
    with explained("model_path_or_object", "Keras cannot be imported"):
        import keras

    if not isinstance(model, keras.Model):
        raise ClipperException(f"Invalid value: model_path_or_object={model!r}. It should be a keras.Model or a path.")
    # HDF5 holds the models that are made of layers alone.
    of_layers = isinstance(model, keras.Sequential) or type(model).__module__.startswith("keras.")
    with explained("model_path_or_object", "The model cannot be saved"), quiet("absl"):
        model.save(hdf5 if of_layers else native)


def _check_file(path: Path) -> Path:
    if not path.is_file():
        raise ClipperException(
            f"Invalid value: model_path_or_object={str(path)!r}. It should be a file, .h5 or .keras; "
            "the TensorFlow deployer takes folders."
        )
    return path


def _own_classes(model: "keras.Model | str | Path") -> dict[str, Any]:
    """The classes and functions of the user's that Keras needs by name, to load a model."""
    keras = sys.modules.get("keras")
    if keras is None:  # then nothing is registered
        return {}
    used = (
        {} if isinstance(model, str | Path) else {type(part).__name__: type(part) for part in model._flatten_layers()}
    )
    registered = keras.saving.get_custom_objects()
    return {name: what for name, what in (used | registered).items() if own_modules.is_own_or_main(what)}
