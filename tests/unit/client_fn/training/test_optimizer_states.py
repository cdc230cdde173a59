"""An optimizer continues bit for bit from its stored state, whatever class of torch's it is."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import LBFGS, Optimizer

from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import optimizer_states, optimizers, tensors
from client_fn.training.optimizer_states import NotStorable
from client_fn.training.orders import Training

pytestmark = pytest.mark.torch

OF_TORCH = [
    ("AdamW", {"weight_decay": 0.1, "amsgrad": True}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("adam", {"betas": [0.8, 0.99], "amsgrad": True}),
    ("adam", {"eps": 1e-6, "fused": False}),
    ("nadam", {"momentum_decay": 0.1}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adagrad", {}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("RAdam", {}),
    ("ASGD", {}),
    ("Rprop", {}),
    ("Adafactor", {}),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def made(module: nn.Module, name: str, args: dict[str, object]) -> Optimizer:
    return optimizers.make(Training(name, 0.01, optimizer_args=args), module.parameters())


def step(module: nn.Module, optimizer: Optimizer, times: int, first: int = 0) -> None:
    for number in range(first, first + times):
        x = torch.rand(5, 6, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        functional.cross_entropy(module(x), torch.arange(5) % 3).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@pytest.mark.parametrize(("name", "args"), OF_TORCH)
def test_two_steps_through_bytes_are_four_steps_bit_for_bit(name: str, args: dict[str, object]) -> None:
    straight, stored, fresh = network(), network(), network()
    step(straight, made(straight, name, args), 4)
    for module, is_carried in ((stored, True), (fresh, False)):
        first = made(module, name, args)
        step(module, first, 2)
        second, state = made(module, name, args), optimizer_states.to_bytes(first)
        assert state is not None
        if is_carried:
            optimizer_states.load(second, state)
        step(module, second, 2, first=2)
    values = [torch.cat([p.flatten() for p in module.parameters()]) for module in (straight, stored, fresh)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


class Counting(Optimizer):
    """Keeps numbers that are no tensors."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                count = state.get("count", 0)
                state |= {"count": count + 1, "rate": 0.5, "is_warm": True, "none": None}


def test_numbers_are_numbers_again() -> None:
    weight = nn.Parameter(torch.zeros(2))
    first, second = Counting([weight]), Counting([weight])
    first.step()
    state = optimizer_states.to_bytes(first)
    assert state is not None
    assert sorted(tensors.from_bytes(state)) == ["0.count=int", "0.is_warm=bool", "0.rate=float"]
    optimizer_states.load(second, state)
    assert second.state[weight] == {"count": 1, "rate": 0.5, "is_warm": True}
    assert type(second.state[weight]["count"]) is int


def test_a_state_that_is_more_than_tensors_and_numbers_is_not_stored() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = LBFGS([weight])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with pytest.raises(NotStorable, match="is a list"):
        optimizer_states.to_bytes(optimizer)
    other = Counting([weight])
    other.state["all"] = 3  # type: ignore[index]
    with pytest.raises(NotStorable, match="more than one state"):
        optimizer_states.to_bytes(other)


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("adamv", {}, "training.optimizer is 'adamv': did you mean 'adam'"),
        ("Optimizer", {}, "Known are adadelta, adafactor"),
        ("adamw", {"weight_decya": 0.1}, r"optimizer_args are those of AdamW\(.*weight_decay: float = 0.01"),
        ("sgd", {"momentum": -1}, "Invalid momentum value"),
        ("muon", {}, "Muon only supports 2D parameters"),
    ],
)
def test_a_mistake_is_told_with_the_field(name: str, args: dict[str, object], reason: str) -> None:
    with pytest.raises(BadModel, match=reason):
        made(network(), name, args)


def test_a_model_without_parameters_can_t_be_trained() -> None:
    with pytest.raises(TrainingFailed, match="no parameter to train"):
        made(nn.ReLU(), "adamw", {})


def test_the_default_rate_is_torch_s() -> None:
    rates = {name: optimizers.default_rate(optimizers.find(name)) for name in ("AdamW", "adagrad", "LBFGS")}
    assert rates == {"AdamW": 1e-3, "adagrad": 1e-2, "LBFGS": 1.0}
