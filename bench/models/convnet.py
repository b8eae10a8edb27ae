"""Trains a small convolutional network on handwritten digits, for bench/real_models.py. Needs PyTorch."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

WHAT: Final = "PyTorch: two convolutions of 32 and 64 channels, and two dense layers, on 8 x 8 pixels"
_EPOCHS: Final = 3
_BATCH_SIZE: Final = 64


def train(images: Any, digits: Any, file: Path) -> None:
    """Train on images of 64 pixels from 0 to 1, and save the network as TorchScript."""
    torch.manual_seed(0)
    inputs = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(digits, dtype=torch.long)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 64, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(_EPOCHS):
        for part in torch.randperm(len(inputs)).split(_BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[part]), labels[part]).backward()
            optimizer.step()
    torch.jit.trace(network.eval(), inputs[:2]).save(file)
