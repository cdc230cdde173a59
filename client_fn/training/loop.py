"""The default training loop."""

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from client_fn.errors import TrainingFailed
from client_fn.training import batches, diagnosis, optimizers, schedulers
from client_fn.training.batches import Batch

if TYPE_CHECKING:
    from client_fn.training.context import Context
    from client_fn.training.learner import Learner

_DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def train(learner: "Learner", model: Any, data: Any, context: "Context") -> dict[str, float]:
    """Train a module in place. On one kind of processor, the same seed gives the same bits.

    The training runs on the device that holds the parameters; on a GPU, torch does not promise the same bits. If the
    module has batch normalisation, a last batch of one sample is skipped, because one sample has no variance to
    normalise by.

    Args:
        learner: computes the loss, and makes the optimizer.
        model: a torch module.
        data: what the learner's `data` has returned.
        context: the round's facts; draws the batches.

    Returns:
        `loss`, the mean over the last epoch's samples; `first_epoch_loss`; `steps` of the optimizer.

    Raises:
        TrainingFailed: module and samples do not fit, there are no samples, or the loss is no longer finite.
    """
    if not isinstance(model, nn.Module):
        raise TrainingFailed(f"the learner's model is a {type(model).__name__}: give the learner a fit() of its own")
    samples = batches.of(data, learner.collate)
    optimizer = context.optimizer(model)
    step = _Step(learner, model, optimizer, context)
    scheduler = schedulers.make(context.training, optimizer, context.steps(samples))
    losses: list[float] = []
    steps = 0
    model.train()
    for epoch in range(1, context.epochs + 1):
        total = torch.zeros((), device=context.device)
        for batch in context.batches(samples):
            total += step(batch).detach() * context.size
            steps += 1
            if scheduler is not None:
                scheduler.step()
        # Read the number once per epoch, not per step: on a GPU each read waits for the device.
        losses.append(total.item() / context.seen)
        if not math.isfinite(losses[-1]):
            raise diagnosis.not_finite(losses[-1], epoch, samples, context)
    return {"loss": losses[-1], "first_epoch_loss": losses[0], "steps": float(steps)}


class _Step:
    """One step of an optimizer on a batch, with the job's precision and clipping."""

    def __init__(self, learner: "Learner", model: nn.Module, optimizer: Optimizer, context: "Context") -> None:
        training, kind = context.training, context.device.type
        self._learner = learner
        self._model = model
        self._optimizer = optimizer
        self._clip_norm = training.clip_norm
        self._clip_value = training.clip_value
        is_mixed = training.precision in _DTYPES and torch.amp.is_autocast_available(kind)
        self._precision: Callable[[], contextlib.AbstractContextManager[Any]] = (
            (lambda: torch.autocast(kind, _DTYPES[training.precision])) if is_mixed else contextlib.nullcontext
        )
        # Small gradients are zero in float16.
        is_scaled = is_mixed and training.precision == "float16" and kind == "cuda"
        self._scaler = torch.amp.GradScaler(kind) if is_scaled else None
        self._has_torchs_zero_grad = type(optimizer).zero_grad is Optimizer.zero_grad
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is inspect.Parameter.empty
        if self._needs_closure and self._scaler is not None:
            name = type(optimizer).__name__
            raise TrainingFailed(f"{name} computes gradients several times in a step: use another training.precision")

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss before the step."""
        if self._needs_closure:
            first = self._optimizer.step(lambda: self._backward(batch))  # type: ignore[arg-type, return-value]
            return torch.as_tensor(first)
        loss = self._backward(batch)
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        return loss

    def _backward(self, batch: Batch) -> Tensor:
        with self._precision():
            loss: Tensor = self._learner.loss(self._model, batch)
        if not (isinstance(loss, Tensor) and loss.numel() == 1):
            has = f"has shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"is a {type(loss).__name__}"
            raise TrainingFailed(f"the loss {has}: return a tensor of one number, the mean over the batch")
        self._forget_gradients()
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        if self._clip_norm is not None or self._clip_value is not None:
            self._clip()
        return loss

    def _forget_gradients(self) -> None:
        if not self._has_torchs_zero_grad:
            self._optimizer.zero_grad(set_to_none=True)
            return
        # The same, without an entry for torch's profiler: that takes longer than all else of it.
        for parameter in optimizers.parameters_of(self._optimizer):
            parameter.grad = None

    def _clip(self) -> None:
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        parameters = list(optimizers.parameters_of(self._optimizer))
        if self._clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self._clip_value)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self._clip_norm)
