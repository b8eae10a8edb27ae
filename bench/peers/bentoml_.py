"""BentoML: a service that batches, with the model in the service's process, as its documentation has it."""

# /// script
# dependencies = ["bentoml==1.4.39", "uvloop==0.23.0", "httptools==0.9.0"]
# ///

import os
import sys
from typing import Any

import bentoml
import served


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Noop:
    @bentoml.api(batchable=True, max_batch_size=served.MAX_BATCH_SIZE, max_latency_ms=60_000)
    def predict(self, input: list[Any]) -> list[str]:
        return served.predict(input)


if __name__ == "__main__":
    program = os.path.join(os.path.dirname(sys.executable), "bentoml")
    address = [f"--host={served.HOST}", f"--port={served.PORT}"]
    os.execve(program, [program, "serve", "bentoml_:Noop", *address], os.environ | {"BENTOML_DO_NOT_TRACK": "True"})
