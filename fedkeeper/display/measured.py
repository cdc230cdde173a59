"""What a job measures, for people: which metrics come first, and their values as text."""

from collections.abc import Iterable, Mapping
from typing import Final

from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.metrics import measured_by
from broker.messages.progress import ModelEvaluated

SHOWN: Final = 2
"""So many metrics are shown beside the loss."""

_LARGE: Final = 10_000
"""Values from here on are shown with an exponent."""

FRESH_OPTIMIZER: Final = "fresh_optimizer"
"""Metric of an update whose training made an optimizer of its own, although the job carries the optimizer's state."""

TOGETHER: Final = "together"
"""Metric of an update whose client was trained in one program with others: how many they were."""

_COUNTS: Final = ("steps", "first_epoch_loss", FRESH_OPTIMIZER, TOGETHER)
"""Metrics of an update that say how the training went, not how good the model is."""


def metrics_of(event: ModelEvaluated) -> dict[str, float]:
    """Return what an evaluation has measured; servers of version 0.1 tell accuracy and loss alone."""
    pair = {"accuracy": event.accuracy, "loss": event.loss}
    return {name: value for name, value in pair.items() if value is not None} | event.metrics


def names(job: Job | None, measured: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics to show beside the loss: those that decide, then those that the job lists, then the others.

    Args:
        job: the job; None: not known.
        measured: names of what was measured so far.
    """
    wanted: list[str] = []
    if job is not None:
        wanted = [job.evaluation.best, job.stop.metric, *measured_by(job)]
    return tuple(name for name in dict.fromkeys([*wanted, *measured]) if name and name != "loss")[:SHOWN]


def describe(metrics: Mapping[str, float], first: Iterable[str] = ()) -> str:
    """Return metrics as text, such as `accuracy 0.9611, loss 0.1204`.

    Args:
        metrics: values by name.
        first: names that come first; the loss follows, then the others.
    """
    order = dict.fromkeys((*first, "loss", *metrics))
    return ", ".join(f"{name} {format_value(metrics[name])}" for name in order if name in metrics)


def format_value(value: float | None) -> str:
    """Return a metric's value as text; None means that it was not finite."""
    if value is None:
        return "not finite"
    return f"{value:.4f}" if abs(value) < _LARGE else f"{value:.4g}"


def format_loss(event: ModelEvaluated) -> str:
    """Return the loss of an evaluation as text; empty if it was not measured."""
    loss = metrics_of(event).get("loss")
    # Whoever measures the accuracy measures the loss, which JSON can't express if it is not finite.
    return "" if loss is None and event.accuracy is None else format_value(loss)


def training(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """Return the name and value of what the clients' training tells of a model; None: it tells nothing.

    Args:
        metrics: mean of the clients' metrics of a round.
    """
    named = "loss" if "loss" in metrics else next((name for name in metrics if name not in _COUNTS), None)
    return None if named is None else (named, metrics[named])


def result(record: JobRecord) -> str:
    """Return what the evaluations of a job have found, in words; empty if there were none, or for want of a judge."""
    job, metrics = record.job, dict(record.metrics)
    if record.accuracy is not None:
        metrics.setdefault("accuracy", record.accuracy)
    if not metrics:
        return ""
    text = ("test " if job.test_data else "held-out ") + describe(metrics, names(job, metrics))
    if record.best is not None:
        text += f"; best {record.best.metric} {format_value(record.best.value)} in round {record.best.round}"
    return text


def headline(record: JobRecord) -> str:
    """Return the metric that a list of jobs shows, such as `accuracy 0.9611`; empty: nothing was measured."""
    metrics = dict(record.metrics) or ({} if record.accuracy is None else {"accuracy": record.accuracy})
    first = (*names(record.job, ()), "loss", *metrics)
    name = next((name for name in first if name in metrics), None)
    return "" if name is None else f"{name} {format_value(metrics[name])}"
