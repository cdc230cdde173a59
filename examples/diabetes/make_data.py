"""Five clinics with scikit-learn's diabetes data: ten measurements of a patient, and how the disease went on."""

import csv
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

from examples.common import split


def make(folder: Path) -> None:
    """Write each clinic's table and the server's."""
    data = load_diabetes()
    x = data.data * np.sqrt(len(data.data))  # scikit-learn's columns have the length 1; these, a deviation of 1
    rows = np.column_stack([x, data.target / 100]).round(4)
    test, train = np.split(np.random.default_rng(0).permutation(rows), [88])
    tables = {f"clinic-{i}": train[part] for i, part in enumerate(split(len(train), 5), 1)}
    for name, table in {**tables, "test": test}.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[*data.feature_names, "progression"], *table.tolist()])
