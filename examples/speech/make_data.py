"""Nine people who say a vowel: the JapaneseVowels of the UCI archive, from the wheel of aeon.

Each client is one person, and so it knows no voice but its own. A sample is a series of 7 to 29 moments with 12
coefficients each. Only the files of aeon are read: its code needs older versions of other libraries.
"""

import importlib.util
from pathlib import Path

import numpy as np

from examples.common import Arrays, save

MOMENTS = 29


def read(name: str) -> Arrays:
    """Return the samples of a file: `x` (N, 29, 12), filled up with zeros; `length` (N,); `y` (N,), the speakers."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("aeon is missing: pip install --no-deps aeon")
    file = Path(spec.origin).parent / "datasets/data/JapaneseVowels" / name
    lines = file.read_text().partition("@data\n")[2].split()
    samples = [[series.split(",") for series in line.split(":")] for line in lines]
    x = np.zeros((len(samples), MOMENTS, 12), np.float32)
    for row, (*series, _) in zip(x, samples, strict=True):
        row[: len(series[0])] = np.array(series, np.float32).T
    return {
        "x": x,
        "length": np.array([len(series) for series, *_ in samples]),
        "y": np.array([int(speaker) - 1 for *_, (speaker,) in samples]),
    }


def make(folder: Path) -> None:
    """Write the shards and the test set."""
    train = read("JapaneseVowels_TRAIN.ts")
    people = {f"speaker-{i + 1}": train["y"] == i for i in range(9)}
    shards = {name: {key: array[rows] for key, array in train.items()} for name, rows in people.items()}
    save(folder, shards, read("JapaneseVowels_TEST.ts"))
