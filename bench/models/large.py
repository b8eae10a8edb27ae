"""A model with large outputs: it answers each input with a text of as many bytes as the first number of it says."""

from typing import Any

import rpc  # type: ignore[import-not-found]


class Large(rpc.ModelContainerBase):  # type: ignore[misc]
    def predict_doubles(self, inputs: Any) -> list[str]:
        return ["x" * int(values[0]) for values in inputs]


if __name__ == "__main__":
    rpc.RPCService().start(Large())
