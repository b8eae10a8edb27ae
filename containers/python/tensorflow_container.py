"""Serves a TensorFlow graph: ``func(session, inputs)``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    import tensorflow as tf  # here, so that a failure is reported by `load_or_exit`

    session = tf.compat.v1.Session(
        graph=tf.Graph(),
        # Operations run on a GPU if there is one and they support it.
        config=tf.compat.v1.ConfigProto(
            allow_soft_placement=True, gpu_options=tf.compat.v1.GPUOptions(allow_growth=True)
        ),
    )
    with session.graph.as_default():
        _restore(session, folder / modeldir.TENSORFLOW_FOLDER)
    function = modeldir.load_function(folder)
    return lambda inputs: function(session, inputs)


def _restore(session: Any, model: Path) -> None:
    import tensorflow as tf

    if any(model.glob("*.pb")):
        tf.compat.v1.saved_model.loader.load(session, [modeldir.TENSORFLOW_TAG], str(model))
        return
    checkpoint = str(next(model.glob("*.meta")).with_suffix(""))
    tf.compat.v1.train.import_meta_graph(f"{checkpoint}.meta", clear_devices=True).restore(session, checkpoint)


if __name__ == "__main__":
    serve(load)
