"""A model that answers each input with its first number: who asked can tell whose answer it is."""

from typing import Any

import rpc  # type: ignore[import-not-found]


class Echo(rpc.ModelContainerBase):  # type: ignore[misc]
    def predict_doubles(self, inputs: Any) -> list[str]:
        return [str(int(values[0])) for values in inputs]


if __name__ == "__main__":
    rpc.RPCService().start(Echo())
