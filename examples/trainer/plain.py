"""The same task on one machine, for comparison."""

from pathlib import Path

import torch
from sklearn.metrics import accuracy_score
from torch.nn import functional

from examples.common import Logits, predict, train
from examples.texts import plain as texts
from examples.trainer.learn import Messages

METRIC = "accuracy"

trivial = texts.trivial


def centralised(folder: Path) -> float:
    """Train the network on the messages of all shops."""
    torch.manual_seed(0)
    data, test = (texts.read(folder, pattern, Messages()) for pattern in ("shop-*", "test.csv"))
    model = Logits(Messages().model())
    train(model, functional.cross_entropy, (data["input_ids"],), data["labels"], epochs=8)
    return accuracy_score(test["labels"], predict(model, test["input_ids"]).argmax(1))
