"""A model that answers each input with its first number, so that a client can tell whose answer it got."""

from typing import Any

import rpc  # type: ignore[import-not-found]


class Echo(rpc.ModelContainerBase):  # type: ignore[misc]
    def predict_doubles(self, inputs: Any) -> list[str]:
        return [str(int(values[0])) for values in inputs]


if __name__ == "__main__":
    rpc.RPCService().start(Echo())
