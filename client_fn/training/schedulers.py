"""Learning rates that change within a round: any class of `torch.optim.lr_scheduler` that needs nothing but numbers."""

import inspect
from typing import Any, Final, Protocol

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from client_fn.training import installed, names

CLASSES: Final[dict[str, type[LRScheduler]]] = {
    name.lower(): value
    for name, value in vars(lr_scheduler).items()
    if isinstance(value, type) and issubclass(value, LRScheduler) and name not in installed.NEED_OBJECTS
}
"""The classes by their names in small letters."""

_STEPS: Final = ("T_max", "total_steps", "total_iters")
"""Arguments that are the round's number of steps by default."""


class Spec(Protocol):
    """How to train: a job's training section, or an order's."""

    @property
    def scheduler(self) -> str:
        """A class of `torch.optim.lr_scheduler`, in any case; empty: none."""

    @property
    def scheduler_args(self) -> dict[str, Any]:
        """Its arguments."""


def make(training: Spec, optimizer: Optimizer, steps: int | None) -> LRScheduler | None:
    """Return the job's scheduler, or None if it has none.

    Args:
        training: the job's training section.
        optimizer: whose learning rate changes.
        steps: optimizer steps in this round; None: not known.

    Raises:
        BadModel: torch has no such class, or the class has no such arguments.
    """
    if not training.scheduler:
        return None
    class_ = CLASSES.get(training.scheduler.lower())
    if class_ is None:
        raise names.unknown("training.scheduler", training.scheduler, sorted(CLASSES))
    parameters = inspect.signature(class_).parameters
    ours = {} if steps is None else {name: steps for name in _STEPS if name in parameters}
    args = {**ours, **training.scheduler_args}
    label = f"training.scheduler {class_.__name__!r}"
    scheduler: LRScheduler = names.construct(
        lambda **given: class_(optimizer, **given), args, label, "training.scheduler_args", class_
    )
    return scheduler
