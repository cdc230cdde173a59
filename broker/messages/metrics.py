"""The names of metrics, and which of their values are better."""

import re
from collections.abc import Mapping
from typing import Final

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

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""The form of a metric's name."""

_TOP_K: Final = re.compile(r"top_[1-9][0-9]{0,3}")


def is_known(name: str) -> bool:
    """Whether a metric can be named without a class of the user's."""
    return name in DIRECTIONS or _TOP_K.fullmatch(name) is not None


def direction(name: str, own: Mapping[str, Direction]) -> Direction | None:
    """Return which values of a metric are better; None: nobody has said it.

    Args:
        name: the metric.
        own: directions that the job states.
    """
    return own.get(name) or ("max" if _TOP_K.fullmatch(name) else DIRECTIONS.get(name))


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
