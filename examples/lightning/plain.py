"""The same task on one machine, for comparison."""

from pathlib import Path

import torch
from sklearn.metrics import accuracy_score
from torch import Tensor, nn
from torch.nn import functional

from client_fn.data import datasets
from examples.common import predict, train

METRIC = "accuracy"


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the built-in dataset: images and labels to train with, and to test with."""
    data = datasets.load("digits")
    return tuple(map(torch.from_numpy, (data.train_x, data.train_y, data.test_x, data.test_y)))


def trivial(_: Path) -> float:
    """Say the most frequent digit."""
    _, y, _, test = digits()
    return accuracy_score(test, y.mode().values.expand_as(test))


def centralised(_: Path) -> float:
    """Train the network on all images."""
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    train(model, functional.cross_entropy, (x,), y, epochs=15)
    return accuracy_score(test_y, predict(model, test_x).argmax(1))
