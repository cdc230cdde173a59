"""Four archives of documents with up to eight tags each, drawn by scikit-learn."""

from pathlib import Path

import numpy as np
from sklearn.datasets import make_multilabel_classification

from examples.common import save, split


def make(folder: Path) -> None:
    """Write the shards and the test set."""
    x, y = make_multilabel_classification(2000, n_features=30, n_classes=8, n_labels=3, length=100, random_state=0)
    x, y = (x / x.max()).astype(np.float32), y.astype(np.uint8)
    shards = {f"archive-{i}": {"x": x[rows], "y": y[rows]} for i, rows in enumerate(split(1600, 4), 1)}
    save(folder, shards, {"x": x[1600:], "y": y[1600:]})
