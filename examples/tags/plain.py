"""The same task on one machine, for comparison."""

from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from examples.common import pooled, predict, test_set, train
from examples.tags.learn import Tagger

METRIC = "auroc"


def trivial(folder: Path) -> float:
    """Give every document the same scores."""
    y = test_set(folder)["y"]
    return roc_auc_score(y, pooled(folder)["y"].float().mean(0).expand(len(y), -1), average="macro")


def centralised(folder: Path) -> float:
    """Train the network on all documents."""
    torch.manual_seed(0)
    data, test = pooled(folder), test_set(folder)
    model = Tagger(30, 8)
    train(model, functional.binary_cross_entropy_with_logits, (data["x"],), data["y"].float(), epochs=30)
    return roc_auc_score(test["y"], predict(model, test["x"]), average="macro")
