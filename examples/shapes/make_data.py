"""Three sites with drawings of discs and crosses in noise. Each pixel is background, disc or cross."""

from pathlib import Path

import numpy as np

from examples.common import save

SIZE = 24


def draw(rng: np.random.Generator, images: int, discs: float) -> tuple[np.ndarray, np.ndarray]:
    """Return drawings (N, 1, size, size) and the class of each pixel (N, size, size).

    Args:
        rng: draws them.
        images: their number.
        discs: share of the discs among the shapes.
    """
    rows, columns = np.mgrid[:SIZE, :SIZE]
    y = np.zeros((images, SIZE, SIZE), np.uint8)
    for mask in y:
        for _ in range(2):
            (row, column), radius = rng.integers(5, SIZE - 5, 2), rng.integers(3, 6)
            if rng.random() < discs:
                mask[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = 1
            else:
                across, along = abs(rows - row), abs(columns - column)
                mask[(np.minimum(across, along) < 1) & (np.maximum(across, along) <= radius)] = 2
    x = (y > 0) + rng.normal(0, 0.2, y.shape)
    return x[:, None].astype(np.float32), y


def make(folder: Path) -> None:
    """Write the shards and the test set."""
    rng = np.random.default_rng(0)
    shards = {}
    for site, discs in (("site-1", 0.2), ("site-2", 0.5), ("site-3", 0.8)):
        x, y = draw(rng, 120, discs)
        shards[site] = {"x": x, "y": y}
    x, y = draw(rng, 120, 0.5)
    save(folder, shards, {"x": x, "y": y})
