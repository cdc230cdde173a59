"""Four pumps whose pressure jumps and falls, and the pretrained forecaster that ships in the wheel of fracast."""

import importlib.resources
from pathlib import Path

import numpy as np

from examples.common import save

PAST, FUTURE = 128, 48
PRETRAINED = "pretrained.safetensors"


def measure(rng: np.random.Generator, series: int) -> dict[str, np.ndarray]:
    """Return past and future of some series: `x` (N, 128), `y` (N, 48)."""
    period, start = rng.uniform(16, 32, (series, 1)), rng.uniform(0, 1000, (series, 1))
    since_jump = (np.arange(PAST + FUTURE) + start) / period % 1
    pressure = np.exp(-5 * since_jump) + rng.normal(0, 0.03, since_jump.shape)
    return {"x": pressure[:, :PAST].astype(np.float32), "y": pressure[:, PAST:].astype(np.float32)}


def make(folder: Path) -> None:
    """Write the shards, the test set and the pretrained weights."""
    rng = np.random.default_rng(0)
    save(folder, {f"pump-{i}": measure(rng, 40) for i in range(1, 5)}, measure(rng, 100))
    weights = importlib.resources.files("fracast") / "weights/model.safetensors"
    (folder / "start").mkdir(exist_ok=True)
    (folder / "start" / PRETRAINED).write_bytes(weights.read_bytes())
