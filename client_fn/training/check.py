"""Checks, before a job's first round, that all that it names is there and takes its arguments."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from client_fn.errors import BadModel
from client_fn.training import diagnosis, metrics, schedulers
from client_fn.training.learner import Learner
from client_fn.training.orders import Build
from client_fn.training.torchmetrics_meters import Wrapped, prepare

_STEPS = 100
"""Stands for the number of steps, which depends on a client's data."""


def settings(learner: Learner, model: Any, order: Build) -> None:
    """Construct what the job names beside the model, so that a mistake fails the job and no client.

    Args:
        learner: the job's; its loss is made already.
        model: with its initial weights.
        order: the order.

    Raises:
        UserCodeFailed: something can't be imported or constructed.
    """
    if isinstance(model, nn.Module):
        _optimizer(learner, model, order)
    with diagnosis.calling("metrics()"):
        named = learner.metrics()
    if not isinstance(named, Mapping):
        raise BadModel(f"the learner's metrics() returns a {type(named).__name__}: return a dict of metrics by name")
    prepare(tuple(metric for metric in named.values() if isinstance(metric, str)))
    for name, metric in named.items():
        meter = metrics.make(metric)
        metrics.checked_name(name)
        if order.evaluation.holdout and isinstance(meter, Wrapped) and not meter.adds_up:
            raise BadModel(
                f"metric {name!r} keeps more than sums, so clients can't measure it together: "
                "without evaluation.holdout the server measures it, on evaluation.data"
            )


def _optimizer(learner: Learner, model: nn.Module, order: Build) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return
    with diagnosis.calling("optimizer()"):
        optimizer = learner.optimizer(model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadModel(f"the learner's optimizer() returns a {type(optimizer).__name__}, and no Optimizer")
    schedulers.make(order.training, optimizer, _STEPS)
