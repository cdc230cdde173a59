"""The same task on one machine, for comparison."""

from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import r2_score
from torch import Tensor, nn
from torch.nn import functional

from examples.common import predict, train

METRIC = "r2"


def read(folder: Path, pattern: str) -> tuple[Tensor, Tensor]:
    """Return measurements and progressions of the tables whose names match a pattern."""
    tables = [np.loadtxt(file, delimiter=",", skiprows=1) for file in sorted(folder.glob(pattern))]
    rows = torch.from_numpy(np.concatenate(tables)).float()
    return rows[:, :-1], rows[:, -1]


def trivial(folder: Path) -> float:
    """Predict the mean of the clinics' patients."""
    (_, train_y), (_, y) = read(folder, "clinic-*"), read(folder, "test.csv")
    return r2_score(y, train_y.mean().expand_as(y))


def centralised(folder: Path) -> float:
    """Train the linear model on all patients."""
    torch.manual_seed(0)
    (x, y), (test_x, test_y) = read(folder, "clinic-*"), read(folder, "test.csv")
    model = nn.Sequential(nn.Linear(10, 1), nn.Flatten(0))
    train(model, functional.mse_loss, (x,), y, epochs=50, rate=0.02)
    return r2_score(test_y, predict(model, test_x))
