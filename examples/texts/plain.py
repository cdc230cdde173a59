"""The same task on one machine, for comparison."""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from sklearn.metrics import accuracy_score
from torch.nn import functional

from examples.common import predict, train
from examples.texts.learn import Classifier, Messages

METRIC = "accuracy"


class File(NamedTuple):
    """Stands for the source that a learner gets."""

    path: Path

    def open(self) -> BinaryIO:
        """Open the file."""
        return self.path.open("rb")


def read(folder: Path, pattern: str, learner: Any) -> Any:
    """Return the messages of the files whose names match a pattern, as one batch of a learner's.

    Args:
        folder: of the files.
        pattern: of their names.
        learner: reads and collates them.
    """
    files = [File(path) for path in sorted(folder.glob(pattern))]
    return learner.collate([sample for file in files for sample in learner.data(file)])


def trivial(folder: Path) -> float:
    """Send every message to the desk that gets most."""
    _, y = read(folder, "shop-*", Messages())
    _, test = read(folder, "test.csv", Messages())
    return accuracy_score(test, y.mode().values.expand_as(test))


def centralised(folder: Path) -> float:
    """Train the network on the messages of all shops."""
    torch.manual_seed(0)
    x, y = read(folder, "shop-*", Messages())
    test_x, test_y = read(folder, "test.csv", Messages())
    model = Classifier()
    train(model, functional.cross_entropy, (x,), y, epochs=15, rate=3e-3)
    return accuracy_score(test_y, predict(model, test_x).argmax(1))
