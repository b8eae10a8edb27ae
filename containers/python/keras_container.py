"""Serves a Keras model: ``func(model, inputs)``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    import keras  # here, so that its absence is explained

    path = next(folder / name for name in modeldir.KERAS_FILES if (folder / name).is_file())
    function = modeldir.load_function(folder)  # first: it may register classes of the user's
    model = keras.models.load_model(path, compile=False)
    return lambda inputs: function(model, inputs)


if __name__ == "__main__":
    serve(load)
