"""A network of a class of the user's own."""

import warnings
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
    quantised = quantise(net)
    # Activations are quantised by the range that they have in a batch.
    create = partial(pytorch_deployer.create_endpoint, func=predict, pytorch_model=quantised)
    yield Model("quantised", "floats", create, partial(one_by_one, quantised), {"batch_size": 1})


def quantise(net: torch.nn.Module) -> torch.nn.Module:
    """Its state has types, tuples and None beside tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch recommends another package
        return torch.ao.quantization.quantize_dynamic(net.eval(), {torch.nn.Linear}, dtype=torch.qint8)


def one_by_one(net: torch.nn.Module, inputs: Any) -> list[list[float]]:
    return [directly(net, inputs[number : number + 1])[0] for number in range(len(inputs))]
