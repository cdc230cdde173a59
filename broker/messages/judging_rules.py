"""The rules of a job about who judges its models, by which metrics, and what follows from that."""

import math
from collections.abc import Callable
from typing import Final

from broker.messages import metrics
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.learning_rules import guess, is_path

CLIENTS_RULE = "a share of the registered clients, above 0 and up to 1, or a whole number from 2"
JUDGE = "nobody judges the model: set evaluation.data to a test set, or evaluation.holdout to a share such as 0.2"
NAME = "a metric's name, such as 'auroc'"


def _check_metrics(job: Job) -> None:
    evaluation = job.evaluation
    for name in evaluation.metrics:
        if not (metrics.NAME.fullmatch(name) or is_path(name)):
            raise JobError("evaluation.metrics", name, f"{NAME}, or a class of yours as 'package.module:Class'")


def _check_directions(job: Job) -> None:
    evaluation = job.evaluation
    for name in evaluation.directions:
        if not metrics.NAME.fullmatch(name):
            raise JobError("evaluation.directions", name, NAME)


def _check_data(job: Job) -> None:
    evaluation = job.evaluation
    if evaluation.data and not evaluation.every:
        raise JobError("evaluation.data", evaluation.data, "needs evaluation.every of at least 1")


def _check_clients(job: Job) -> None:
    clients, holdout = job.evaluation.clients, job.evaluation.holdout
    if clients > 1 and (not math.isfinite(clients) or clients != int(clients)):
        raise JobError("evaluation.clients", clients, f"expected {CLIENTS_RULE}")
    if clients and not holdout:
        raise JobError("evaluation.clients", clients, "needs evaluation.holdout: what clients judge the model with")


def _check_best(job: Job) -> None:
    if job.evaluation.best:
        _check_metric("evaluation.best", job.evaluation.best, job)


def _check_stop(job: Job) -> None:
    stop = job.stop
    if stop.target_accuracy is not None:
        if not job.evaluation.every and not job.is_judged_by_clients:
            raise JobError("stop.target_accuracy", stop.target_accuracy, "needs evaluation.every of at least 1")
        _check_judge("stop.target_accuracy", stop.target_accuracy, job)
    is_watching = stop.target is not None or stop.patience > 0
    if stop.metric and not is_watching:
        raise JobError("stop.metric", stop.metric, "needs stop.target or stop.patience, which look at it")
    if stop.metric:
        _check_metric("stop.metric", stop.metric, job)
    elif is_watching:
        field, value = ("stop.patience", stop.patience) if stop.target is None else ("stop.target", stop.target)
        _check_judge(field, value, job)


def _check_metric(field: str, name: str, job: Job) -> None:
    """Check that a metric can be compared, is measured, and that somebody measures it."""
    if not metrics.NAME.fullmatch(name):
        raise JobError(field, name, NAME)
    if metrics.direction(name, job.evaluation.directions) is None:
        hint = guess(name, tuple(metrics.DIRECTIONS))
        remedy = f"which values are better? set evaluation.directions.{name} to 'max' or 'min'"
        raise JobError(field, name, hint + remedy)
    _check_judge(field, name, job)
    measured = ("loss", *metrics.measured_by(job))
    if name not in measured and not job.learner.type:
        allowed = f"is not measured: add it to evaluation.metrics; measured are {', '.join(measured)}"
        raise JobError(field, name, allowed)


def _check_judge(field: str, value: object, job: Job) -> None:
    if not job.test_data and not job.is_judged_by_clients:
        raise JobError(field, value, JUDGE)


RULES: Final[tuple[Callable[[Job], None], ...]] = (
    _check_metrics,
    _check_directions,
    _check_data,
    _check_clients,
    _check_best,
    _check_stop,
)
"""Functions that raise `JobError` if a job breaks a rule."""
