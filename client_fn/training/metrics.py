"""Metrics. Each is a few states that add up over batches and over clients, and a score that is computed from the sums.

Counts are int64 and other states float64. So what several clients have measured is what one would have measured on all
their samples: an AUROC is never the mean of AUROCs.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from client_fn.errors import BadModel
from client_fn.training import losses, names, torchmetrics_meters
from client_fn.training.torchmetrics_meters import Named, Wrapped

SUITABLE: Final = {
    "cross_entropy": ("accuracy",),
    "bce_with_logits": ("accuracy",),
    "mse": ("rmse",),
    "l1": ("mae",),
    "huber": ("mae",),
}
"""What is measured if a job names no metrics, by its loss."""

_NAME: Final = re.compile("[a-z0-9_-]{1,64}")
_TOP: Final = re.compile("top_([1-9][0-9]{0,3})")
_IGNORED: Final = -100
"""The label that torch's cross-entropy leaves out."""


class Meter(Protocol):
    """A metric, while it is measured."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch.

        Args:
            outputs: the model's: logits, or predicted numbers.
            targets: what they should be.
        """

    def states(self) -> dict[str, Tensor]:
        """Return the states by name; none if they do not add up."""

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Put in states, or sums of them.

        Args:
            states: by name.
        """

    def score(self) -> float | None:
        """Return the metric's value; None: these samples can't have one."""


class Ratio:
    """A sum over the samples, divided by a count.

    Args:
        measure: returns sum and count of a batch's outputs and targets.
        finish: makes the value of the mean.
        total: name of the sum.
    """

    def __init__(
        self,
        measure: Callable[[Any, Any], tuple[Tensor, int | Tensor]] | None = None,
        finish: Callable[[float], float] = float,
        total: str = "sum",
    ) -> None:
        self._measure = measure
        self._finish = finish
        self._total = total
        dtype = torch.int64 if total == "correct" else torch.float64
        self._sum = torch.zeros((), dtype=dtype)
        self._count = torch.zeros((), dtype=torch.int64)

    def add(self, total: Any, count: int | Tensor) -> None:
        """Add to the sum.

        Args:
            total: a number, or a tensor of one.
            count: of how many samples it is the sum.
        """
        self._sum = self._sum + torch.as_tensor(total).to("cpu", self._sum.dtype)
        self._count = self._count + torch.as_tensor(count).to("cpu")

    def update(self, outputs: Any, targets: Any) -> None:
        """Implements `Meter.update`."""
        if self._measure is not None:
            self.add(*self._measure(outputs, targets))

    def states(self) -> dict[str, Tensor]:
        """Implements `Meter.states`."""
        return {self._total: self._sum, "count": self._count}

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Implements `Meter.load`."""
        self._sum, self._count = states[self._total], states["count"]

    def score(self) -> float | None:
        """Implements `Meter.score`."""
        if not int(self._count):
            return None
        try:
            return _finite(self._finish(self._sum.item() / int(self._count)))
        except OverflowError:
            return None


def make(metric: Any) -> Meter:
    """Return a meter.

    Args:
        metric: a name, `package.module:Class`, a `torchmetrics.Metric`, or a meter.

    Raises:
        BadModel: it is none of these, or can't be imported.
    """
    if isinstance(metric, str):
        return _by_name(metric)
    if isinstance(metric, (Ratio, Named, Wrapped)):
        return metric
    if torchmetrics_meters.is_metric(metric):
        return Wrapped(metric)
    kind = type(metric).__name__
    raise BadModel(f"a metric is a {kind}: give a torchmetrics.Metric, or a name such as 'accuracy'")


def find(path: str) -> type[Any]:
    """Return a metric's class. This imports the user's module.

    Args:
        path: `package.module:Class`.

    Raises:
        BadModel: it can't be imported, is not there, or is no class of that package.
    """
    found, is_of_package = names.find(path, f"metric {path!r}")
    if not (isinstance(found, type) and is_of_package):
        raise BadModel(f"metric {path!r}: is no class of that package")
    return found


def name_of(metric: str) -> str:
    """Return the name under which a metric is reported: of `package.module:Class`, the class in small letters.

    Args:
        metric: an entry of `evaluation.metrics`.
    """
    return metric.rpartition(":")[2].lower()


def checked_name(name: str) -> str:
    """Return a metric's name.

    Raises:
        BadModel: it has other characters than small letters, digits, `_` and `-`.
    """
    if not _NAME.fullmatch(name):
        raise BadModel(f"metric {name!r}: name it with small letters, digits, '_' and '-', at most 64")
    return name


def _by_name(name: str) -> Meter:
    if ":" in name:
        metric = names.construct(find(name), {}, f"metric {name!r}", "the arguments")
        if not torchmetrics_meters.is_metric(metric):
            raise BadModel(f"metric {name!r}: is no class of torchmetrics.Metric")
        return Wrapped(metric)
    if name in _RATIOS:
        return _RATIOS[name]()
    if top := _TOP.fullmatch(name):
        within = int(top[1])
        return Ratio(lambda outputs, targets: _hits(outputs, targets, within), total="correct")
    if name in torchmetrics_meters.CLASSES:
        return Named(name)
    raise names.unknown(
        "evaluation.metrics", name, [*_RATIOS, "top_5", *torchmetrics_meters.CLASSES, "package.module:Class"]
    )


def _hits(outputs: Tensor, targets: Tensor, within: int) -> tuple[Tensor, Tensor]:
    """Return how often the label is among the first outputs, and the number of labels."""
    known = targets != _IGNORED
    first = outputs.topk(min(within, outputs.shape[1]), dim=1).indices
    return (first == targets.unsqueeze(1)).any(1)[known].sum(), known.sum()


def _correct(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
    if torchmetrics_meters.is_yes_or_no(outputs, targets):
        answers = losses.like_outputs(outputs, targets)
        return ((outputs > 0) == (answers > 0.5)).sum(), answers.numel()  # noqa: PLR2004 (between no and yes)
    targets = targets.reshape(outputs.argmax(dim=1).shape)
    known = targets != _IGNORED
    return ((outputs.argmax(dim=1) == targets) & known).sum(), known.sum()


def _absolute(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return (outputs - losses.like_outputs(outputs, targets)).abs().sum(), outputs.numel()


def _squared(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return (outputs - losses.like_outputs(outputs, targets)).square().sum(), outputs.numel()


def _surprise(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    total = functional.cross_entropy(outputs, targets.long(), reduction="sum", ignore_index=_IGNORED)
    return total, (targets != _IGNORED).sum()


_RATIOS: Final[dict[str, Callable[[], Ratio]]] = {
    "accuracy": lambda: Ratio(_correct, total="correct"),
    "mae": lambda: Ratio(_absolute),
    "mse": lambda: Ratio(_squared),
    "rmse": lambda: Ratio(_squared, math.sqrt),
    "perplexity": lambda: Ratio(_surprise, math.exp),
}
"""The metrics that need no torchmetrics, which takes a second to import."""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
