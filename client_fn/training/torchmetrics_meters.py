"""Meters of torchmetrics' metrics. The library is imported only where a job needs it."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from client_fn.errors import BadModel

_BINS: Final = {"thresholds": 1000, "average": "none"}
_MACRO: Final = {"average": "macro"}

CLASSES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "f1": ("F1Score", _MACRO),
    "precision": ("Precision", _MACRO),
    "recall": ("Recall", _MACRO),
    "specificity": ("Specificity", _MACRO),
    "iou": ("JaccardIndex", _MACRO),
    "auroc": ("AUROC", _BINS),
    "average_precision": ("AveragePrecision", _BINS),
    "r2": ("R2Score", {}),
    "mape": ("MeanAbsolutePercentageError", {}),
}
"""Class and arguments of each metric. Those of classification exist as `Binary...`, `Multiclass...` and so on."""

_REGRESSION: Final = frozenset({"r2", "mape"})
_BY_CLASS: Final = frozenset({"auroc", "average_precision"})
_KINDS: Final = ("Binary", "Multiclass", "Multilabel", "")
_OUTPUTS: Final = "outputs"
"""A state that says what the outputs were: number of clients, classes, and of each kind."""


class Wrapped:
    """A meter of a metric of torchmetrics.

    Args:
        metric: changed in place. Its float states become float64.
    """

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self._is_measured = False
        for name, default in metric._defaults.items():
            if isinstance(default, Tensor) and default.is_floating_point() and not metric._update_count:
                metric._defaults[name] = default.double()
                setattr(metric, name, default.double().clone())

    @property
    def adds_up(self) -> bool:
        """Whether the sum of several clients' states is the state of all their samples."""
        from torchmetrics.utilities import dim_zero_sum

        metric = self.metric
        return all(
            isinstance(default, Tensor) and metric._reductions[name] is dim_zero_sum
            for name, default in metric._defaults.items()
        )

    def update(self, outputs: Any, targets: Any) -> None:
        """Implements `Meter.update`."""
        if not self._is_measured and isinstance(outputs, Tensor):
            self.metric.to(outputs.device)
            self._is_measured = True
        self.metric.update(outputs, targets)

    def states(self) -> dict[str, Tensor]:
        """Implements `Meter.states`."""
        if not self.adds_up:
            return {}
        named = {name: getattr(self.metric, name).detach().cpu() for name in self.metric._defaults}
        return {name: state.double() if state.is_floating_point() else state.long() for name, state in named.items()}

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Implements `Meter.load`."""
        for name in self.metric._defaults:
            setattr(self.metric, name, states[name])
        # Otherwise it warns that it has seen no samples.
        self.metric._update_count = 1

    def score(self) -> float | None:
        """Implements `Meter.score`."""
        value = self.value()
        if value is None or value.numel() != 1:
            return None
        number = float(value)
        return number if math.isfinite(number) else None

    def value(self) -> Tensor | None:
        """Return what the metric computes; None: these samples are too few for it, or of one class only."""
        if not self.metric._update_count:
            return None
        with warnings.catch_warnings():
            # It warns where a value can't be had; here that is told by None.
            warnings.simplefilter("ignore")
            try:
                return torch.as_tensor(self.metric.compute())
            except ValueError:
                return None


class Named:
    """A meter of a metric that a job names. Its class and number of classes come from the first batch.

    Args:
        name: one of `CLASSES`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._kind = ""
        self._classes = 0
        self._meter: Wrapped | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Implements `Meter.update`."""
        meter = self._meter or self._begin(*_kind_of(self._name, outputs, targets))
        meter.update(*_prepared(self._kind, outputs, targets))

    def states(self) -> dict[str, Tensor]:
        """Implements `Meter.states`."""
        if self._meter is None:
            return {}
        kinds = [int(kind == self._kind) for kind in _KINDS]
        return {**self._meter.states(), _OUTPUTS: torch.tensor([1, self._classes, *kinds])}

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Implements `Meter.load`.

        Raises:
            BadModel: the clients' models do not have the same kind of outputs.
        """
        clients, classes, *kinds = states[_OUTPUTS].tolist()
        if not clients or classes % clients or sorted(kinds) != [*[0] * (len(_KINDS) - 1), clients]:
            raise BadModel(f"metric {self._name!r}: the clients' models have outputs of different kinds")
        self._begin(_KINDS[kinds.index(clients)], classes // clients).load(states)

    def score(self) -> float | None:
        """Implements `Meter.score`."""
        if self._meter is None:
            return None
        if self._name not in _BY_CLASS:
            return self._meter.score()
        # The mean over the classes that have one. torchmetrics would take 0 for those without.
        bins = self._meter.states()["confmat"][0]
        negative, positive = bins.sum(-1).unbind(-1)
        has_one = (positive > 0) & ((negative > 0) | (self._name != "auroc"))
        value = self._meter.value()
        return float(value[has_one].mean()) if value is not None and bool(has_one.any()) else None

    def _begin(self, kind: str, classes: int) -> Wrapped:
        class_name, args = CLASSES[self._name]
        sizes = {"Multiclass": {"num_classes": classes, "ignore_index": -100}, "Multilabel": {"num_labels": classes}}
        given = {name: value for name, value in args.items() if not (kind == "Binary" and name == "average")}
        checks = {"validate_args": False} if kind else {}
        module = _library(self._name)
        self._kind, self._classes = kind, classes
        self._meter = Wrapped(getattr(module, f"{kind}{class_name}")(**given, **sizes.get(kind, {}), **checks))
        return self._meter


def is_metric(value: object) -> bool:
    """Return whether a value is a `torchmetrics.Metric`. Imports nothing.

    Args:
        value: any.
    """
    return any(
        f"{class_.__module__}.{class_.__qualname__}" == "torchmetrics.metric.Metric" for class_ in type(value).mro()
    )


def is_yes_or_no(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether each output is the logit of an answer of its own, and not of one class among others.

    Args:
        outputs: the model's.
        targets: what they should be.
    """
    return outputs.dim() == 1 or targets.shape == outputs.shape or outputs.shape[1:] == (1,)


def prepare(metric_names: tuple[str, ...]) -> None:
    """Import torchmetrics if one of these metrics needs it.

    Args:
        metric_names: a job's.

    Raises:
        BadModel: it is not installed.
    """
    for name in metric_names:
        if name in CLASSES:
            _library(name)


def _kind_of(name: str, outputs: Tensor, targets: Tensor) -> tuple[str, int]:
    if name in _REGRESSION:
        return "", outputs[0].numel()
    if not is_yes_or_no(outputs, targets):
        return "Multiclass", outputs.shape[1]
    labels = outputs[0].numel()
    return ("Binary", 1) if labels == 1 else ("Multilabel", labels)


def _prepared(kind: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return what torchmetrics takes: probabilities instead of logits, and whole numbers as labels."""
    if not kind:
        flat = outputs.flatten(1).squeeze(1) if outputs.dim() > 1 else outputs
        return flat, targets.reshape(flat.shape).to(flat.dtype)
    if kind == "Multiclass":
        probabilities = outputs.softmax(1)
        return probabilities, targets.reshape(outputs.argmax(1).shape).long()
    probabilities = outputs.sigmoid()
    probabilities = probabilities.flatten() if kind == "Binary" else probabilities
    return probabilities, targets.reshape(probabilities.shape).long()


def _library(name: str) -> Any:
    """Return the part of torchmetrics with a metric's class."""
    try:
        from torchmetrics import classification, regression
    except ImportError as exc:
        raise BadModel(f"metric {name!r} needs torchmetrics: install it where it is measured ({exc})") from exc
    return regression if name in _REGRESSION else classification
