"""Learning rates that change within a round."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from client_fn.errors import BadModel
from client_fn.training import schedulers
from client_fn.training.orders import Training

pytestmark = pytest.mark.torch


def rates(training: Training, steps: int | None = 4) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedulers.make(training, optimizer, steps)
    if scheduler is None:
        return []
    seen = []
    for _ in range(4):
        seen.append(round(optimizer.param_groups[0]["lr"], 6))
        optimizer.step()
        scheduler.step()
    return seen


def test_by_default_there_is_none() -> None:
    assert rates(Training()) == []


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "cosineannealinglr"])
def test_its_length_is_the_round_s_number_of_steps(name: str) -> None:
    assert rates(Training(scheduler=name)) == [1.0, 0.853553, 0.5, 0.146447]
    assert rates(Training(scheduler=name, scheduler_args={"T_max": 2}))[:3] == [1.0, 0.5, 0.0]


def test_a_scheduler_with_arguments() -> None:
    assert rates(Training(scheduler="StepLR", scheduler_args={"step_size": 2, "gamma": 0.1})) == [1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("training", "steps", "reason"),
    [
        (Training(scheduler="CosineAnealingLR"), 4, "training.scheduler is 'CosineAnealingLR': did you mean 'cosine"),
        (Training(scheduler="ReduceLROnPlateau"), 4, "Known are"),
        (Training(scheduler="StepLR"), 4, r"training.scheduler_args are those of StepLR\(.*step_size"),
        (Training(scheduler="CosineAnnealingLR"), None, r"training.scheduler_args are those of Cosine.*T_max"),
    ],
)
def test_a_mistake_is_told_with_the_field(training: Training, steps: int | None, reason: str) -> None:
    with pytest.raises(BadModel, match=reason):
        rates(training, steps)
