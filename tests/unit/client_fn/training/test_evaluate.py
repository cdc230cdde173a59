"""A model is evaluated correctly, and the same each time."""

import pytest
import torch
from torch import Tensor, nn

from client_fn.errors import LeaseOver, TrainingFailed
from tests.support.loops import measure

pytestmark = pytest.mark.torch

X = torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0], [0.0, 5.0]])
Y = torch.tensor([0, 1, 0, 0])


class Noisy(nn.Module):
    """A module that draws random numbers in its evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(x.shape)


def identity() -> nn.Module:
    """Return a module whose logits are the two inputs."""
    module = nn.Linear(2, 2, bias=False)
    nn.init.eye_(module.weight)
    return module


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_accuracy_and_loss_by_hand(batch_size: int) -> None:
    evaluation = measure(identity(), (X, Y), batch_size=batch_size)
    # log(1 + exp(-5)) where it is right, log(1 + exp(5)) where it is wrong.
    assert evaluation.metrics["accuracy"] == 0.75
    assert evaluation.metrics["loss"] == pytest.approx((3 * 0.0067153 + 5.0067153) / 4, rel=1e-5)
    assert evaluation.samples == 4


def test_dropout_and_batch_normalisation_are_off() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 2))
    # In a training, batch normalisation refuses a batch of one sample.
    alone, together = (measure(module, (X, Y), batch_size=size) for size in (1, 4))
    assert alone.metrics["loss"] == pytest.approx(together.metrics["loss"])
    assert module.get_buffer("0.num_batches_tracked") == 0


def test_random_numbers_are_the_same_each_time() -> None:
    first = measure(Noisy(), (X, Y), batch_size=2)
    torch.rand(17)
    assert measure(Noisy(), (X, Y), batch_size=2) == first


def test_each_batch_is_announced_and_may_be_forbidden() -> None:
    calls: list[int] = []
    measure(identity(), (X, Y), batch_size=3, before_batch=lambda: calls.append(1))
    assert len(calls) == 2

    def forbid() -> None:
        raise LeaseOver("", 0.0)

    with pytest.raises(LeaseOver):
        measure(identity(), (X, Y), batch_size=3, before_batch=forbid)


def test_errors_of_the_evaluation_are_explained() -> None:
    with pytest.raises(TrainingFailed, match="shapes cannot be multiplied"):
        measure(identity(), (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)), batch_size=2)
    with pytest.raises(TrainingFailed, match="no samples"):
        measure(identity(), (X[:0], Y[:0]), batch_size=2)
