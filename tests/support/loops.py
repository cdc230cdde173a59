"""The training loop and the evaluation on a module alone, as tests call them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from client_fn.training import diagnosis, loop
from client_fn.training.context import Context
from client_fn.training.evaluate import Evaluation, evaluate
from client_fn.training.learner import Learner, make
from client_fn.training.orders import Build, Model, Training
from client_fn.training.orders import Evaluation as Settings
from client_fn.training.randomness import seeded

Samples = tuple[Tensor, Tensor]


def _said(before_batch: Callable[[], None] | None) -> Callable[[str], None] | None:
    return None if before_batch is None else lambda _: before_batch()


class With(Learner):
    """A learner with an optimizer that is there already."""

    def __init__(self, optimizer: Optimizer | None) -> None:
        self._optimizer = optimizer

    def optimizer(self, model: Any) -> Optimizer:
        return self._optimizer or super().optimizer(model)


def learner_with(optimizer: Optimizer | None, training: Training, metrics: tuple[str, ...] = ()) -> Learner:
    """Return a learner of a job's settings."""
    learner = With(optimizer)
    learner._job = make(Build(Model(), 0, training=training, evaluation=Settings(metrics=metrics)))._job
    return learner


def train(
    module: nn.Module,
    optimizer: Optimizer | None,
    data: Any,
    *,
    batch_size: int = 4,
    epochs: int = 1,
    seed: int = 1,
    before_batch: Callable[[], None] | None = None,
    **training: Any,
) -> dict[str, float]:
    """Train a module on the CPU, or where it is, with the default loop."""
    settings = Training(batch_size=batch_size, local_epochs=epochs, **training)
    learner = learner_with(optimizer, settings)
    device = str(next(module.parameters()).device)
    context = Context(learner, module, settings, seed=seed, device=device, say=_said(before_batch))
    with seeded(seed, context.device), diagnosis.explaining(learner, module, data, context):
        return loop.train(learner, module, data, context)


def measure(
    module: nn.Module,
    data: Any,
    *,
    batch_size: int = 100,
    before_batch: Callable[[], None] | None = None,
    metrics: tuple[str, ...] = (),
    **training: Any,
) -> Evaluation:
    """Evaluate a module with the default evaluation."""
    settings = Training(batch_size=batch_size, order="sequential", **training)
    learner = learner_with(None, settings, metrics)
    return evaluate(learner, module, data, Context(learner, module, settings, say=_said(before_batch)))
