"""Says why clients can't train in one program, if they can't."""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from client_fn import strategies
from client_fn.strategies.base import ClientStrategy
from client_fn.strategies.fedprox import FedProx
from client_fn.strategies.qfedavg import QFedAvg
from client_fn.training import models
from client_fn.training.batches import TensorSamples
from client_fn.training.learner import Learner
from client_fn.training.orders import Train

DECLARED: Final = "trains_together"
"""A model's class or a learner's that has this attribute, and it is true, says that it can."""

_STRATEGIES: Final = frozenset({ClientStrategy, FedProx, QFedAvg})
"""Those that change nothing in the gradients, or each number of a gradient by itself."""

_OWN: Final = ("fit", "optimizer", "loss", "predict", "collate", "arrays", "load")
"""Methods of a learner that our program for several clients does not call."""

_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PARAMETER_HOOKS: Final = ("_backward_hooks", "_post_accumulate_grad_hooks")


def of_order(order: Train, learner: Learner) -> str:
    """Return why an order can't be done with others like it; empty: nothing speaks against it.

    Args:
        order: the order.
        learner: its learner.
    """
    training = order.training
    if training is None:
        return "there is nothing to train"
    if order.learner.type and not getattr(learner, DECLARED, False):
        return f"the learner does not say that it {DECLARED}"
    if own := [method for method in _OWN if learner._has_own(method)]:
        return f"the learner has its own {own[0]}()"
    if order.personal:
        return "the model has personal layers"
    if ":" in training.loss:
        return "the loss is the user's"
    if training.loss_args.get("weight") is not None:
        return "the loss has a weight for each class"
    if type(strategies.make(order.strategy)) not in _STRATEGIES:
        return f"the strategy is {order.strategy['name']}"
    others = {"scheduler": "", "clip_norm": None, "clip_value": None, "precision": "full", "compile": False}
    return next((f"training.{name} is set" for name, off in others.items() if getattr(training, name) != off), "")


def of_model(model: Any, order: Train) -> str:
    """Return why a model can't be trained for several clients at once; empty: nothing speaks against it.

    Args:
        model: the model.
        order: names its class.
    """
    if not isinstance(model, nn.Module):
        return f"the model is a {type(model).__name__}"
    if order.model.type not in models.BUILT_IN and not getattr(model, DECLARED, False):
        return f"the model does not say that it {DECLARED}"
    if next(model.buffers(), None) is not None:
        return "the model has buffers"
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if not dtypes <= {torch.float32} and not dtypes <= {torch.float64}:
        return f"the parameters are {', '.join(sorted(map(str, dtypes)))}"
    if any(getattr(parameter, hooks, None) for parameter in model.parameters() for hooks in _PARAMETER_HOOKS):
        return "a parameter has hooks"
    return next((reason for part in model.modules() for reason in _of_part(part)), "")


def of_samples(data: list[Any]) -> str:
    """Return why samples of several clients can't be in one batch; empty: nothing speaks against it.

    Args:
        data: each client's, as `batches.of` returns them; there is at least one.
    """
    if not all(isinstance(samples, TensorSamples) for samples in data):
        return "the samples are no tensors"
    forms = {
        tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in samples.named.items()) for samples in data
    }
    if len(forms) > 1:
        return "the clients' samples have different shapes"
    names = [name for name, *_ in next(iter(forms))]
    return "" if len(names) > 1 and names == list(range(len(names))) else "the samples are no inputs and a target"


def _of_part(part: nn.Module) -> Iterator[str]:
    kind = type(part).__name__
    if isinstance(part, _NormBase):
        yield f"{kind} normalises over a batch, and batches are padded"
    if (isinstance(part, _DropoutNd) and part.p) or _number(part, "dropout"):
        yield f"{kind} drops at random"
    if any(getattr(part, hooks, None) for hooks in _HOOKS):
        yield f"{kind} has hooks"


def _number(part: nn.Module, name: str) -> float:
    value = getattr(part, name, 0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0
