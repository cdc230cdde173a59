"""FedDyn's client half with the server's: worked numbers, and trainings that are not as simple as these."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD

from client_fn.errors import TrainingFailed
from client_fn.strategies import make
from client_fn.strategies.steps import correcting
from tests.support import quadratics
from tests.support.strategy_rounds import job_of
from tests.support.two_halves import TwoHalves

pytestmark = pytest.mark.torch


def two_halves(alpha: float = 0.1, **training: Any) -> TwoHalves:
    job = job_of({"name": "feddyn", "alpha": alpha}, **quadratics.sections(**training))
    return TwoHalves(job, [quadratics.shard(target) for target in (3.0, 0.0)], holders=4)


def own(of: TwoHalves) -> list[float]:
    return [states["feddyn"]["weight"].item() for states in of.states]


def paper_s(of: TwoHalves, alpha: float = 0.1) -> tuple[float, float]:
    """The paper's model, from which the clients start, and its h. Ours is the mean of the trained models."""
    offset = of.along["weight"]
    return of.model["weight"].item() + offset, -alpha * offset


@pytest.mark.parametrize("update", ["delta", "weights"])
def test_the_worked_numbers(update: str) -> None:
    halves = two_halves(update=update)
    mean = halves.round()["weight"].item()
    assert paper_s(halves) == pytest.approx((1.14175, -0.004725), abs=1e-6)
    assert mean == pytest.approx(1.0945, abs=1e-6)
    assert own(halves) == pytest.approx([-0.0378, 0.0189], abs=1e-6)
    halves.round()
    assert paper_s(halves) == pytest.approx((1.2878848, -0.00802116), abs=1e-6)


def test_clients_that_register_later_count_in_the_server_s_mean() -> None:
    """The paper's h is the mean of all clients' g_i."""
    halves = two_halves()
    for holders, count in ((4, 4), (8, 8), (5, 8)):
        halves.grow(holders)
        halves.round()
        assert paper_s(halves)[1] == pytest.approx(sum(own(halves)) / count, abs=1e-6)


def test_an_update_that_is_not_counted_does_not_advance_the_client_s_state() -> None:
    halves, again = two_halves(), two_halves()
    for each in (halves, again):
        each.round()
    again.round(is_counted=False)
    assert own(again) == own(halves)
    assert torch.equal(halves.round()["weight"], again.round()["weight"])


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "adam"},
        {"scheduler": "ExponentialLR", "scheduler_args": {"gamma": 0.5}},
        {"schedule": {"name": "step", "every": 1, "gamma": 0.5}},
        {"optimizer": "lbfgs"},
    ],
    ids=lambda training: str(next(iter(training.values()))),
)
def test_every_optimizer_and_learning_rate_will_do(training: dict[str, Any]) -> None:
    """g_i says how far the client has come, whatever its steps were."""
    halves, g, model, start = two_halves(**training), [0.0, 0.0], 1.0, 1.0
    for _ in range(3):
        halves.round()
        ends = [model + update["weight"].item() for update in halves.updates]
        g = [old - 0.1 * (end - start) for old, end in zip(g, ends, strict=True)]
        assert own(halves) == pytest.approx(g, abs=1e-6)
        model = halves.model["weight"].item()
        assert model == pytest.approx(sum(ends) / 2, abs=1e-6)
        start, _ = paper_s(halves)


class Net(nn.Module):
    """A frozen layer, and one with statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.body.requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.body(x)).relu())
        return out


def samples(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(12, 2, generator=draw), "y": torch.randint(2, (12,), generator=draw)}


def network(**model: Any) -> TwoHalves:
    job = job_of({"name": "feddyn"}, model={"type": f"{__name__}:Net", **model}, training={"batch_size": 4})
    return TwoHalves(job, [samples(seed) for seed in range(3)])


def test_only_trained_parameters_have_states_and_statistics_are_averaged() -> None:
    halves = network()
    weights = {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    for _ in range(3):
        before = halves.model
        after = halves.round()
        assert halves.states[0]["feddyn"].keys() == weights
        assert halves.rounds.strategy.along(halves.rounds.state).keys() == weights
        assert halves.updates[0].keys() == before.keys() - {"body.weight", "body.bias"}
        assert torch.equal(after["body.weight"], before["body.weight"])
        moved = torch.stack([update["norm.running_mean"] for update in halves.updates]).mean(0)
        torch.testing.assert_close(after["norm.running_mean"], before["norm.running_mean"] + moved)


def test_personal_layers_have_no_state_and_no_offset() -> None:
    halves = network(personal=["head.*"])
    for _ in range(2):
        halves.round()
        assert halves.states[0]["feddyn"].keys() == {"norm.weight", "norm.bias"}
        assert halves.personal(0).keys() == {"head.weight", "head.bias"}


def test_a_closure_is_corrected_at_each_evaluation() -> None:
    """The minimum of `(w - 3)^2 / 2 - g w + alpha / 2 (w - start)^2`, with the start 1 + 0.5."""
    module, strategy = quadratics.Point(), make({"name": "feddyn", "alpha": 0.5})
    strategy.start(module, {"feddyn": {"weight": torch.full((1, 1), 0.25)}}, {"weight": torch.full((1, 1), 0.5)})
    assert module.weight.item() == 1.5
    optimizer = LBFGS(module.parameters(), max_iter=20)

    def closure() -> float:
        optimizer.zero_grad()
        loss = 0.5 * (module.weight - 3).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    with correcting(module, strategy):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert module.weight.item() == pytest.approx((3 + 0.25 + 0.75) / 1.5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_small_changes_of_the_state_are_kept_in_any_dtype(dtype: torch.dtype) -> None:
    state, module = {"feddyn": {"weight": torch.ones(1, 1)}}, quadratics.Point(dtype=str(dtype).rpartition(".")[2])
    for _ in range(10):
        strategy = make({"name": "feddyn", "alpha": 0.01})
        strategy.start(module, state, {})
        optimizer = SGD(module.parameters(), lr=1.0)
        with correcting(module, strategy):
            module.weight.grad = torch.full((1, 1), 1.0 - 2**-6, dtype=dtype)
            optimizer.step()
        assert module.weight.dtype == dtype
        state = {name: dict(each) for name, each in strategy.finish(module).states.items()}
    moved = module.weight.item() - 1.0
    assert moved > 0.1
    assert 1.0 - state["feddyn"]["weight"].item() == pytest.approx(0.01 * moved, rel=0.02)


def test_a_parameter_that_no_step_changes_keeps_its_state_but_for_the_offset() -> None:
    module, strategy = nn.Linear(1, 1), make({"name": "feddyn", "alpha": 0.5})
    strategy.start(module, {"feddyn": {"bias": torch.full((1,), 0.25)}}, {"bias": torch.full((1,), 0.5)})
    with correcting(module, strategy):
        module.weight.grad = torch.ones(1, 1)
        SGD(module.parameters(), lr=0.5).step()
    assert strategy.finish(module).states["feddyn"]["bias"].item() == 0.25


def test_a_parameter_that_was_frozen_when_the_training_began_fails_with_a_sentence() -> None:
    for name, alpha in (("feddyn", {"alpha": 0.1}), ("scaffold", {})):
        module, strategy = nn.Linear(1, 1), make({"name": name, **alpha})
        module.bias.requires_grad_(False)
        strategy.start(module, {}, {})
        module.bias.requires_grad_(True)
        module.bias.grad = torch.ones(1)
        fails = pytest.raises(TrainingFailed, match=f"'{name}' met bias, which was frozen when the training began")
        with fails, correcting(module, strategy):
            SGD(module.parameters(), lr=0.1).step()


def test_a_training_that_takes_a_parameter_away_fails_with_a_sentence() -> None:
    strategy, module = make({"name": "feddyn", "alpha": 0.1}), nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    strategy.start(module, {}, {})
    module[1] = nn.Linear(1, 2)
    with pytest.raises(TrainingFailed, match=r"must keep the model's parameters, now 1\.weight is gone or another one"):
        strategy.finish(module)
