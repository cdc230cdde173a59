"""The same task on one machine, for comparison."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.metrics import mean_absolute_error

from examples.common import pooled, predict, test_set, train
from examples.finetune.learn import Forecaster
from examples.finetune.make_data import PRETRAINED

METRIC = "mae"


def pretrained(folder: Path) -> Forecaster:
    """Return the network as it ships."""
    model = Forecaster()
    model.load_state_dict(load_file(folder / "start" / PRETRAINED))
    return model


def error(model: Forecaster, folder: Path) -> float:
    """Return the mean absolute error of the median."""
    test = test_set(folder)
    return mean_absolute_error(test["y"], predict(model, test["x"])[:, :, 4])


def trivial(folder: Path) -> float:
    """Forecast with the pretrained network, without any training: better than the mean of the past."""
    return error(pretrained(folder), folder)


def pinball(output: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """Return the loss of nine quantiles."""
    quantiles, difference = torch.arange(1, 10) / 10, future[:, :, None] - output
    return torch.maximum(quantiles * difference, (quantiles - 1) * difference).mean()


def centralised(folder: Path) -> float:
    """Train the pretrained network on the series of all pumps."""
    torch.manual_seed(0)
    data, model = pooled(folder), pretrained(folder)
    train(model, pinball, (data["x"],), data["y"], epochs=8)
    return error(model, folder)
