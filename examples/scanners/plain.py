"""The same task on one machine, for comparison: one network, one BatchNorm, for the images of all scanners."""

from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch.nn import functional

from examples.common import pooled, predict, train
from examples.scanners.learn import Digits

METRIC = "accuracy"


def halves(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images and labels to train with, and a fifth of them to test with."""
    data = pooled(folder)
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(data["y"])))
    test, rest = rows.split([len(rows) // 5, len(rows) - len(rows) // 5])
    return data["x"][rest], data["y"][rest], data["x"][test], data["y"][test]


def trivial(folder: Path) -> float:
    """Say the most frequent digit."""
    _, y, _, test = halves(folder)
    return accuracy_score(test, y.mode().values.expand_as(test))


def centralised(folder: Path) -> float:
    """Train the network on four fifths of the images of all scanners."""
    torch.manual_seed(0)
    x, y, test_x, test_y = halves(folder)
    model = Digits()
    train(model, functional.cross_entropy, (x,), y, epochs=15)
    return accuracy_score(test_y, predict(model, test_x).argmax(1))
