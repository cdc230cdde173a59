"""Evaluates a global model."""

from typing import Final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from broker.messages.job import Model
from client_fn.cache import keep
from client_fn.training import loop, models, tensors

MODULES_KEPT: Final = 4
"""Modules of the models evaluated last. To build a module costs more than to load weights into it."""

_modules: Final[dict[bytes, nn.Module]] = {}


class Evaluation(msgspec.Struct, frozen=True):
    """The quality of a model on a set of samples.

    Attributes:
        accuracy: share of the samples whose largest logit is their label's.
        loss: mean cross-entropy.
        samples: number of samples.
    """

    accuracy: float
    loss: float
    samples: int


def evaluate(model: Model, weights: bytes, x: Tensor, y: Tensor, batch_size: int) -> Evaluation:
    """Evaluate a global model. Thread-safe.

    Args:
        model: the job's model section.
        weights: safetensors file of all of the model's tensors.
        x: samples (N, ...).
        y: labels (N,), int64.
        batch_size: samples per forward pass.

    Raises:
        BadModel: the model can't be built, or the weights do not match it.
        BadTensors: the weights are not a safetensors file.
        TrainingFailed: model and samples do not fit, or there are no samples.
    """
    key = models.key(model)
    # Taken out of the cache while in use, so that no two threads load weights into the same module.
    module = _modules.pop(key, None) or models.build(model, seed=0)
    tensors.load(module, tensors.from_bytes(weights))
    x, y = loop.cast_inputs(module, (x, y))
    correct = 0
    loss = 0.0
    module.eval()
    with torch.no_grad(), loop.map_errors(x):
        for xs, ys in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
            logits = module(xs)
            correct += int((logits.argmax(dim=1) == ys).sum())
            loss += functional.cross_entropy(logits.double(), ys, reduction="sum").item()
    keep(_modules, key, module, limit=MODULES_KEPT)
    return Evaluation(accuracy=correct / len(y), loss=loss / len(y), samples=len(y))
