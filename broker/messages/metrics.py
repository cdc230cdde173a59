"""The names of metrics, and which of their values are better."""

import re
from collections.abc import Mapping
from typing import Final

from broker.messages.job import Job
from broker.messages.job_sections import Direction

DIRECTIONS: Final[Mapping[str, Direction]] = {
    "accuracy": "max",
    "auroc": "max",
    "f1": "max",
    "iou": "max",
    "loss": "min",
    "mae": "min",
    "mse": "min",
    "perplexity": "min",
    "precision": "max",
    "r2": "max",
    "recall": "max",
    "rmse": "min",
}
"""Whether more (`max`) or less (`min`) of a metric is better. `top_<k>` is one more, with `max`."""

SUITABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "cross_entropy": ("accuracy",),
    "bce_with_logits": ("accuracy",),
    "mse": ("rmse",),
    "l1": ("mae",),
    "huber": ("mae",),
}
"""What is measured beside the loss if a job names no metrics, by its loss."""

NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")
"""The form of a metric's name."""

_TOP_K: Final = re.compile(r"top_[1-9][0-9]{0,3}")


def name_of(metric: str) -> str:
    """Return the name under which a metric is reported: of `package.module:Class`, the class in small letters."""
    return metric.rpartition(":")[2].lower() if ":" in metric else metric


def is_top_k(name: str) -> bool:
    """Whether a metric is `top_<k>`: how often the label is among the k largest outputs."""
    return _TOP_K.fullmatch(name) is not None


def measured_by(job: Job) -> tuple[str, ...]:
    """Return what a job measures beside the loss, as far as it says that itself: a learner may measure more."""
    if job.evaluation.metrics:
        return tuple(name_of(metric) for metric in job.evaluation.metrics)
    return () if job.learner.type else SUITABLE.get(job.training.loss, ())


def direction(name: str, own: Mapping[str, Direction]) -> Direction | None:
    """Return which values of a metric are better; None: nobody has said it.

    Args:
        name: the metric.
        own: directions that the job states.
    """
    return own.get(name) or ("max" if is_top_k(name) else DIRECTIONS.get(name))


def is_better(value: float, other: float | None, better: Direction) -> bool:
    """Whether a value is better than another one, or than none.

    Args:
        value: the value.
        other: the best one so far; None: there is none.
        better: the metric's direction.
    """
    if other is None:
        return True
    return value > other if better == "max" else value < other
