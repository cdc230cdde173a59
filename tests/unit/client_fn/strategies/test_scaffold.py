"""SCAFFOLD's client half with the server's: worked numbers, and trainings that are not as simple as these."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from client_fn.errors import TrainingFailed
from client_fn.strategies import make
from client_fn.strategies.steps import correcting
from client_fn.training import tensors
from tests.support import quadratics
from tests.support.strategy_rounds import job_of
from tests.support.two_halves import TwoHalves

pytestmark = pytest.mark.torch


def two_halves(*, holders: int = 4, targets: tuple[float, ...] = (3.0, 0.0), **training: Any) -> TwoHalves:
    job = job_of({"name": "scaffold"}, **quadratics.sections(**training))
    return TwoHalves(job, [quadratics.shard(target) for target in targets], holders)


def controls(of: TwoHalves) -> list[float]:
    return [states["scaffold"]["weight"].item() for states in of.states]


def test_the_worked_numbers() -> None:
    halves = two_halves()
    assert halves.round()["weight"].item() == pytest.approx(1.095, abs=1e-6)
    assert halves.along["weight"] == pytest.approx(-0.2375, abs=1e-6)
    assert controls(halves) == pytest.approx([-1.9, 0.95], abs=1e-6)
    assert halves.round()["weight"].item() == pytest.approx(1.126825, abs=1e-6)
    assert halves.along["weight"] == pytest.approx(-0.1983125, abs=1e-6)
    assert controls(halves) == pytest.approx([-1.892875, 1.099625], abs=1e-6)


def test_the_first_round_has_the_bytes_of_fedavg_with_equal_weights() -> None:
    shards = [quadratics.shard(target) for target in (3.0, 0.0)]
    fedavg = TwoHalves(job_of({"name": "fedavg", "weights": "equal"}, **quadratics.sections()), shards)
    assert torch.equal(two_halves().round()["weight"], fedavg.round()["weight"])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_mean_of_the_clients_controls_is_the_server_s(dtype: str) -> None:
    """In small dtypes too: what a client keeps is what it has sent."""
    sections = quadratics.sections(steps=3, rate=0.01)
    sections["model"]["args"] = {"dtype": dtype}
    targets = (3.0, 0.0, -1.25)
    shards = [{name: tensor.to(getattr(torch, dtype)) for name, tensor in quadratics.shard(t).items()} for t in targets]
    halves = TwoHalves(job_of({"name": "scaffold"}, **sections), shards)
    for _ in range(40):
        halves.round()
        expected = sum(controls(halves)) / len(targets)
        assert halves.along["weight"] == pytest.approx(expected, abs=1e-5)


def test_clients_that_register_later_count_in_the_mean_of_the_controls() -> None:
    """The number of clients grows by two, one of them leaves again: its control is still in the sum."""
    halves = two_halves(holders=2)
    for holders, count in ((2, 2), (4, 4), (3, 4)):
        halves.grow(holders)
        halves.round()
        assert halves.along["weight"] == pytest.approx(sum(controls(halves)) / count, abs=1e-6)


def test_an_update_that_is_not_counted_does_not_advance_the_control() -> None:
    halves, again = two_halves(), two_halves()
    halves.round()
    again.round()
    again.round(is_counted=False)
    assert controls(again) == controls(halves)
    assert torch.equal(halves.round()["weight"], again.round()["weight"])


@pytest.mark.parametrize(
    "training",
    [
        {"scheduler": "ExponentialLR", "scheduler_args": {"gamma": 0.5}},
        {"schedule": {"name": "step", "every": 1, "gamma": 0.5}},
    ],
    ids=["within a round", "from round to round"],
)
def test_a_learning_rate_that_changes(training: dict[str, Any]) -> None:
    """At the end of a round each control is the weighted mean of the gradients, by the rates of the steps."""
    halves, start, c = two_halves(**training), 1.0, 0.0
    own = [0.0, 0.0]
    for round_ in range(3):
        factor = 1.0 if "scheduler" in training else 0.5**round_
        rates = [0.1 * factor, 0.1 * factor * (0.5 if "scheduler" in training else 1.0)]
        ends, new = [], []
        for target, control in zip((3.0, 0.0), own, strict=True):
            y = start
            gradients = []
            for rate in rates:
                gradients.append(y - target)
                y -= rate * (gradients[-1] - control + c)
            ends.append(y)
            new.append(sum(rate * g for rate, g in zip(rates, gradients, strict=True)) / sum(rates))
        c += sum(after - before for after, before in zip(new, own, strict=True)) / 4
        start, own = sum(ends) / 2, new
        assert halves.round()["weight"].item() == pytest.approx(start, abs=1e-6)
        assert controls(halves) == pytest.approx(own, abs=1e-5)
        assert halves.along["weight"] == pytest.approx(c, abs=1e-5)


class Net(nn.Module):
    """A frozen layer, one with statistics, and a branch that only some batches use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.body.requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.branch = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.body(x)).relu()
        if x.mean() > 0:
            hidden = hidden + self.branch(hidden)
        out: Tensor = self.head(hidden)
        return out


def samples(seed: int, shift: float = 0.0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(12, 2, generator=draw) + shift, "y": torch.randint(2, (12,), generator=draw)}


def network(shift: float = 0.0, **model: Any) -> TwoHalves:
    training = {"batch_size": 4, "local_epochs": 2}
    job = job_of({"name": "scaffold"}, model={"type": f"{__name__}:Net", **model}, training=training)
    return TwoHalves(job, [samples(seed, shift) for seed in range(3)])


def test_only_trained_parameters_have_a_control_and_statistics_are_averaged() -> None:
    halves = network(shift=5.0)
    weights = {f"{layer}.{part}" for layer in ("norm", "branch", "head") for part in ("weight", "bias")}
    for _ in range(2):
        before = halves.model
        after = halves.round()
        assert torch.equal(after["body.weight"], before["body.weight"])
        assert halves.states[0]["scaffold"].keys() == weights
        sent = {name.removeprefix("aux.") for name in halves.updates[0] if name.startswith("aux.")}
        assert sent == weights
        moved = torch.stack([update["norm.running_mean"] for update in halves.updates]).mean(0)
        torch.testing.assert_close(after["norm.running_mean"], before["norm.running_mean"] + moved)
        assert after["norm.num_batches_tracked"] > before["norm.num_batches_tracked"]


def test_a_parameter_that_no_step_changes_keeps_its_control() -> None:
    halves = network(shift=-50.0)
    halves.round()
    assert not halves.states[0]["scaffold"]["branch.weight"].any()
    assert halves.states[0]["scaffold"]["head.weight"].any()


def test_a_parameter_that_some_steps_skip_has_the_mean_gradient_of_its_own_steps() -> None:
    module, strategy = nn.Linear(1, 1), make({"name": "scaffold"})
    strategy.start(module, {}, {})
    optimizer = SGD(module.parameters(), lr=0.5)
    with correcting(module, strategy):
        for weight, bias in ((1.0, 4.0), (2.0, None), (6.0, 8.0)):
            module.weight.grad = torch.full((1, 1), weight)
            module.bias.grad = None if bias is None else torch.full((1,), bias)
            optimizer.step()
    own = strategy.finish(module).states["scaffold"]
    assert (own["weight"].item(), own["bias"].item()) == (3.0, 6.0)


def test_groups_of_parameters_with_rates_of_their_own() -> None:
    module, strategy = nn.Linear(1, 1), make({"name": "scaffold"})
    along = {"weight": torch.full((1, 1), 0.5), "bias": torch.full((1,), 0.25)}
    strategy.start(module, {"scaffold": {"weight": torch.full((1, 1), 2.0)}}, along)
    start = {name: parameter.item() for name, parameter in module.named_parameters()}
    groups: list[dict[str, Any]] = [{"params": [module.weight], "lr": 0.5}, {"params": [module.bias]}]
    optimizer = SGD(groups, lr=0.125)
    scheduler = ExponentialLR(optimizer, 0.5)
    with correcting(module, strategy):
        for _ in range(2):
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            scheduler.step()
    assert module.weight.item() == pytest.approx(start["weight"] - 0.75 * (1 + 0.5 - 2.0), abs=1e-6)
    assert module.bias.item() == pytest.approx(start["bias"] - 0.1875 * (1 + 0.25), abs=1e-6)
    outcome = strategy.finish(module)
    assert outcome.states["scaffold"]["weight"].item() == pytest.approx(1.0, abs=1e-6)
    assert outcome.states["scaffold"]["bias"].item() == pytest.approx(1.0, abs=1e-6)
    assert outcome.aux["weight"].item() == pytest.approx(-1.0, abs=1e-6)
    assert outcome.aux["bias"].item() == pytest.approx(1.0, abs=1e-6)


def test_a_closure_computes_the_gradients() -> None:
    ends = []
    for with_closure in (True, False):
        module, strategy = quadratics.Point(), make({"name": "scaffold"})
        strategy.start(module, {}, {"weight": torch.full((1, 1), 0.5)})
        optimizer = SGD(module.parameters(), lr=0.1)

        def closure(module: nn.Linear = module, optimizer: Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            loss = 0.5 * (module.weight - 3).square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        with correcting(module, strategy):
            for _ in range(2):
                if with_closure:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
        outcome = strategy.finish(module)
        ends.append((module.weight.item(), outcome.aux["weight"].item()))
    assert ends[0] == ends[1]


def test_personal_layers_have_no_control() -> None:
    halves = network(shift=5.0, personal=["head.*", "norm.*"])
    for _ in range(2):
        halves.round()
        assert halves.states[0]["scaffold"].keys() == {"branch.weight", "branch.bias"}
        assert not any("head" in name or "norm" in name for name in halves.updates[0])
        assert {"head.weight", "norm.running_mean"} <= halves.personal(0).keys()


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.last = nn.Linear(2, 2, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).relu())
        return out


def test_tied_weights_have_one_control() -> None:
    job = job_of({"name": "scaffold"}, model={"type": f"{__name__}:Tied"}, training={"batch_size": 4})
    halves = TwoHalves(job, [samples(1), samples(2)])
    for _ in range(2):
        halves.round()
    assert halves.updates[0].keys() == {"first.weight", "aux.first.weight"}


def one_step(optimizer: Optimizer, module: nn.Module) -> None:
    strategy = make({"name": "scaffold"})
    strategy.start(module, {}, {})
    with correcting(module, strategy):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()


def test_another_optimizer_than_plain_sgd_fails_with_a_sentence() -> None:
    """A learner's own fit may use any, and the job's rules can't know that."""
    module = nn.Linear(1, 1)
    before = tensors.to_bytes(tensors.tensors_of(module))
    with pytest.raises(TrainingFailed, match=r"strategy 'scaffold' needs plain SGD, .* trains with Adam"):
        one_step(Adam(module.parameters()), module)
    with pytest.raises(TrainingFailed, match=r"needs plain SGD, .* trains with SGD and momentum"):
        one_step(SGD(module.parameters(), lr=0.1, momentum=0.9), module)
    assert tensors.to_bytes(tensors.tensors_of(module)) == before


def test_a_training_that_takes_a_parameter_away_fails_with_a_sentence() -> None:
    strategy, module = make({"name": "scaffold"}), nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    strategy.start(module, {}, {})
    del module[1]
    with pytest.raises(TrainingFailed, match=r"must keep the model's parameters, now 1\.weight is gone"):
        strategy.finish(module)
