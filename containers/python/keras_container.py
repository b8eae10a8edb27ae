"""Serves a Keras model: ``func(model, inputs)``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    import keras  # here, so that a failure is reported by `load_or_exit`

    path = next(folder / name for name in modeldir.KERAS_FILES if (folder / name).is_file())
    classes_file = folder / modeldir.KERAS_CLASSES_FILE
    classes = modeldir.load_pickle(classes_file) if classes_file.is_file() else {}
    model = keras.models.load_model(path, custom_objects=classes, compile=False)
    function = modeldir.load_function(folder)
    return lambda inputs: function(model, inputs)


if __name__ == "__main__":
    serve(load)
