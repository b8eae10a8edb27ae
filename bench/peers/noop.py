"""What every peer serves: a model that answers "0" to everything, and what it was told by the environment.

Base64 is decoded by the model, because none of the peers does that for it. Vectors stay the lists that the peer's JSON
parser made: no peer pays for an array that a real model would need.
"""

import base64
import os
from pathlib import Path

PORT = int(os.environ["BENCH_PORT"])
SPARE_PORTS = [int(port) for port in os.environ["BENCH_SPARE_PORTS"].split(",")]
INPUT_TYPE = os.environ["BENCH_INPUT_TYPE"]
FOLDER = Path(os.environ["BENCH_FOLDER"])
"""For configuration files; goes when the server has ended."""
HOST = "127.0.0.1"
MAX_BATCH_SIZE = 64
WAIT_MILLIS = 1


def predict(inputs):
    if INPUT_TYPE == "bytes":
        inputs = [base64.b64decode(text) for text in inputs]
    return ["0"] * len(inputs)
