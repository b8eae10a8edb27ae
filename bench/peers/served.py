"""The model that every peer serves, from the file BENCH_MODEL or one that answers "0" to everything, and its settings.

Base64 is decoded by the model that answers "0", because none of the peers does that for it. Its vectors stay the lists
that the peer's JSON parser made: no peer pays for an array that a real model would need.
"""

import base64
import functools
import os
from pathlib import Path

PORT = int(os.environ["BENCH_PORT"])
SPARE_PORTS = [int(port) for port in os.environ["BENCH_SPARE_PORTS"].split(",")]
INPUT_TYPE = os.environ["BENCH_INPUT_TYPE"]
FOLDER = Path(os.environ["BENCH_FOLDER"])
"""A folder for configuration files, which is removed when the server has ended."""
MODEL = os.environ.get("BENCH_MODEL")
HOST = "127.0.0.1"
MAX_BATCH_SIZE = int(os.environ.get("BENCH_MAX_BATCH_SIZE", "64"))
WAIT_MILLIS = 1


def predict(inputs):
    """Return the model's answer to each input, as text."""
    return _load()(inputs)


@functools.cache
def _load():
    """Load the model once in each process that serves it: at its first query, which is no part of a measurement."""
    if MODEL is None:
        return _answer_zero
    import trained

    return trained.load(Path(MODEL))


def _answer_zero(inputs):
    if INPUT_TYPE == "bytes":
        inputs = [base64.b64decode(text) for text in inputs]
    return ["0"] * len(inputs)
