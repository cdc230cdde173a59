"""The names that are known without importing torch are those that torch and the metrics have."""

import pytest

from client_fn.training import installed, metrics, optimizers, schedulers, torchmetrics_meters

pytestmark = pytest.mark.torch


def test_the_names_are_those_of_the_classes() -> None:
    assert list(installed.optimizers()) == sorted(optimizers.CLASSES)
    assert set(installed.schedulers()) == {name for name in schedulers.CLASSES if not name.startswith("_")}
    assert set(installed.METRICS) == {*metrics._RATIOS, *torchmetrics_meters.CLASSES}
