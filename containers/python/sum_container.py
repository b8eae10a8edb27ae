"""Answers the sum of each numeric input, and the length of each string."""

from typing import Any

from .rpc import ModelContainerBase, RPCService


class SumContainer(ModelContainerBase):
    def _predict(self, inputs: Any) -> list[str]:
        return [str(item.sum()) for item in inputs]

    predict_ints = predict_floats = predict_doubles = predict_bytes = _predict

    def predict_strings(self, inputs: list[str]) -> list[str]:
        return [str(len(text)) for text in inputs]


if __name__ == "__main__":
    RPCService().start(SumContainer())
