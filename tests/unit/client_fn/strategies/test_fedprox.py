"""FedProx's client half: its worked numbers, and what it leaves alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from client_fn.strategies import make
from client_fn.strategies.steps import correcting
from client_fn.training import optimizers, tensors
from client_fn.training.orders import Training
from tests.support import loops

pytestmark = pytest.mark.torch

SAMPLES = (torch.arange(12.0).reshape(6, 2) / 12, torch.arange(6) % 3)


def fedprox(mu: float) -> Any:
    return make({"name": "fedprox", "mu": mu})


@pytest.mark.parametrize(("mu", "expected"), [(0.0, [1.2, 1.38, 1.542]), (0.5, [1.2, 1.37, 1.5145])])
def test_the_worked_numbers(mu: float, expected: list[float]) -> None:
    # The loss is (w - 3)^2 / 2, from w = 1, with a learning rate of 0.1.
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(module.weight)
    strategy = fedprox(mu)
    strategy.start(module, {}, {})
    optimizer = SGD(module.parameters(), lr=0.1)
    values = []
    with correcting(module, strategy):
        for _ in range(3):
            optimizer.zero_grad()
            (0.5 * (module.weight - 3).square()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            values.append(module.weight.item())
    assert values == pytest.approx(expected, abs=1e-12)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)


def trained(mu: float | None, optimizer: str, change: Callable[[nn.Module], object] | None = None) -> nn.Module:
    """Return a network that our loop has trained; with `mu` None, without a strategy."""
    module = network()
    if change is not None:
        change(module)
    strategy = make({"name": "fedavg"}) if mu is None else fedprox(mu)
    strategy.start(module, {}, {})
    trainer = optimizers.make(Training(optimizer, 0.1), module.parameters())
    with correcting(module, strategy):
        loops.train(module, trainer, SAMPLES, batch_size=2, epochs=5, seed=1)
    return module


def distance(module: nn.Module, change: Callable[[nn.Module], object] = lambda _: None) -> float:
    """Return how far a network's parameters are from their start."""
    start = network()
    change(start)
    pairs = zip(module.parameters(), start.parameters(), strict=True)
    return math.sqrt(sum((parameter - begin).square().sum().item() for parameter, begin in pairs))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam"])
def test_a_larger_mu_keeps_the_model_nearer_to_the_round_s(optimizer: str) -> None:
    distances = [distance(trained(mu, optimizer)) for mu in (0.0, 0.1, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert len({*distances}) == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam"])
def test_mu_0_gives_the_bytes_of_fedavg(optimizer: str) -> None:
    with_mu_0, fedavg = (tensors.to_bytes(tensors.tensors_of(trained(mu, optimizer))) for mu in (0.0, None))
    assert with_mu_0 == fedavg


def test_the_gradient_is_that_of_the_paper_s_term_in_the_loss() -> None:
    module, same = network(), network()
    start = [parameter.detach().clone() for parameter in same.parameters()]
    strategy = fedprox(0.3)
    strategy.start(module, {}, {})
    x, y = SAMPLES
    both = [(model, SGD(model.parameters(), lr=0.1)) for model in (module, same)]
    with correcting(module, strategy):
        for _ in range(4):
            for model, optimizer in both:
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(x), y)
                if model is same:
                    pairs = zip(model.parameters(), start, strict=True)
                    loss = loss + sum(0.15 * (parameter - begin).square().sum() for parameter, begin in pairs)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    for parameter, expected in zip(module.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)


def test_frozen_parameters_are_left_alone() -> None:
    def freeze(module: nn.Module) -> None:
        module[0].requires_grad_(False)  # type: ignore[index]

    strategy = fedprox(0.5)
    module = network()
    freeze(module)
    strategy.start(module, {}, {})
    assert sorted(strategy._round) == ["1.bias", "1.weight", "3.bias", "3.weight"]
    before = network()
    assert torch.equal(trained(0.5, "sgd", freeze)[0].weight, before[0].weight)  # type: ignore[index]


def test_a_parameter_that_is_trained_later_is_held_at_the_round_s_value() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    module.weight.requires_grad_(False)
    strategy = fedprox(0.5)
    strategy.start(module, {}, {})
    module.weight.requires_grad_(True)
    optimizer = SGD(module.parameters(), lr=1.0)
    values = []
    with correcting(module, strategy):
        for gradient in (-1.0, 0.0):
            module.weight.grad = torch.full((1, 1), gradient)
            optimizer.step()
            values.append(module.weight.item())
    assert values == [2.0, 1.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_term_is_in_the_model_s_dtype(dtype: torch.dtype) -> None:
    module = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.ones_(module.weight)
    strategy = fedprox(0.5)
    strategy.start(module, {}, {})
    with correcting(module, strategy):
        optimizer = SGD(module.parameters(), lr=1.0)
        for gradient in (-1.0, 0.0):
            module.weight.grad = torch.full((1, 1), gradient, dtype=dtype)
            optimizer.step()
    assert (module.weight.item(), module.weight.dtype) == (1.5, dtype)
