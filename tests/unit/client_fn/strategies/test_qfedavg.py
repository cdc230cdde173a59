"""q-FedAvg's client half with the server's: the loss is the round's model's, and measuring it changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from broker.messages import tensors as payload
from client_fn.errors import TrainingFailed
from client_fn.learner import Learner
from client_fn.training import holdout, orders, tensors, work
from client_fn.training.orders import Build, Evaluation, Model, Train, Training
from tests.support import quadratics
from tests.support.strategy_rounds import job_of
from tests.support.two_halves import TwoHalves

pytestmark = pytest.mark.torch


class Net(nn.Module):
    """Draws random numbers, and keeps statistics: those of its norm, and how many samples it has ever seen."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        out: Tensor = self.last(self.drop(self.norm(self.first(x)).relu()))
        return out


MODEL = Model(f"{__name__}:Net")
DRAW = torch.Generator().manual_seed(3)
SAMPLES = {"x": torch.randn(50, 2, generator=DRAW), "y": torch.randint(2, (50,), generator=DRAW)}


def silent(_: str) -> None:
    """Say nothing."""


def train(strategy: dict[str, Any], **order: Any) -> tuple[dict[str, float], dict[str, bytes]]:
    weights = work.do(Build(MODEL, seed=1), {}, silent)[1]["weights"]
    fields: dict[str, Any] = {"training": Training("sgd", 0.1, batch_size=8, local_epochs=2), **order}
    task = Train(MODEL, seed=7, device="cpu", left_s=600.0, strategy=strategy, **fields)
    facts, files = work.do(task, {"weights": weights, orders.SHARD: tensors.to_bytes(SAMPLES)}, silent)
    return facts["metrics"], files


def loss_of_the_round_s_model(samples: dict[str, Tensor]) -> float:
    module = Net()
    tensors.load(module, tensors.from_bytes(work.do(Build(MODEL, seed=1), {}, silent)[1]["weights"]))
    module.eval()
    with torch.no_grad():
        return functional.cross_entropy(module(samples["x"]).double(), samples["y"].long()).item()


@pytest.mark.parametrize("evaluation", [Evaluation(), Evaluation(batch_size=7, holdout=0.3)])
def test_the_loss_is_that_of_the_model_before_the_training_on_the_training_s_samples(evaluation: Evaluation) -> None:
    metrics, _ = train({"name": "qfedavg", "q": 1.0}, evaluation=evaluation)
    rest = holdout.split(SAMPLES, evaluation.holdout).rest
    assert metrics["global_loss"] == pytest.approx(loss_of_the_round_s_model(rest), rel=1e-6)
    assert metrics["global_loss"] != metrics["first_epoch_loss"]


@pytest.mark.parametrize("order", [{}, {"evaluation": Evaluation(holdout=0.3)}, {"update": "weights"}])
def test_with_q_0_the_training_has_the_bytes_of_fedavg(order: dict[str, Any]) -> None:
    told, files = train({"name": "qfedavg", "q": 0.0}, **order)
    expected, of_fedavg = train({"name": "fedavg"}, **order)
    assert files == of_fedavg
    assert told.keys() - expected.keys() == {"global_loss"}
    assert {name: told[name] for name in expected} == expected


def test_the_worked_numbers() -> None:
    """After one step from 1: the losses are 2 and 0.5, the changes 0.2 and -0.1, and 1 / rate is 10."""
    for q, expected in ((0.0, 1.05), (1.0, 1 + (2 * 0.2 - 0.5 * 0.1) / (10 * (0.04 + 0.01) + 2 + 0.5))):
        job = job_of({"name": "qfedavg", "q": q}, **quadratics.sections(steps=1))
        halves = TwoHalves(job, [quadratics.shard(3.0), quadratics.shard(0.0)])
        assert halves.round()["weight"].item() == pytest.approx(expected, abs=1e-6)
        assert [metrics["global_loss"] for metrics in halves.metrics] == pytest.approx([2.0, 0.5], abs=1e-6)


def test_the_step_follows_the_round_s_learning_rate() -> None:
    """The paper's L is one over the learning rate that the clients have used in this round."""
    schedule = {"name": "step", "every": 1, "gamma": 0.5}
    job = job_of({"name": "qfedavg", "q": 1.0}, **quadratics.sections(steps=1, schedule=schedule))
    halves, w = TwoHalves(job, [quadratics.shard(3.0), quadratics.shard(0.0)]), 1.0
    for rate in (0.1, 0.05, 0.025):
        losses = [(w - target) ** 2 / 2 for target in (3.0, 0.0)]
        moves = [-rate * (w - target) for target in (3.0, 0.0)]
        pairs = list(zip(losses, moves, strict=True))
        w += sum(loss * move for loss, move in pairs) / sum(move**2 / rate + loss for loss, move in pairs)
        assert halves.round()["weight"].item() == pytest.approx(w, abs=1e-6)


class Blind(Learner):
    """Measures no loss."""

    def evaluate(self, model: Any, data: Any, context: Any) -> dict[str, float]:
        del model, data, context
        return {"accuracy": 1.0}


def test_a_learner_that_measures_no_loss_fails_with_a_sentence() -> None:
    with pytest.raises(TrainingFailed, match=r"needs the loss of the round's model, and evaluate\(\) measures no"):
        train({"name": "qfedavg", "q": 1.0}, learner=orders.Learner(f"{__name__}:Blind"))


class Arrays(Learner):
    """Sends its module's tensors under names of its own."""

    def arrays(self, model: Any) -> dict[str, Any]:
        return {f"own.{name}": tensor.numpy() for name, tensor in tensors.tensors_of(model).items()}

    def load(self, model: Any, arrays: Any) -> None:
        named = {name.removeprefix("own."): torch.from_numpy(array) for name, array in arrays.items()}
        tensors.load(model, named)


@pytest.mark.parametrize("strategy", [{"name": "scaffold"}, {"name": "feddyn", "alpha": 0.1}])
def test_a_learner_with_names_of_its_own_is_told_which_strategies_can_t_use_them(strategy: dict[str, Any]) -> None:
    learner = orders.Learner(f"{__name__}:Arrays")
    weights = work.do(Build(MODEL, seed=1, learner=learner), {}, silent)[1]["weights"]
    assert all(name.startswith("own.") for name in payload.decode(weights)[0])
    order = Train(MODEL, Training("sgd", 0.1), 7, "cpu", 600.0, strategy, learner=learner)
    inputs = {"weights": weights, orders.SHARD: tensors.to_bytes(SAMPLES)}
    with pytest.raises(TrainingFailed, match=r"needs the tensors of the module under their own names: remove the"):
        work.do(order, inputs, silent)
    assert work.do(order._replace(strategy={"name": "fedprox", "mu": 0.1}), inputs, silent)
