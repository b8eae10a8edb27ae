"""Serves an MXNet module: ``func(model, inputs)``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    model = _load_module(folder)
    function = modeldir.load_function(folder)
    return lambda inputs: function(model, inputs)


def _load_module(folder: Path) -> Any:
    import mxnet  # here, so that a failure is reported by `load_or_exit`

    class InferenceModule(mxnet.mod.Module):  # type: ignore[misc]
        """Accepts batches of any size: the labels that a loss layer needs get a fitting shape; they are not used."""

        def reshape(self, data_shapes: Any, label_shapes: Any = None) -> None:
            super().reshape(data_shapes, label_shapes or labels_for(data_shapes))

    def labels_for(data_shapes: Any) -> Any:
        shapes, _, _ = symbol.infer_shape(**{name: shape for name, shape in data_shapes})
        return [(name, shape) for name, shape in zip(symbol.list_arguments(), shapes, strict=True) if name in labels]

    metadata = json.loads((folder / modeldir.MXNET_METADATA_FILE).read_text())
    data_shapes = [(name, tuple(shape)) for name, shape in metadata["data_shapes"]]
    data = [name for name, _ in data_shapes]
    symbol, parameters, states = mxnet.model.load_checkpoint(str(folder / modeldir.MXNET_PREFIX), 0)
    labels = [name for name in symbol.list_arguments() if name not in parameters and name not in data]

    device = mxnet.gpu() if mxnet.context.num_gpus() else mxnet.cpu()
    module = InferenceModule(symbol, data_names=data, label_names=labels, context=device)
    module.bind(data_shapes, labels_for(data_shapes), for_training=False)
    module.set_params(parameters, states)
    return module


if __name__ == "__main__":
    serve(load)
