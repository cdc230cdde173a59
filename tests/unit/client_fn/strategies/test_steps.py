"""A strategy corrects each optimizer step that trains its module, and no other one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.optim import optimizer as of_torch

from client_fn.errors import TrainingFailed
from client_fn.strategies.base import ClientStrategy
from client_fn.strategies.steps import correcting

pytestmark = pytest.mark.torch


class Adds(ClientStrategy):
    """Adds a number to all gradients."""

    def __init__(self, number: float = 1.0) -> None:
        super().__init__({"name": "adds"})
        self.number = number

    @property
    def changes_gradients(self) -> bool:
        return True

    def correction(self, name: str, parameter: nn.Parameter) -> Tensor:
        del name
        return torch.full_like(parameter, self.number)


def weight(value: float = 0.0) -> nn.Linear:
    """Return a module whose only parameter, `weight`, is one number."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def value(module: nn.Module) -> float:
    return float(next(module.parameters()).item())


def sgd(module: nn.Module, **options: Any) -> Optimizer:
    return SGD(module.parameters(), lr=1.0, **options)


def with_gradient(module: nn.Module, gradient: float = 0.0) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, gradient)


def hooks() -> tuple[int, int]:
    return len(of_torch._global_optimizer_pre_hooks), len(of_torch._global_optimizer_post_hooks)


def test_each_step_is_corrected_and_counted_while_the_block_lasts() -> None:
    module, strategy = weight(), Adds()
    optimizer = sgd(module)
    with_gradient(module)
    with correcting(module, strategy):
        for _ in range(3):
            with_gradient(module, 0.5)
            optimizer.step()
    with_gradient(module)
    optimizer.step()
    assert value(module) == -4.5
    assert strategy.steps == {"weight": 3}


def test_a_strategy_that_changes_no_gradients_sets_no_hook() -> None:
    before = hooks()
    with correcting(weight(), ClientStrategy({"name": "fedavg"})):
        assert hooks() == before


def test_the_hooks_are_removed_after_an_error() -> None:
    before, during = hooks(), []

    def train() -> None:
        with correcting(weight(), Adds()):
            during.append(hooks())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert (hooks(), during) == (before, [(before[0] + 1, before[1] + 1)])


def test_a_training_without_a_step_fails_with_a_sentence() -> None:
    before = hooks()
    module = weight()
    with pytest.raises(TrainingFailed) as failed, correcting(module, Adds()), torch.no_grad():
        module.weight.sub_(1.0)
    assert str(failed.value) == (
        "strategy 'adds' changes the gradients before each optimizer step, and the training made none: "
        "it must call step() of a torch.optim.Optimizer that holds the model's parameters"
    )
    assert hooks() == before


def test_a_step_of_an_optimizer_over_other_parameters_is_none_of_it() -> None:
    other = weight()
    with_gradient(other)
    with pytest.raises(TrainingFailed, match="the training made none"), correcting(weight(), Adds()):
        sgd(other).step()
    assert value(other) == 0.0


def test_two_trainings_in_one_process_correct_only_their_own_steps() -> None:
    modules, strategies = (weight(), weight()), (Adds(1.0), Adds(10.0))
    with correcting(modules[0], strategies[0]), correcting(modules[1], strategies[1]):
        for module, times in zip(modules, (1, 2), strict=True):
            with_gradient(module)
            for _ in range(times):
                with_gradient(module)
                sgd(module).step()
    assert [value(module) for module in modules] == [-1.0, -20.0]
    assert [strategy.steps["weight"] for strategy in strategies] == [1, 2]


def test_several_optimizers_correct_the_parameters_that_each_holds() -> None:
    module, strategy = nn.Linear(1, 1), Adds()
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
    of_weight, of_bias = SGD([module.weight], lr=1.0), SGD([module.bias], lr=1.0)
    with correcting(module, strategy):
        for optimizer in (of_weight, of_bias, of_bias):
            with_gradient(module)
            optimizer.step()
    assert (module.weight.item(), module.bias.item()) == (-1.0, -2.0)
    assert strategy.steps == {"weight": 1, "bias": 2}


def test_an_optimizer_over_more_than_the_module_is_corrected_in_the_module_alone() -> None:
    module, other = weight(), weight()
    optimizer = SGD([*module.parameters(), *other.parameters()], lr=1.0)
    with correcting(module, Adds()):
        with_gradient(module)
        with_gradient(other)
        optimizer.step()
    assert (value(module), value(other)) == (-1.0, 0.0)


def test_a_parameter_without_a_gradient_is_neither_moved_nor_counted() -> None:
    module, strategy = nn.Linear(1, 1), Adds()
    bias = module.bias.item()
    module.weight.grad = torch.zeros(1, 1)
    with correcting(module, strategy):
        sgd(module).step()
    assert (module.bias.item(), module.bias.grad) == (bias, None)
    assert strategy.steps == {"weight": 1}


def test_tied_weights_are_corrected_once() -> None:
    first, last, strategy = weight(), weight(), Adds()
    last.weight = first.weight
    module = nn.ModuleDict({"first": first, "last": last})
    with correcting(module, strategy):
        with_gradient(module)
        sgd(module).step()
    assert value(module) == -1.0
    assert strategy.steps == {"first.weight": 1}


def test_gradients_that_are_maximised_are_corrected_the_other_way() -> None:
    module = weight()
    with correcting(module, Adds()):
        with_gradient(module, 0.25)
        sgd(module, maximize=True).step()
    assert value(module) == -0.75


def test_a_sparse_gradient_is_corrected() -> None:
    module = nn.Embedding(3, 2, sparse=True)
    nn.init.zeros_(module.weight)
    with correcting(module, Adds()):
        module(torch.tensor([1])).sum().backward()
        sgd(module).step()
    assert module.weight.tolist() == [[-1.0, -1.0], [-2.0, -2.0], [-1.0, -1.0]]


def test_a_parameter_that_is_replaced_during_the_training_is_corrected() -> None:
    module, strategy = weight(), Adds()
    with correcting(module, strategy):
        old = module.weight
        module.weight = nn.Parameter(torch.full((1, 1), 5.0))
        for held in (old, module.weight):
            held.grad = torch.zeros(1, 1)
            SGD([held], lr=1.0).step()
    assert (old.item(), value(module)) == (0.0, 4.0)
    assert strategy.steps == {"weight": 1}


def closure_of(module: nn.Linear, optimizer: Optimizer, evaluations: list[float]) -> Callable[[], float]:
    """Return a closure that computes the loss `w^2 / 2`, so the gradient is `w`."""

    def closure() -> float:
        optimizer.zero_grad()
        loss = 0.5 * module.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        evaluations.append(loss.item())
        return evaluations[-1]

    return closure


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("class_", [SGD, Adam])
def test_a_closure_computes_the_gradients_before_they_are_corrected(
    class_: Callable[..., Optimizer], *, is_named: bool
) -> None:
    ends, evaluations = [], list[float]()
    for with_closure in (True, False):
        module, strategy = weight(3.0), Adds(0.5)
        optimizer = class_(module.parameters(), lr=0.125)
        closure = closure_of(module, optimizer, evaluations)
        with correcting(module, strategy):
            for _ in range(4):
                if not with_closure:
                    closure()
                    optimizer.step()
                elif is_named:
                    assert optimizer.step(closure=closure) == evaluations[-1]
                else:
                    assert optimizer.step(closure) == evaluations[-1]
        assert strategy.steps == {"weight": 4}
        ends.append(value(module))
    assert ends[0] == ends[1]
    assert len(evaluations) == 8


def test_each_evaluation_of_a_step_is_corrected_and_the_step_counts_once() -> None:
    module, strategy, evaluations = weight(3.0), Adds(0.5), list[float]()
    optimizer = LBFGS(module.parameters(), lr=1.0, max_iter=20)
    with correcting(module, strategy):
        optimizer.step(closure_of(module, optimizer, evaluations))  # type: ignore[no-untyped-call]
    # The gradient is w + 0.5, so the minimum is at -0.5.
    assert value(module) == pytest.approx(-0.5, abs=1e-5)
    assert len(evaluations) > 1
    assert strategy.steps == {"weight": 1}


class Outer(Optimizer):
    """An optimizer that steps with another one, as Lookahead and SAM do."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner
        self.fails = False

    def step(self, closure: Any = None) -> Any:
        if self.fails:
            raise ZeroDivisionError
        return self.inner.step(closure)


def test_a_step_within_a_step_is_corrected_once() -> None:
    module, strategy = weight(), Adds()
    with correcting(module, strategy):
        with_gradient(module)
        Outer(sgd(module)).step()
    assert value(module) == -1.0
    assert strategy.steps == {"weight": 1}


def test_a_step_that_failed_does_not_hide_the_next_one() -> None:
    module, strategy = weight(), Adds()
    outer = Outer(sgd(module))
    with correcting(module, strategy):
        outer.fails = True
        with_gradient(module)
        with pytest.raises(ZeroDivisionError):
            outer.step()
        outer.fails = False
        with_gradient(module)
        outer.step()
    assert value(module) == -1.0
    assert strategy.steps == {"weight": 1}


def scaled_end(optimizer: Callable[..., Optimizer], factor: float, *, unscale: bool = False, **options: Any) -> float:
    """Return the end of three steps from 3.0 on the loss `w^2 / 2` with a gradient scaler of that factor."""
    module, strategy = weight(3.0), Adds(0.5)
    trained = optimizer(module.parameters(), lr=0.125, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=factor, enabled=factor != 1)
    with correcting(module, strategy):
        for _ in range(3):
            trained.zero_grad()
            scaler.scale(0.5 * module.weight.square().sum()).backward()  # type: ignore[no-untyped-call]
            if unscale:
                scaler.unscale_(trained)
            scaler.step(trained)
            scaler.update()
    assert strategy.steps == {"weight": 3}
    return value(module)


@pytest.mark.parametrize("unscale", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_gradient_scaler_s_factor_changes_nothing(
    optimizer: Callable[..., Optimizer], *, fused: bool, unscale: bool
) -> None:
    plain = scaled_end(optimizer, 1.0, fused=fused)
    assert scaled_end(optimizer, 1024.0, fused=fused, unscale=unscale) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_the_gradient_scaler_skips_is_not_counted(*, fused: bool) -> None:
    module, strategy = weight(3.0), Adds(0.5)
    optimizer = SGD(module.parameters(), lr=1.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with correcting(module, strategy):
        for factor in (torch.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(module.weight.sum() * factor).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
    assert value(module) == 1.5
    assert strategy.steps == Counter({"weight": 1})
