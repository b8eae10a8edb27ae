"""A model whose speed is exactly known: it sleeps, BENCH_SLEEP_MS plus BENCH_SLEEP_PER_INPUT_MS for each input."""

import os
import time
from typing import Any, Final

import rpc  # type: ignore[import-not-found]

BASE_SECONDS: Final = float(os.environ.get("BENCH_SLEEP_MS", "5")) / 1000
INPUT_SECONDS: Final = float(os.environ.get("BENCH_SLEEP_PER_INPUT_MS", "0.1")) / 1000


class Sleeper(rpc.ModelContainerBase):  # type: ignore[misc]
    """Answers "0" to everything, in its own time."""

    def predict_doubles(self, inputs: Any) -> list[str]:
        """Sleep and answer."""
        time.sleep(BASE_SECONDS + INPUT_SECONDS * len(inputs))
        return ["0"] * len(inputs)


if __name__ == "__main__":
    rpc.RPCService().start(Sleeper())
