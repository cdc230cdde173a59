"""The same task on one machine, for comparison."""

from pathlib import Path

import torch
from sklearn.metrics import jaccard_score
from torch.nn import functional

from examples.common import pooled, predict, test_set, train
from examples.shapes.learn import Segmenter

METRIC = "iou"


def iou(prediction: torch.Tensor, y: torch.Tensor) -> float:
    """Return the mean over the classes of intersection over union."""
    return jaccard_score(y.flatten(), prediction.flatten(), average="macro")


def trivial(folder: Path) -> float:
    """Call every pixel background."""
    y = test_set(folder)["y"]
    return iou(torch.zeros_like(y), y)


def centralised(folder: Path) -> float:
    """Train the network on all drawings."""
    torch.manual_seed(0)
    data, test = pooled(folder), test_set(folder)
    model = Segmenter()
    train(model, functional.cross_entropy, (data["x"],), data["y"].long(), epochs=20, rate=3e-3)
    return iou(predict(model, test["x"]).argmax(1), test["y"])
