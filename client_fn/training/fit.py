"""Trains a module with the job's optimizer and strategy, from the client's states and to its next ones."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import nn

from client_fn import strategies
from client_fn.strategies import steps
from client_fn.strategies.base import Tensors
from client_fn.training import loop, optimizers, tensors
from client_fn.training.loop import Samples
from client_fn.training.orders import ALONG, OPTIMIZER, STATE, Train, Training


class Fitted(NamedTuple):
    """What a training has brought, beside the trained module.

    Attributes:
        metrics: numbers about the training.
        aux: the strategy's tensors for the server.
        files: the client's states as safetensors files, by the files' names.
    """

    metrics: dict[str, float]
    aux: Tensors
    files: dict[str, bytes]


def fit(
    order: Train,
    training: Training,
    module: nn.Module,
    samples: Samples,
    inputs: Mapping[str, bytes],
    *,
    before_batch: Callable[[], None],
) -> Fitted:
    """Train a module in place.

    Args:
        order: the order.
        training: how to train.
        module: with the round's weights.
        samples: the client's.
        inputs: the order's files. Those with the client's states and the strategy's tensors may be missing.
        before_batch: called before each step; an error that it raises ends the training.

    Raises:
        TrainingFailed: the samples, a state or the strategy does not fit.
    """
    optimizer = optimizers.make(training, module.parameters())
    if OPTIMIZER in inputs:
        optimizers.load_state(optimizer, inputs[OPTIMIZER])
    strategy = strategies.make(order.strategy)
    strategy.start(module, _states(inputs), tensors.from_bytes(inputs[ALONG]) if ALONG in inputs else {})
    with steps.correcting(module, strategy):
        metrics = loop.train(
            module,
            optimizer,
            samples,
            batch_size=training.batch_size,
            epochs=training.local_epochs,
            seed=order.seed,
            before_batch=before_batch,
        )
    outcome = strategy.finish(module)
    files = {f"{STATE}{name}": tensors.to_bytes(state) for name, state in outcome.states.items()}
    state = optimizers.state_to_bytes(optimizer) if training.optimizer_state == "carry" else None
    return Fitted(metrics, outcome.aux, files if state is None else {**files, OPTIMIZER: state})


def _states(inputs: Mapping[str, bytes]) -> dict[str, Tensors]:
    """Return the strategy's states of the client by name."""
    return {
        name.removeprefix(STATE): tensors.from_bytes(content)
        for name, content in inputs.items()
        if name.startswith(STATE) and name != OPTIMIZER
    }
