"""How good a global model is."""

from typing import Final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from broker.messages.job import Model
from client_fn.cache import keep
from client_fn.training import loop, models, tensors

MODULES_KEPT: Final = 4
"""Modules of the models judged last; building one costs more than loading weights into it."""

_idle: Final[dict[bytes, nn.Module]] = {}


class Evaluation(msgspec.Struct, frozen=True):
    """What a model got right.

    Attributes:
        accuracy: share of the samples whose largest logit is their label's.
        loss: mean cross-entropy.
        samples: how many there were.
    """

    accuracy: float
    loss: float
    samples: int


def evaluate(model: Model, weights: bytes, x: Tensor, y: Tensor, batch_size: int) -> Evaluation:
    """Judge a global model; safe to call from several threads at once.

    Args:
        model: the job's.
        weights: safetensors of all of its tensors.
        x: samples (N, ...).
        y: labels (N,), int64.
        batch_size: samples per forward pass.

    Raises:
        BadModel: it can't be built.
        BadTensors: the weights are no safetensors file.
        WrongTensors: they are not this model's.
        TrainingFailed: model and data do not fit.
    """
    key = models.key(model)
    # Out of the table while in use, so that no two threads load weights into the same module.
    module = _idle.pop(key, None) or models.build(model, seed=0)
    tensors.load(module, tensors.from_bytes(weights))
    judged = _judged(module, loop.fitting(module, (x, y)), batch_size)
    keep(_idle, key, module, most=MODULES_KEPT)
    return judged


def _judged(module: nn.Module, data: loop.Samples, batch_size: int) -> Evaluation:
    x, y = data
    right = 0
    loss = 0.0
    module.eval()
    with torch.no_grad(), loop.explained(x):
        for xs, ys in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
            logits = module(xs)
            right += int((logits.argmax(dim=1) == ys).sum())
            loss += functional.cross_entropy(logits.double(), ys, reduction="sum").item()
    return Evaluation(accuracy=right / len(y), loss=loss / len(y), samples=len(y))
