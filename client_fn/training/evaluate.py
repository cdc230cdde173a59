"""Evaluates a model with a learner's metrics."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import batches, diagnosis, metrics
from client_fn.training.metrics import Meter, Ratio
from client_fn.training.randomness import seeded

if TYPE_CHECKING:
    from client_fn.training.context import Context
    from client_fn.training.learner import Learner

LOSS = "loss"


class Evaluation(NamedTuple):
    """The quality of a model on a set of samples.

    Attributes:
        samples: number of samples.
        metrics: values by name; those that these samples can't have are left out.
        sums: states by `<metric>.<state>`, which add up over clients.
    """

    samples: int
    metrics: dict[str, float]
    sums: dict[str, Tensor]


def evaluate(learner: "Learner", model: Any, data: Any, context: "Context") -> Evaluation:
    """Evaluate a model. What it draws at random comes from the same seed each time.

    Args:
        learner: says what is measured.
        model: the model.
        data: what the learner's `data` has returned.
        context: draws the batches.

    Raises:
        TrainingFailed: model and samples do not fit, or there are no samples.
        BadModel: the learner returns something that is no metric.
    """
    with seeded(0, context.device), diagnosis.explaining(learner, model, data, context):
        values = learner.evaluate(model, data, context)
    samples = batches.count(batches.of(data, learner.collate)) or context.seen
    meters = {metrics.checked_name(name): _as_meter(name, value, samples) for name, value in values.items()}
    return Evaluation(samples, _scores(meters), sums_of(meters))


def measure(learner: "Learner", model: Any, data: Any, context: "Context") -> dict[str, Meter]:
    """Measure the loss and the learner's metrics; the default of `Learner.evaluate`.

    Args:
        learner: predicts, and says what is measured.
        model: a torch module.
        data: what the learner's `data` has returned.
        context: draws the batches.
    """
    if not isinstance(model, nn.Module):
        raise TrainingFailed(
            f"the learner's model is a {type(model).__name__}: give the learner an evaluate() of its own"
        )
    meters = {name: metrics.make(metric) for name, metric in learner.metrics().items()}
    loss = Ratio()
    model.eval()
    with torch.no_grad():
        for batch in context.batches(data):
            mean, predicted = _measured(learner, model, batch, has_meters=bool(meters))
            size = batches.size(batch)
            loss.add(mean.double() * size, size)
            for meter in meters.values():
                meter.update(*predicted)
    return {LOSS: loss, **meters}


def score(learner: "Learner", sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute metrics once, from the sums over several evaluations.

    Args:
        learner: says what was measured.
        sums: states by `<metric>.<state>`.

    Raises:
        BadModel: a metric is not among those that the learner names.
    """
    named = learner.metrics()
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in sums.items():
        name, _, state = key.rpartition(".")
        states.setdefault(name, {})[state] = value
    meters: dict[str, Meter] = {}
    for name, parts in states.items():
        if name not in named and parts.keys() != {"sum", "count"}:
            raise BadModel(f"metric {name!r}: evaluate() returns it, so metrics() must return it too")
        meters[name] = metrics.make(named[name]) if name in named else Ratio()
        meters[name].load(parts)
    return _scores(meters)


def sums_of(meters: Mapping[str, Meter]) -> dict[str, Tensor]:
    """Return the states of meters by `<metric>.<state>`.

    Args:
        meters: by the metrics' names.
    """
    return {f"{name}.{state}": value for name, meter in meters.items() for state, value in meter.states().items()}


def _measured(learner: "Learner", model: nn.Module, batch: Any, *, has_meters: bool) -> tuple[Tensor, tuple[Any, Any]]:
    """Return the mean loss of a batch, and outputs and targets; floats in float64."""
    if learner._has_own("loss"):
        loss = learner.loss(model, batch)
        return loss, _precise(*learner.predict(model, batch)) if has_meters else (None, None)
    outputs, targets = learner.predict(model, batch)
    precise = _precise(outputs, targets)
    # A loss of the user's need not take outputs of another dtype than its targets.
    is_ours = ":" not in learner._job.training.loss
    return learner._job.loss(*(precise if is_ours else (outputs, targets))), precise


def _precise(outputs: Any, targets: Any) -> tuple[Any, Any]:
    is_float = isinstance(outputs, Tensor) and outputs.is_floating_point()
    return outputs.double() if is_float else outputs, targets


def _scores(meters: Mapping[str, Meter]) -> dict[str, float]:
    scores = {name: meter.score() for name, meter in meters.items()}
    return {name: value for name, value in scores.items() if value is not None}


def _as_meter(name: str, value: Any, samples: int) -> Meter:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, (int, float)) or (hasattr(value, "__float__") and not isinstance(value, str)):
        mean = Ratio()
        mean.add(float(value) * samples, samples)
        return mean
    try:
        return metrics.make(value)
    except BadModel as exc:
        raise BadModel(f"evaluate() returns {json.dumps(name)} as a {type(value).__name__}: {exc.sentence}") from exc
