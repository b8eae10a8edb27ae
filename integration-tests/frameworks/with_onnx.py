"""The same network, exported."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import own_layers
import torch
from run import Model
from with_pytorch import directly, train

from clipper_admin.deployers import onnx as onnx_deployer


def predict(model: Any, inputs: Any) -> list[list[float]]:
    (outputs,) = model.run(inputs)
    exponents = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).tolist()


def models() -> Iterator[Model]:
    net = train(own_layers.Net())
    create = partial(onnx_deployer.create_pytorch_endpoint, inputs=torch.zeros(2, 4), func=predict, pytorch_model=net)
    yield Model("onnx", "floats", create, partial(directly, net))
