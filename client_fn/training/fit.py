"""Trains a model with the learner and the job's strategy, from the client's states and to its next ones."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from torch import nn

from client_fn import strategies
from client_fn.errors import TrainingFailed
from client_fn.strategies import steps
from client_fn.strategies.base import ClientStrategy, Tensors
from client_fn.training import batches, diagnosis, tensors
from client_fn.training.context import Context
from client_fn.training.learner import Learner
from client_fn.training.orders import ALONG, OPTIMIZER, STATE, Train
from client_fn.training.packets import Content
from client_fn.training.randomness import seeded

FRESH_OPTIMIZER: Final = "fresh_optimizer"
"""A metric that is 1 if the job carries the optimizer's state, and this training could not."""

GLOBAL_LOSS: Final = "global_loss"
"""The metric that is the loss of the round's model on the client's samples."""

_OPTIMIZERS: Final = re.compile(rf"{re.escape(OPTIMIZER)}[0-9]*")


class Fitted(NamedTuple):
    """What a training has brought, beside the trained model.

    Attributes:
        metrics: numbers about the training.
        samples: number of samples that it has used.
        aux: the strategy's tensors for the server.
        files: the client's states as safetensors files, by the files' names.
    """

    metrics: dict[str, float]
    samples: int
    aux: Tensors
    files: dict[str, bytes]


def fit(
    learner: Learner,
    model: Any,
    data: Any,
    context: Context,
    *,
    order: Train,
    inputs: Mapping[str, Content],
    part: Any,
    measure_loss: Callable[[], float],
) -> Fitted:
    """Train a model in place.

    Args:
        learner: says how.
        model: with the round's weights.
        data: what the learner's `data` has returned.
        context: the round's facts.
        order: the order.
        inputs: its files. Those with the strategy's states and tensors may be missing.
        part: what the strategy may see of the model.
        measure_loss: returns the model's loss on the samples, for strategies that need it.

    Raises:
        TrainingFailed: the samples, a state or the strategy does not fit.
    """
    strategy = strategies.make(order.strategy)
    module = _module(part, strategy, learner)
    measured = {GLOBAL_LOSS: measure_loss()} if strategy.needs_loss else {}
    strategy.start(module, _states(inputs), tensors.from_bytes(inputs[ALONG]) if ALONG in inputs else {})
    with (
        steps.correcting(module, strategy),
        seeded(order.seed, context.device),
        diagnosis.explaining(learner, model, data, context),
    ):
        metrics = dict(learner.fit(model, data, context) or {})
    outcome = strategy.finish(module)
    files = {f"{STATE}{name}": tensors.to_bytes(state) for name, state in outcome.states.items()}
    optimizers, is_fresh = context.optimizer_files()
    if is_fresh and isinstance(model, nn.Module):
        metrics[FRESH_OPTIMIZER] = 1.0
    samples = _samples(metrics.pop("samples", None), learner, data, context)
    return Fitted(context.reported | metrics | measured, samples, outcome.aux, {**files, **optimizers})


def states_of_optimizers(inputs: Mapping[str, Content]) -> dict[str, Content]:
    """Return the files with optimizers' states.

    Args:
        inputs: an order's files.
    """
    return {name: content for name, content in inputs.items() if _OPTIMIZERS.fullmatch(name)}


def _states(inputs: Mapping[str, Content]) -> dict[str, Tensors]:
    """Return the strategy's states of the client by name."""
    return {
        name.removeprefix(STATE): tensors.from_bytes(content)
        for name, content in inputs.items()
        if name.startswith(STATE) and not _OPTIMIZERS.fullmatch(name)
    }


def _module(model: Any, strategy: ClientStrategy, learner: Learner) -> nn.Module:
    """Return the module that a strategy corrects: an empty one for a model of another kind."""
    name = strategy.parameters["name"]
    if isinstance(model, nn.Module):
        if strategy.names_tensors and (learner._has_own("arrays") or learner._has_own("load")):
            needs = "needs the tensors of the module under their own names"
            raise TrainingFailed(f"strategy {name!r} {needs}: remove the learner's arrays() and load()")
        return model
    if strategy.changes_gradients:
        kind = type(model).__name__
        raise TrainingFailed(f"strategy {name!r} changes gradients, and the learner's model is a {kind}")
    return nn.Module()


def _samples(told: Any, learner: Learner, data: Any, context: Context) -> int:
    """Return how many samples a training has used: as `fit` says, else all, else those of its last epoch."""
    found = told or batches.count(batches.of(data, learner.collate)) or context.seen
    if not found:
        raise TrainingFailed("it is not known how many samples were used: let fit() return their number as 'samples'")
    return int(found)
