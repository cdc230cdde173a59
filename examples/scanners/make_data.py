"""Four scanners of handwritten digits. Each has its own contrast and brightness; one of them scans negatives."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from examples.common import save, split

SCANNERS = {"bright": (0.5, 3.0), "dark": (2.0, -2.0), "negative": (-1.0, 1.0), "weak": (0.1, 0.4)}
"""Contrast and brightness."""


def make(folder: Path) -> None:
    """Write the shards. There is no common test set: each site has its own kind of images."""
    images, y = load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    shards = {}
    for (name, (contrast, brightness)), rows in zip(SCANNERS.items(), split(len(x), len(SCANNERS)), strict=True):
        shards[f"scanner-{name}"] = {"x": contrast * x[rows] + np.float32(brightness), "y": y[rows]}
    save(folder, shards)
