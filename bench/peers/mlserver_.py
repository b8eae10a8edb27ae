"""MLServer: FastAPI in front of a worker process; the V2 protocol."""

# /// script
# dependencies = ["mlserver==1.7.1", "uvloop==0.21.0", "orjson==3.13.0"]
# ///

import json
import os
import sys

import noop
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Noop(MLModel):
    async def predict(self, payload):
        data = payload.inputs[0].data
        size = payload.inputs[0].shape[0]
        rows = list(data) if noop.INPUT_TYPE == "bytes" else range(size)
        outputs = noop.predict(rows)
        tensor = ResponseOutput(name="output", shape=[size, 1], datatype="BYTES", data=outputs)
        return InferenceResponse(model_name=self.name, outputs=[tensor])


if __name__ == "__main__":
    ports = dict(zip(["grpc_port", "metrics_port"], noop.SPARE_PORTS, strict=False))
    settings = {"debug": False, "host": noop.HOST, "http_port": noop.PORT, "parallel_workers": 1, **ports}
    settings["metrics_dir"] = str(noop.FOLDER)
    model = {
        "name": "noop",
        "implementation": "mlserver_.Noop",
        "max_batch_size": noop.MAX_BATCH_SIZE,
        "max_batch_time": noop.WAIT_MILLIS / 1000,
    }
    (noop.FOLDER / "settings.json").write_text(json.dumps(settings))
    (noop.FOLDER / "model-settings.json").write_text(json.dumps(model))
    program = os.path.join(os.path.dirname(sys.executable), "mlserver")
    os.execv(program, [program, "start", str(noop.FOLDER)])
