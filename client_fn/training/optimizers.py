"""The optimizers: those of the paper (section 4.2) in the fastest way, and any other class of `torch.optim`.

Milliseconds for 60 steps of batch 10 on one thread (torch 2.13, best of five runs for `nn`, of two for `cnn`):

                 fused  foreach  loop
    adam    nn      47       72    94
            cnn    356      467   496
    sgd     nn      36       35    34
            cnn    323      317   329
    nadam   nn       -       79    87
            cnn      -      446   524
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.optim import SGD, Adam, NAdam, Optimizer

from client_fn.errors import TrainingFailed
from client_fn.training import names

EPSILON: Final = 1e-8
HALF_EPSILON: Final = 1e-4
"""In float16, 1e-8 is 0, so a gradient of 0 would give an update of 0/0; so would any below 7e-3, whose square is 0."""

CLASSES: Final[dict[str, type[Optimizer]]] = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
}
"""The classes of `torch.optim` by their names in small letters."""


class Spec(Protocol):
    """How to train: a job's training section, or an order's."""

    @property
    def optimizer(self) -> str:
        """A class of `torch.optim`, in any case."""

    @property
    def optimizer_args(self) -> dict[str, Any]:
        """Further arguments of that class."""

    @property
    def rate(self) -> float | None:
        """The learning rate; None: the optimizer's default."""


def make(training: Spec, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return the job's optimizer over the parameters that are not frozen.

    Adam is torch's fused implementation if all parameters are floating-point.

    Args:
        training: the job's training section.
        parameters: of the module to train.

    Raises:
        TrainingFailed: there is no parameter to train.
        BadModel: torch has no such class, or the class has no such arguments.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise TrainingFailed("the model has no parameter to train: all are frozen, or there is none")
    return construct(find(training.optimizer), trained, training.rate, training.optimizer_args)


def find(name: str) -> type[Optimizer]:
    """Return the class of `torch.optim` that a job names.

    Args:
        name: the class, in any case.

    Raises:
        BadModel: torch has no such class.
    """
    if name.lower() not in CLASSES:
        raise names.unknown("training.optimizer", name, sorted(CLASSES))
    return CLASSES[name.lower()]


def construct(
    class_: type[Optimizer],
    parameters: list[nn.Parameter] | list[dict[str, Any]],
    rate: float | None,
    args: Mapping[str, Any],
) -> Optimizer:
    """Return an optimizer of a class of `torch.optim`.

    Args:
        class_: the class.
        parameters: to train, or groups of them as torch's optimizers take them.
        rate: the learning rate; None: the paper's optimizers take 1e-3, and others the class's default.
        args: further arguments.

    Raises:
        BadModel: the class has no such arguments.
    """
    flat = [parameter for part in parameters for parameter in (part["params"] if isinstance(part, dict) else [part])]
    ours = _choices(class_, flat)
    chosen = {} if rate is None else {"lr": rate}
    is_grouped = "eps" in args or class_ not in {Adam, NAdam} or len(flat) != len(parameters)
    groups = parameters if is_grouped else _group_by_epsilon(flat)
    label = f"training.optimizer {class_.__name__!r}"
    optimizer: Optimizer = names.construct(
        lambda **given: class_(groups, **given), {**ours, **chosen, **args}, label, "training.optimizer_args", class_
    )
    return optimizer


def default_rate(class_: type[Optimizer]) -> float:
    """Return the learning rate that a class takes if it is given none."""
    return float(inspect.signature(class_).parameters["lr"].default)


def parameters_of(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    """Yield an optimizer's parameters in the order of its groups."""
    for group in optimizer.param_groups:
        yield from group["params"]


def _choices(class_: type[Optimizer], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """Return which of torch's implementations the paper's optimizers take, and their learning rate."""
    if class_ is Adam:
        return {"lr": 1e-3, "fused": all(parameter.is_floating_point() for parameter in parameters)}
    if class_ is SGD or class_ is NAdam:
        return {"lr": 1e-3, "foreach": True}
    return {}


def _group_by_epsilon(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    half = [parameter for parameter in parameters if parameter.dtype == torch.float16]
    rest = [parameter for parameter in parameters if parameter.dtype != torch.float16]
    groups = ({"params": rest, "eps": EPSILON}, {"params": half, "eps": HALF_EPSILON})
    return [group for group in groups if group["params"]]
