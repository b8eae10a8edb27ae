"""MLServer: FastAPI in front of a worker process; the V2 protocol."""

# /// script
# dependencies = ["mlserver==1.7.1", "uvloop==0.21.0", "orjson==3.13.0"]
# ///

import json
import os
import sys

import served
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Noop(MLModel):
    async def predict(self, payload):
        size = payload.inputs[0].shape[0]
        outputs = served.predict(_rows(list(payload.inputs[0].data), size))
        tensor = ResponseOutput(name="output", shape=[size, 1], datatype="BYTES", data=outputs)
        return InferenceResponse(model_name=self.name, outputs=[tensor])


def _rows(data, size):
    """Return the inputs of a batch, whose numbers came behind each other."""
    if served.INPUT_TYPE == "bytes":
        return data
    length = len(data) // size
    return [data[begin : begin + length] for begin in range(0, len(data), length)]


if __name__ == "__main__":
    ports = dict(zip(["grpc_port", "metrics_port"], served.SPARE_PORTS, strict=False))
    settings = {"debug": False, "host": served.HOST, "http_port": served.PORT, "parallel_workers": 1, **ports}
    settings["metrics_dir"] = str(served.FOLDER)
    model = {
        "name": "noop",
        "implementation": "mlserver_.Noop",
        "max_batch_size": served.MAX_BATCH_SIZE,
        "max_batch_time": served.WAIT_MILLIS / 1000,
    }
    (served.FOLDER / "settings.json").write_text(json.dumps(settings))
    (served.FOLDER / "model-settings.json").write_text(json.dumps(model))
    program = os.path.join(os.path.dirname(sys.executable), "mlserver")
    os.execv(program, [program, "start", str(served.FOLDER)])
