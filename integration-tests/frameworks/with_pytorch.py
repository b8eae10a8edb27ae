"""A network of a class of the user's own."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import own_layers
import torch
from run import Model, samples

from clipper_admin.deployers import pytorch as pytorch_deployer


def train(net: torch.nn.Module, steps: int = 200) -> torch.nn.Module:
    torch.manual_seed(0)
    inputs, classes = (torch.as_tensor(part) for part in samples(500))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs.float()), classes).backward()
        optimizer.step()
    return net


def predict(model: torch.nn.Module, inputs: Any) -> list[list[float]]:
    assert torch.is_inference_mode_enabled()
    return model(torch.as_tensor(inputs)).softmax(dim=1).tolist()


def directly(net: torch.nn.Module, inputs: Any) -> list[list[float]]:
    net.eval()
    with torch.inference_mode():
        return predict(net, inputs)


def models() -> Iterator[Model]:
    net = train(own_layers.Net())
    create = partial(pytorch_deployer.create_endpoint, func=predict, pytorch_model=net)
    yield Model("pytorch", "floats", create, partial(directly, net))
