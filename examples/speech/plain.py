"""The same task on one machine, for comparison."""

from pathlib import Path

import torch
from sklearn.metrics import accuracy_score
from torch.nn import functional

from examples.common import pooled, predict, test_set, train
from examples.speech.learn import Speaker

METRIC = "accuracy"


def trivial(folder: Path) -> float:
    """Name the person who speaks most in the test set: in the training set all speak equally often."""
    y = test_set(folder)["y"]
    return accuracy_score(y, y.mode().values.expand_as(y))


def centralised(folder: Path) -> float:
    """Train the network on the voices of all."""
    torch.manual_seed(0)
    data, test = pooled(folder), test_set(folder)
    model = Speaker()
    train(model, functional.cross_entropy, (data["x"], data["length"]), data["y"], epochs=40, rate=3e-3)
    return accuracy_score(test["y"], predict(model, test["x"], test["length"]).argmax(1))
