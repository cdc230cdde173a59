"""The losses that a job can name. Each takes a model's outputs and the targets of a batch, and returns their mean."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import names

Loss = Callable[[Any, Any], Tensor]
"""Called with outputs and targets; returns a scalar."""

_LABEL: Final = "training.loss"


class Spec(Protocol):
    """How to train: a job's training section, or an order's."""

    @property
    def loss(self) -> str:
        """`cross_entropy`, `bce_with_logits`, `mse`, `l1`, `huber`, or `package.module:function`."""

    @property
    def loss_args(self) -> dict[str, Any]:
        """Further arguments."""


def make(training: Spec) -> Loss:
    """Return the job's loss.

    Args:
        training: the job's training section.

    Raises:
        BadModel: there is no such loss, it can't be imported, or it has no such arguments.
    """
    if ":" in training.loss:
        return _of_the_user(training.loss, training.loss_args)
    if training.loss not in LOSSES:
        raise names.unknown(_LABEL, training.loss, [*LOSSES, "package.module:function"])
    return LOSSES[training.loss](**_checked(training.loss, training.loss_args))


def of_each(training: Spec) -> Loss:
    """Return a loss that is not the user's as a function that returns the loss of each sample, (N,).

    A batch's loss is their mean, unless `cross_entropy` has weights for the classes or leaves labels out.

    Args:
        training: the job's training section.

    Raises:
        BadModel: there is no such loss, or it has no such arguments.
    """
    loss = make(training)

    def of_each(outputs: Tensor, targets: Tensor) -> Tensor:
        losses: Tensor = loss(outputs, targets, reduction="none")  # type: ignore[call-arg]
        return losses.flatten(1).mean(1) if losses.dim() > 1 else losses

    return of_each


def find(path: str) -> Callable[..., Any]:
    """Return a loss of the user's. This imports the user's module.

    Args:
        path: `package.module:function`.

    Raises:
        BadModel: it can't be imported, is not there, or is no function of that package.
    """
    function, is_of_package = names.find(path, f"{_LABEL} {path!r}")
    if not (is_of_package and inspect.isfunction(function)):
        raise BadModel(f"{_LABEL} {path!r} is no function of that package")
    return function


def cross_entropy(*, weight: list[float] | None = None, label_smoothing: float = 0.0) -> Loss:
    """Return the cross-entropy of logits (N, classes, ...) and labels (N, ...) from 0, computed in float32 or float64.

    Targets of the outputs' shape are shares of the classes.

    Args:
        weight: one number for each class.
        label_smoothing: 0 to 1.
    """
    weights = _numbers("weight", weight)
    if not 0 <= label_smoothing <= 1:
        raise BadModel(f"training.loss_args.label_smoothing is {label_smoothing}: expected 0 to 1")

    def loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        labels, weight = _labels(outputs, targets), _like(weights, outputs)
        return functional.cross_entropy(
            outputs, labels, weight=weight, label_smoothing=label_smoothing, reduction=reduction
        )

    return loss


def bce_with_logits(*, pos_weight: list[float] | float | None = None) -> Loss:
    """Return the binary cross-entropy of logits and targets 0 to 1 of the same shape.

    Args:
        pos_weight: weight of the positive answers, one number for each label.
    """
    weights = _numbers("pos_weight", pos_weight)
    placed: dict[tuple[torch.device, torch.dtype], Tensor | None] = {}

    def loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        # A copy to a GPU waits for it, so there is one, and not one for each step.
        key = (outputs.device, outputs.dtype)
        weight = placed[key] if key in placed else placed.setdefault(key, _like(weights, outputs))
        targets = like_outputs(outputs, targets)
        return functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight, reduction=reduction)

    return loss


def mse() -> Loss:
    """Return the mean squared error."""
    return _compared(functional.mse_loss)


def l1() -> Loss:
    """Return the mean absolute error."""
    return _compared(functional.l1_loss)


def huber(*, delta: float = 1.0) -> Loss:
    """Return Huber's loss: the squared error up to `delta`, and the absolute one beyond it."""
    if delta <= 0:
        raise BadModel(f"training.loss_args.delta is {delta}: expected a number above 0")
    return _compared(partial(functional.huber_loss, delta=delta))


LOSSES: Final[dict[str, Callable[..., Loss]]] = {
    "cross_entropy": cross_entropy,
    "bce_with_logits": bce_with_logits,
    "mse": mse,
    "l1": l1,
    "huber": huber,
}


def like_outputs(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in the outputs' dtype and shape: (N,) and (N, 1) are taken for each other.

    Args:
        outputs: of any shape.
        targets: numbers.

    Raises:
        TrainingFailed: the shapes differ otherwise. torch would repeat the smaller one.
    """
    if outputs.shape != targets.shape:
        if _without_column(outputs) != _without_column(targets):
            shapes = f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
            raise TrainingFailed(f"{shapes} do not fit: this loss compares number with number")
        targets = targets.reshape(outputs.shape)
    return targets.to(outputs.dtype)


def _compared(loss: Callable[..., Tensor]) -> Loss:
    """Return a loss that compares number with number."""

    def compared(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return loss(outputs, like_outputs(outputs, targets), reduction=reduction)

    return compared


def _without_column(values: Tensor) -> tuple[int, ...]:
    """Return the shape without a last side of 1 after the samples' side."""
    return tuple(values.shape[:-1] if values.dim() > 1 and values.shape[-1] == 1 else values.shape)


def _labels(outputs: Tensor, targets: Tensor) -> Tensor:
    if not targets.is_floating_point():
        return targets.squeeze(1).long() if _is_column(outputs, targets) else targets.long()
    if targets.shape != outputs.shape:
        raise TrainingFailed(
            f"the targets are {targets.dtype} of shape {tuple(targets.shape)}{_range(targets)}; cross_entropy needs "
            "whole numbers from 0: store labels as int64, or set training.loss to 'mse' to predict numbers, or to "
            "'bce_with_logits' for yes or no"
        )
    return targets.to(outputs.dtype)


def _range(targets: Tensor) -> str:
    return f" from {float(targets.min()):g} to {float(targets.max()):g}" if targets.numel() else ""


def _is_column(outputs: Tensor, targets: Tensor) -> bool:
    """Whether the labels have shape (N, 1) for logits of shape (N, classes)."""
    return outputs.dim() == 2 and targets.dim() == 2 and targets.shape[1] == 1  # noqa: PLR2004 (a matrix)


def _checked(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    if not args:
        return {}
    known = inspect.signature(LOSSES[name]).parameters
    if extra := [arg for arg in args if arg not in known]:
        has = f"has {', '.join(known)}" if known else "has no arguments"
        raise BadModel(f"training.loss_args.{extra[0]}: no such argument; {name} {has}")
    return dict(args)


def _numbers(name: str, value: Any) -> Tensor | None:
    if value is None:
        return None
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as exc:
        raise BadModel(f"training.loss_args.{name}: expected numbers, for example [1.0, 5.0]") from exc


def _like(weights: Tensor | None, outputs: Tensor) -> Tensor | None:
    return None if weights is None else weights.to(outputs.device, outputs.dtype)


def _of_the_user(path: str, args: dict[str, Any]) -> Loss:
    function = find(path)
    try:
        inspect.signature(function).bind(None, None, **args)
    except TypeError as exc:
        called = f"it is called as {function.__name__}(outputs, targets, **training.loss_args)"
        raise BadModel(f"{_LABEL} {path!r}: {called}, and has {names.signature(function)}") from exc
    return lambda outputs, targets: function(outputs, targets, **args)
