"""Evaluates a global model."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from client_fn.training import loop
from client_fn.training.loop import Samples
from client_fn.training.randomness import seeded


class Evaluation(NamedTuple):
    """The quality of a model on a set of samples.

    Attributes:
        accuracy: share of the samples whose largest logit is their label's.
        loss: mean cross-entropy.
        samples: number of samples.
    """

    accuracy: float
    loss: float
    samples: int


def evaluate(
    module: nn.Module, samples: Samples, *, batch_size: int, before_batch: Callable[[], None] | None = None
) -> Evaluation:
    """Evaluate a module. What it draws at random comes from the same seed each time.

    Args:
        module: returns logits (N, classes) for a batch (N, ...).
        samples: x (N, ...) and labels (N,).
        batch_size: samples per forward pass.
        before_batch: called before each forward pass.

    Raises:
        TrainingFailed: module and samples do not fit, or there are no samples.
    """
    x, y = loop.cast_inputs(module, samples)
    correct = 0
    loss = 0.0
    module.eval()
    with torch.no_grad(), seeded(0), loop.map_errors(x):
        for xs, ys in zip(torch.split(x, batch_size), torch.split(y, batch_size)):  # noqa: B905 (equally long)
            if before_batch:
                before_batch()
            logits = module(xs)
            correct += int((logits.argmax(dim=1) == ys).sum())
            loss += functional.cross_entropy(logits.double(), ys, reduction="sum").item()
    return Evaluation(accuracy=correct / len(y), loss=loss / len(y), samples=len(y))
