"""Puts a strategy between a training loop and its optimizers, whatever loop and optimizers these are."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from client_fn.errors import TrainingFailed
from client_fn.strategies.base import ClientStrategy

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@contextlib.contextmanager
def correcting(module: nn.Module, strategy: ClientStrategy) -> Iterator[None]:
    """Let a strategy correct the gradients in all optimizer steps of the block that train the module.

    Args:
        module: the module that is trained.
        strategy: the strategy; if it changes no gradients, nothing is done.

    Raises:
        TrainingFailed: the block ended, and there was no such step.
    """
    if not strategy.changes_gradients:
        yield
        return
    steps = _Steps(module, strategy)
    before = register_optimizer_step_pre_hook(steps.before)
    after = register_optimizer_step_post_hook(steps.after)
    try:
        yield
    finally:
        before.remove()
        after.remove()
    if not strategy.steps:
        raise TrainingFailed(
            f"strategy {strategy.parameters['name']!r} changes the gradients before each optimizer step, and the "
            "training made none: it must call step() of a torch.optim.Optimizer that holds the model's parameters"
        )


class _Steps:
    """Corrects the gradients before each step of an optimizer that holds parameters of the module."""

    def __init__(self, module: nn.Module, strategy: ClientStrategy) -> None:
        self._module = module
        self._strategy = strategy
        # An optimizer may call another one in its step (Lookahead, SAM): then the outer one's step is corrected.
        self._stepping: Optimizer | None = None
        self._held: dict[nn.Parameter, str] = {}

    def before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments | None:
        """Torch's hook before each step. It may return other arguments for the step."""
        if self._stepping is not None and self._stepping is not optimizer:
            return None
        self._stepping = None
        held = self._find(optimizer)
        # A gradient scaler lets a fused optimizer step, and itself skip a step whose gradients are not finite.
        overflow = getattr(optimizer, "found_inf", None)
        if not held or (overflow is not None and overflow.item()):
            return None
        self._strategy.check(optimizer)
        self._stepping, self._held = optimizer, held
        _, *rest = args
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            self._correct(optimizer)
            return None
        # The step will compute the gradients, perhaps several times (LBFGS).
        closure = self._corrected(optimizer, closure)
        return ((optimizer, closure, *rest[1:]), kwargs) if rest else (args, {**kwargs, "closure": closure})

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """Torch's hook after each step."""
        if self._stepping is optimizer:
            self._stepping = None
            self._count(optimizer)

    def _count(self, optimizer: Optimizer) -> None:
        """Count the step for each parameter that it has changed, and its learning rate."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in self._held and parameter.grad is not None:
                    self._strategy.steps[self._held[parameter]] += 1
                    self._strategy.rates[self._held[parameter]] += float(group.get("lr") or 0.0)

    def _corrected(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        def corrected() -> Any:
            loss = closure()
            self._held = self._find(optimizer)
            self._correct(optimizer)
            return loss

        return corrected

    @torch.no_grad()
    def _correct(self, optimizer: Optimizer) -> None:
        # A fused optimizer divides the gradients by the gradient scaler's factor itself.
        factor = getattr(optimizer, "grad_scale", None)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                grad = parameter.grad
                if parameter not in self._held or grad is None:
                    continue
                correction = self._strategy.correction(self._held[parameter], parameter)
                if factor is not None:
                    correction *= factor.to(correction.device)
                if group.get("maximize"):
                    correction.neg_()
                # An embedding's gradient may be sparse; the correction is not.
                parameter.grad = correction.add_(grad) if grad.is_sparse else grad.add_(correction)

    def _find(self, optimizer: Optimizer) -> dict[nn.Parameter, str]:
        """Return the optimizer's parameters that are the module's at present, with their names."""
        names = {parameter: name for name, parameter in self._module.named_parameters()}
        held = (parameter for group in optimizer.param_groups for parameter in group["params"])
        return {parameter: names[parameter] for parameter in held if parameter in names}
