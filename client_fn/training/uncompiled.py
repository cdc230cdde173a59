"""Lets torch's optimizers work without torch's compiler, whose import takes two seconds and 70 MB.

The first step of an optimizer imports `torch._dynamo`, to tell it what it must not compile (`torch/_compile.py`,
`torch/optim/optimizer.py`). While nothing else has imported it, nothing is compiled, so nobody needs to be told.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

_COMPILER = "torch._dynamo"
_KNOWN = "__dynamo_disable"
"""Where `torch._disable_dynamo` keeps the function that it calls: one that is there already needs no import."""


def prepare() -> None:
    """Let optimizers step without the compiler until the user's code compiles. If this torch can't, import it now."""
    for method in vars(Optimizer).values():
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and not hasattr(inner, _KNOWN):
            setattr(inner, _KNOWN, _method(inner, method))
    for class_ in list(vars(torch.optim).values()):
        step = vars(class_).get("step") if isinstance(class_, type) and issubclass(class_, Optimizer) else None
        if step is not None and step.__code__.co_name == "_use_grad":
            class_.step = _step(step)
    _step_once()


def _method(inner: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what `torch._disable_dynamo` shall call: the function itself, or what torch makes of it to compile."""

    @functools.wraps(inner)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _COMPILER not in sys.modules:
            return inner(*args, **kwargs)
        if getattr(inner, _KNOWN, None) is call:
            delattr(inner, _KNOWN)
        return method(*args, **kwargs)

    return call


def _step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return an optimizer's `step`, which does what torch's does, except for the marks for the compiler."""
    inner = step.__wrapped__  # type: ignore[attr-defined]

    @functools.wraps(step)
    def call(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if _COMPILER in sys.modules:
            return step(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return inner(self, *args, **kwargs)

    return call


def _step_once() -> None:
    """Make a step, so that what it imports is imported before any copy of this process is made."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    optimizer.step()
    optimizer.zero_grad()
