"""A learning problem whose numbers can be computed by hand: client i's loss is `(w - t_i)^2 / 2`."""

from typing import Any

import torch
from torch import Tensor, nn


class Point(nn.Linear):
    """One weight: its output for the input 1 is the weight.

    Args:
        start: its initial value.
        dtype: torch's name of its dtype.
    """

    def __init__(self, start: float = 1.0, dtype: str = "float32") -> None:
        super().__init__(1, 1, bias=False, dtype=getattr(torch, dtype))
        nn.init.constant_(self.weight, start)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return half of the mean square of the differences.

    Args:
        outputs: the model's.
        targets: of the same shape.
    """
    half: Tensor = 0.5 * (outputs - targets).square().mean()
    return half


def shard(target: float) -> dict[str, Tensor]:
    """Return a client's only sample.

    Args:
        target: where its loss has its minimum.
    """
    return {"x": torch.ones(1, 1), "y": torch.full((1, 1), target)}


def sections(steps: int = 2, rate: float = 0.1, **training: Any) -> dict[str, Any]:
    """Return the sections of a job that trains the weight.

    Args:
        steps: number of steps of each client in a round.
        rate: the clients' learning rate.
        training: further fields of the job's training.
    """
    fields = {"optimizer": "sgd", "learning_rate": rate, "local_epochs": steps, "batch_size": 1}
    loss = {"loss": f"{__name__}:half_square"}
    return {"model": {"type": f"{__name__}:Point"}, "training": {**fields, **loss, **training}}
