"""Answers "0" to each input, to measure the cost of Clipper itself."""

from typing import Any

from .rpc import ModelContainerBase, RPCService


class NoopContainer(ModelContainerBase):
    def _predict(self, inputs: Any) -> list[str]:
        return ["0"] * len(inputs)

    predict_ints = predict_floats = predict_doubles = predict_bytes = predict_strings = _predict


if __name__ == "__main__":
    RPCService().start(NoopContainer())
