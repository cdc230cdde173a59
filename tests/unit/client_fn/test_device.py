"""Training on another device than the CPU. torch's `meta` device stands for a GPU: it refuses mixed devices too."""

from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from broker.messages.job_sections import Training
from client_fn.errors import TrainingFailed
from client_fn.site import read
from client_fn.training import optimizer_states, optimizers
from client_fn.training.work import to_device
from tests.support import loops

pytestmark = pytest.mark.torch


class Batched(nn.Module):
    """A module with batch normalisation, dropout and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class NumberRead(Exception):
    """Raised when a number is read from a `meta` tensor, which has no data. This happens at the end of an epoch."""


class Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises NumberRead at the end of an epoch, so that errors about mixed devices are distinct."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            raise NumberRead
        return func(*args, **(kwargs or {}))


def optimizer_of(module: nn.Module, name: Literal["sgd", "nadam"]) -> Optimizer:
    """Return an optimizer other than Adam, whose fused implementation does not support `meta`."""
    return optimizers.make(Training(optimizer=name), module.parameters())


@pytest.mark.parametrize("name", ["sgd", "nadam"])
def test_a_whole_epoch_runs_where_the_module_is(name: Literal["sgd", "nadam"]) -> None:
    module = to_device(Batched(), "meta")
    data = torch.rand(8, 2), torch.arange(8) % 3
    with pytest.raises(TrainingFailed) as failed, Numbers():  # type: ignore[no-untyped-call]
        loops.train(module, optimizer_of(module, name), data, batch_size=4, epochs=1, seed=1)
    assert failed.value.cause == "NumberRead"


def test_an_optimizer_s_state_goes_to_the_device_but_for_its_counters() -> None:
    local, remote = Batched(), to_device(Batched(), "meta")
    first, second = optimizer_of(local, "nadam"), optimizer_of(remote, "nadam")
    loops.train(local, first, (torch.rand(4, 2), torch.arange(4) % 3), batch_size=4, epochs=1, seed=1)
    state = optimizer_states.to_bytes(first)
    assert state is not None
    optimizer_states.load(second, state)
    devices = {name: value.device.type for name, value in second.state[next(remote.parameters())].items()}
    assert devices == {"exp_avg": "meta", "exp_avg_sq": "meta", "step": "cpu", "mu_product": "cpu"}


def test_the_job_says_the_device_unless_the_environment_does() -> None:
    assert read({}).device == ""
    assert read({"FEDKEEPER_DEVICE": "cuda:1"}).device == "cuda:1"
