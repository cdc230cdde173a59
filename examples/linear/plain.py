"""The same task on one machine, for comparison."""

from pathlib import Path

from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score

from examples.common import pooled, test_set

METRIC = "accuracy"


def trivial(folder: Path) -> float:
    """Call every sample what most are."""
    y = test_set(folder)["y"]
    return accuracy_score(y, pooled(folder)["y"].mode().values.expand_as(y))


def centralised(folder: Path) -> float:
    """Train the classifier on all samples."""
    data, test = pooled(folder), test_set(folder)
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, random_state=0)
    model.fit(data["x"].numpy(), data["y"].numpy())
    return model.score(test["x"].numpy(), test["y"].numpy())
