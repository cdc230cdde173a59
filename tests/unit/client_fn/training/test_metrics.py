"""Metrics add up over batches and clients, and a score of sums is that of all samples at once."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor
from torchmetrics import classification, regression

from client_fn.errors import BadModel
from client_fn.training import metrics
from client_fn.training.metrics import Meter

pytestmark = pytest.mark.torch

Batch = tuple[Tensor, Tensor]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLASSES: Batch = (random(1, 60, 4), torch.arange(60) % 4)
BINARY: Batch = (random(2, 60), torch.arange(60) % 2)
LABELS: Batch = (random(3, 60, 3), (random(4, 60, 3) > 0).float())
NUMBERS: Batch = (random(5, 60, 1), random(6, 60).float())
PIXELS: Batch = (random(7, 6, 3, 4, 5), torch.arange(120).reshape(6, 4, 5) % 3)


def measured(metric: Any, batch: Batch, parts: int = 1) -> Meter:
    meter = metrics.make(metric)
    for outputs, targets in zip(*(part.chunk(parts) for part in batch), strict=True):
        meter.update(outputs, targets)
    return meter


def macro(name: str, **kind: int) -> Callable[[Tensor, Tensor], Tensor]:
    (what, count) = next(iter(kind.items()))
    metric = getattr(classification, name)(**{what: count}, average="macro")
    return lambda outputs, targets: metric(outputs, targets.long())


EXPECTED: list[tuple[str, Batch, Callable[[Tensor, Tensor], Any]]] = [
    ("accuracy", CLASSES, lambda o, t: (o.argmax(1) == t).double().mean()),
    ("accuracy", BINARY, lambda o, t: ((o > 0) == t).double().mean()),
    ("accuracy", LABELS, lambda o, t: ((o > 0) == t).double().mean()),
    ("accuracy", PIXELS, lambda o, t: (o.argmax(1) == t).double().mean()),
    ("top_2", CLASSES, lambda o, t: (o.topk(2).indices == t[:, None]).any(1).double().mean()),
    ("top_9", CLASSES, lambda *_: 1.0),
    ("f1", CLASSES, macro("MulticlassF1Score", num_classes=4)),
    ("f1", LABELS, lambda o, t: classification.MultilabelF1Score(3, average="macro")(o, t.long())),
    ("precision", CLASSES, macro("MulticlassPrecision", num_classes=4)),
    ("recall", PIXELS, macro("MulticlassRecall", num_classes=3)),
    ("specificity", BINARY, lambda o, t: classification.BinarySpecificity()(o.sigmoid(), t)),
    ("iou", PIXELS, macro("MulticlassJaccardIndex", num_classes=3)),
    ("auroc", BINARY, classification.BinaryAUROC(thresholds=1000)),
    ("auroc", CLASSES, classification.MulticlassAUROC(4, thresholds=1000)),
    (
        "average_precision",
        LABELS,
        lambda o, t: classification.MultilabelAveragePrecision(3, thresholds=1000)(o, t.long()),
    ),
    ("mae", NUMBERS, lambda o, t: (o[:, 0] - t).abs().mean()),
    ("mse", NUMBERS, lambda o, t: (o[:, 0] - t).square().mean()),
    ("rmse", NUMBERS, lambda o, t: (o[:, 0] - t).square().mean().sqrt()),
    ("r2", NUMBERS, lambda o, t: regression.R2Score()(o[:, 0], t.double())),
    ("mape", NUMBERS, lambda o, t: regression.MeanAbsolutePercentageError()(o[:, 0], t.double())),
    ("perplexity", CLASSES, lambda o, t: torch.nn.functional.cross_entropy(o, t).exp()),
]


@pytest.mark.parametrize(("name", "batch", "expected"), EXPECTED)
def test_a_metric_is_what_torchmetrics_says_and_adds_up_over_clients(
    name: str, batch: Batch, expected: Callable[[Tensor, Tensor], Any]
) -> None:
    alone = measured(name, batch, parts=3)
    assert alone.score() == pytest.approx(float(expected(*batch)), rel=1e-6)
    clients = [measured(name, (batch[0][part], batch[1][part])) for part in (slice(0, 2), slice(2, None))]
    together = metrics.make(name)
    first, second = (client.states() for client in clients)
    together.load({state: first[state] + second[state] for state in first})
    assert together.score() == pytest.approx(alone.score(), rel=1e-12)
    for state in first.values():
        assert state.dtype in {torch.int64, torch.float64}


def test_an_auroc_is_of_the_classes_that_have_both_answers() -> None:
    outputs, targets = CLASSES
    few = targets < 2
    assert measured("auroc", (outputs, targets)).score() is not None
    two = measured("auroc", (outputs[few], targets[few])).score()
    each = classification.MulticlassAUROC(4, thresholds=1000, average=None)
    assert two == pytest.approx(float(each(outputs[few], targets[few])[:2].mean()))
    one = targets < 1
    assert measured("auroc", (outputs[one], targets[one])).score() is None
    assert measured("auroc", (BINARY[0], torch.ones(60))).score() is None
    assert measured("average_precision", (BINARY[0], torch.zeros(60))).score() is None


def test_an_r2_of_one_sample_is_none() -> None:
    assert measured("r2", (NUMBERS[0][:1], NUMBERS[1][:1])).score() is None


@pytest.mark.parametrize("name", ["accuracy", "f1", "rmse", "auroc"])
def test_without_samples_there_is_no_score(name: str) -> None:
    assert metrics.make(name).score() is None


def test_labels_that_cross_entropy_leaves_out_are_left_out() -> None:
    outputs, targets = CLASSES
    marked = torch.where(torch.arange(60) < 20, -100, targets)
    for name in ("accuracy", "top_2", "f1", "perplexity"):
        rest = measured(name, (outputs[20:], targets[20:])).score()
        assert measured(name, (outputs, marked)).score() == pytest.approx(rest)


def test_a_surprise_beyond_all_numbers_is_none() -> None:
    assert measured("perplexity", (torch.tensor([[0.0, 1e6]]), torch.tensor([0]))).score() is None


def test_a_metric_object_is_measured_in_float64() -> None:
    meter = measured(regression.MeanSquaredError(), (NUMBERS[0][:, 0], NUMBERS[1].double()))
    assert meter.states()["sum_squared_error"].dtype == torch.float64
    assert meter.score() == pytest.approx(float((NUMBERS[0][:, 0] - NUMBERS[1]).square().mean()), rel=1e-12)


def test_a_class_by_its_path() -> None:
    assert measured("torchmetrics.regression:MeanAbsoluteError", (NUMBERS[1], NUMBERS[1])).score() == 0.0


@pytest.mark.filterwarnings("ignore:Metric `SpearmanCorrcoef` will save")
def test_a_metric_that_keeps_all_samples_does_not_add_up() -> None:
    meter = measured(regression.SpearmanCorrCoef(), (NUMBERS[0][:, 0], NUMBERS[1].double()))
    assert meter.states() == {}
    assert math.isfinite(meter.score() or math.nan)


def test_clients_with_other_outputs_can_t_be_added() -> None:
    first, second = measured("f1", CLASSES).states(), measured("f1", LABELS).states()
    meter = metrics.make("f1")
    with pytest.raises(BadModel, match="outputs of different kinds"):
        meter.load({"outputs": first["outputs"] + second["outputs"]})


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("acuracy", "evaluation.metrics is 'acuracy': did you mean 'accuracy'"),
        ("top_0", "Known are accuracy, mae"),
        ("torch.nn:Linear", "can't be constructed"),
        ("collections:Counter", "is no class of torchmetrics.Metric"),
        ("collections:namedtuple", "is no class of that package"),
        (torch.nn.Linear(1, 1), "a metric is a Linear: give a torchmetrics.Metric"),
        (0.5, "a metric is a float"),
    ],
)
def test_what_is_no_metric_is_told(metric: object, reason: str) -> None:
    with pytest.raises(BadModel, match=reason):
        metrics.make(metric)


def test_names_are_those_that_files_can_have() -> None:
    assert metrics.name_of("a.b:PinballLoss") == "pinballloss"
    assert metrics.checked_name("top_5") == "top_5"
    for name in ("F1", "a b", "", "x" * 65, "a.b"):
        with pytest.raises(BadModel, match="small letters"):
            metrics.checked_name(name)


def test_torchmetrics_is_not_needed_for_what_most_jobs_measure() -> None:
    assert isinstance(torchmetrics.__version__, str)
    for name in ("accuracy", "top_5", "mae", "rmse", "perplexity"):
        assert type(metrics.make(name)).__name__ == "Ratio"
