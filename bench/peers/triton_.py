"""Triton: NVIDIA's server in C++ in front of a Python process, as the package pytriton carries and starts it."""

# /// script
# requires-python = "==3.11.2"
# dependencies = ["nvidia-pytriton==0.7.0", "numpy==1.26.4"]
# ///

import numpy as np
import served
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

IS_VECTOR = served.INPUT_TYPE == "doubles"


@batch
def infer(x):
    inputs = x if IS_VECTOR else x[:, 0].tolist()
    return {"output": np.array(served.predict(inputs), dtype=np.bytes_)[:, np.newaxis]}


if __name__ == "__main__":
    grpc_port, metrics_port, *_ = served.SPARE_PORTS
    config = TritonConfig(
        http_address=served.HOST,
        http_port=served.PORT,
        grpc_address=served.HOST,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_verbose=0,
    )
    batcher = DynamicBatcher(max_queue_delay_microseconds=1000 * served.WAIT_MILLIS)
    with Triton(config=config, workspace=served.FOLDER / "workspace") as triton:
        triton.bind(
            model_name="noop",
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float64 if IS_VECTOR else np.bytes_, shape=(-1,))],
            outputs=[Tensor(name="output", dtype=np.bytes_, shape=(1,))],
            config=ModelConfig(max_batch_size=served.MAX_BATCH_SIZE, batcher=batcher),
        )
        triton.serve()
