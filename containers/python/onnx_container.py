"""Serves an ONNX graph with onnxruntime: ``func(model, inputs)``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from clipper_common import modeldir

from .function_container import serve

_TYPES: Final = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxModel:
    """An ONNX graph. `session` is its onnxruntime session."""

    def __init__(self, path: Path) -> None:
        import onnxruntime  # here, so that a failure is reported by `load_or_exit`

        self.session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())

    def run(self, inputs: Any) -> list[Any]:
        """Return the outputs of the graph for one array, a list or tuple of its inputs, or a dictionary of them.

        Each input is converted to an array of the element type that the graph declares.
        """
        declared = self.session.get_inputs()
        if isinstance(inputs, Mapping):
            named = dict(inputs)
        elif len(declared) == 1 and not (isinstance(inputs, list | tuple) and len(inputs) == 1):
            named = {declared[0].name: inputs}
        else:
            named = {each.name: value for each, value in zip(declared, inputs, strict=True)}
        types = {each.name: _TYPES.get(each.type) for each in declared}
        outputs: list[Any] = self.session.run(
            None, {name: np.asarray(value, types.get(name)) for name, value in named.items()}
        )
        return outputs

    __call__ = run


def load(folder: Path) -> Callable[[Any], Any]:
    model = OnnxModel(folder / modeldir.ONNX_FILE)
    function = modeldir.load_function(folder)
    return lambda inputs: function(model, inputs)


if __name__ == "__main__":
    serve(load)
