"""Our optimizers step like torch's, and continue bit for bit from stored state."""

import copy
from collections.abc import Callable, Iterable
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam, NAdam, Optimizer

from broker.messages.job_sections import Training
from client_fn.errors import TrainingFailed
from client_fn.training import optimizer_states, optimizers, tensors
from tests.support import loops

pytestmark = pytest.mark.torch

Name = Literal["sgd", "adam", "nadam"]

REFERENCE: dict[Name, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1),
    "adam": lambda parameters: Adam(parameters, lr=1e-3),
    "nadam": lambda parameters: NAdam(parameters, lr=1e-3),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def batches(count: int) -> list[loops.Samples]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(5, 6, generator=generator), torch.arange(5) % 3) for _ in range(count)]


def steps(module: nn.Module, optimizer: Optimizer, data: list[loops.Samples]) -> None:
    for x, y in data:
        optimizer.zero_grad()
        functional.cross_entropy(module(x.to(next(module.parameters()).dtype)), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def values(module: nn.Module) -> list[torch.Tensor]:
    return list(tensors.tensors_of(module).values())


def continued(name: Name, module: nn.Module, state: bytes | None) -> Optimizer:
    """Return a new optimizer that continues from stored state."""
    optimizer = optimizers.make(Training(optimizer=name), module.parameters())
    if state is not None:
        optimizer_states.load(optimizer, state)
    return optimizer


@pytest.mark.parametrize("name", ["sgd", "adam", "nadam"])
def test_steps_are_those_of_torch_s_own_implementation(name: Name) -> None:
    ours, theirs = network(), network()
    steps(ours, optimizers.make(Training(optimizer=name), ours.parameters()), batches(20))
    steps(theirs, REFERENCE[name](theirs.parameters()), batches(20))
    for a, b in zip(values(ours), values(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert not torch.equal(values(ours)[0], values(network())[0])


def test_adam_s_first_step_is_the_learning_rate() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    weight.grad = torch.tensor([0.3, -20.0])
    optimizers.make(Training(optimizer="adam", learning_rate=0.25), [weight]).step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.75, 1.25]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["sgd", "adam", "nadam"])
def test_two_and_two_epochs_through_bytes_are_four_epochs_bit_for_bit(name: Name, dtype: torch.dtype) -> None:
    data = batches(3)
    straight, stored, fresh = network(dtype), network(dtype), network(dtype)
    steps(straight, continued(name, straight, None), data * 4)

    optimizer = continued(name, stored, None)
    steps(stored, optimizer, data * 2)
    steps(stored, continued(name, stored, optimizer_states.to_bytes(optimizer)), data * 2)

    steps(fresh, continued(name, fresh, None), data * 2)
    steps(fresh, continued(name, fresh, None), data * 2)
    assert all(torch.equal(a, b) for a, b in zip(values(straight), values(stored), strict=True))
    # Shows that the test can fail: without its state, an optimizer with state gives other weights.
    differs = not all(torch.equal(a, b) for a, b in zip(values(straight), values(fresh), strict=True))
    assert differs == (name != "sgd")


def test_plain_sgd_has_no_state() -> None:
    module = network()
    optimizer = optimizers.make(Training(optimizer="sgd"), module.parameters())
    steps(module, optimizer, batches(1))
    assert optimizer_states.to_bytes(optimizer) is None


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_stored_state_is_safetensors_by_parameter(name: Name) -> None:
    module = network()
    optimizer = optimizers.make(Training(optimizer=name), module.parameters())
    steps(module, optimizer, batches(2))
    blob = optimizer_states.to_bytes(optimizer)
    assert blob is not None
    state = tensors.from_bytes(blob)
    assert state["0.exp_avg"].shape == (8, 6)
    assert state["3.step"].item() == 2


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_a_float16_parameter_whose_gradient_is_zero_stays(name: Name) -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = optimizers.make(Training(optimizer=name), [weight])
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert weight.tolist() == [1.0, 1.0, 1.0]


def test_a_model_of_mixed_precision_carries_its_state() -> None:
    module = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 2))
    optimizer = optimizers.make(Training(), module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    twin = copy.deepcopy(module)
    blob = optimizer_states.to_bytes(optimizer)
    again = continued("adam", twin, blob)
    assert optimizer_states.to_bytes(again) == blob


def stored_by(name: Name, module: nn.Module) -> bytes:
    optimizer = optimizers.make(Training(optimizer=name), module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    blob = optimizer_states.to_bytes(optimizer)
    assert blob is not None
    return blob


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (stored_by("nadam", nn.Linear(6, 8)), r"\['exp_avg', 'exp_avg_sq', 'mu_product', 'step'\]"),
        (stored_by("adam", nn.Linear(6, 9)), r"0.exp_avg is torch.float32 \(9, 6\)"),
        (stored_by("adam", nn.Linear(6, 8).double()), "0.exp_avg is torch.float64"),
        (tensors.to_bytes({"4.exp_avg": torch.ones(1)}), "4.exp_avg is of none of the 4"),
        (tensors.to_bytes({"x": torch.ones(1)}), "x is of none of the 4"),
        (b"garbage", "not a safetensors file"),
    ],
)
def test_state_of_another_optimizer_or_model_is_refused(state: bytes, reason: str) -> None:
    module = network()
    optimizer = optimizers.make(Training(), module.parameters())
    with pytest.raises(TrainingFailed, match=reason):
        optimizer_states.load(optimizer, state)
    assert not optimizer.state
