"""Deploys TensorFlow sessions and SavedModels."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from clipper_admin import images
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import check_path, deploy_function, explained, make_endpoint
from clipper_admin.deployers.options import DeployOptions, EndpointOptions, with_options
from clipper_common import modeldir
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction

if TYPE_CHECKING:
    import tensorflow as tf


@with_options()
def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: PredictFunction,
    tf_sess_or_saved_model_path: "tf.compat.v1.Session | str | Path",
    **options: Unpack[EndpointOptions],
) -> None:
    """Register an application, deploy a TensorFlow model as a model of the same name, and link the two.

    Parameters
    ----------
    {endpoint}
    input_type, func, tf_sess_or_saved_model_path
        As in `deploy_tensorflow_model`.
    {endpoint_options}
    """
    make_endpoint(deploy_tensorflow_model, clipper_conn, name, input_type, func, tf_sess_or_saved_model_path, **options)


@with_options()
def deploy_tensorflow_model(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    tf_sess_or_saved_model_path: "tf.compat.v1.Session | str | Path",
    **options: Unpack[DeployOptions],
) -> None:
    """Deploy a TensorFlow graph, and a function that predicts with it, as a model.

    Parameters
    ----------
    {head}
    func : function
        Called as ``func(session, inputs)``, with a ``tf.compat.v1.Session``.
        {inputs}
    tf_sess_or_saved_model_path : tf.compat.v1.Session, str or Path
        A session, whose graph and variables are saved; or the folder of a SavedModel with the tag ``serve``, or of a
        checkpoint.
    {options}

    Examples
    --------
    ::

        def predict(session, inputs):
            return session.run("classes:0", feed_dict={"pixels:0": inputs})

        deploy_tensorflow_model(clipper_conn, "digits", 1, "floats", predict, session)
    """
    deploy_function(
        clipper_conn,
        name,
        version,
        input_type,
        func,
        images.TENSORFLOW,
        lambda folder: _save(tf_sess_or_saved_model_path, folder),
        ["session", "inputs"],
        **options,
    )


def _save(model: "tf.compat.v1.Session | str | Path", folder: Path) -> tuple[str, ...]:
    if isinstance(model, str | Path):
        _copy(check_path("tf_sess_or_saved_model_path", model), folder / modeldir.TENSORFLOW_FOLDER)
    else:
        _save_session(model, folder / modeldir.TENSORFLOW_FOLDER)
    return ()


def _copy(model: Path, folder: Path) -> None:
    if not any(model.glob("*.pb")) and not any(model.glob("*.meta")):
        raise ClipperException(
            f"Invalid value: tf_sess_or_saved_model_path={str(model)!r}. It should be a folder with a SavedModel "
            "(saved_model.pb) or a checkpoint (*.meta)."
        )
    with explained("tf_sess_or_saved_model_path", "The folder cannot be copied"):
        shutil.copytree(model, folder)


def _save_session(session: "tf.compat.v1.Session", folder: Path) -> None:
    with explained("tf_sess_or_saved_model_path", "TensorFlow cannot be imported"):
        import tensorflow as tf

    if not isinstance(session, tf.compat.v1.Session | tf.compat.v1.InteractiveSession):
        raise ClipperException(
            f"Invalid value: tf_sess_or_saved_model_path={session!r}. It should be a tf.compat.v1.Session or a path."
        )
    with session.graph.as_default(), explained("tf_sess_or_saved_model_path", "The session cannot be saved"):
        tf.compat.v1.train.Saver().save(session, str(folder / modeldir.TENSORFLOW_CHECKPOINT))
