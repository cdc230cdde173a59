"""Five clinics with scikit-learn's breast cancer data: thirty measurements of cells, benign or malignant."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

from examples.common import save, split


def make(folder: Path) -> None:
    """Write the shards and the test set."""
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    test, train = np.split(np.random.default_rng(0).permutation(len(x)), [169])
    parts = [train[part] for part in split(len(train), 5)]
    shards = {f"clinic-{i}": {"x": x[rows], "y": y[rows]} for i, rows in enumerate(parts, 1)}
    save(folder, shards, {"x": x[test], "y": y[test]})
