"""A client judges the model that it was sent on what it holds out, and trains on the rest."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from client_fn.errors import TrainingFailed
from client_fn.training import holdout, judge, learner, tensors, work
from client_fn.training.context import Context
from client_fn.training.orders import Build, Evaluate, Evaluation, Learner, Model, Score, Train, Training

pytestmark = pytest.mark.torch

OWN = """
import torch
from client_fn.learner import Learner

class Judged(Learner):
    seen = []

    def __init__(self, returns=None):
        self.returns = returns

    def model(self):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
        model[1].eval()
        return model

    def fit(self, model, data, context):
        x, y = data
        Judged.seen.append((len(x), [part.training for part in model]))
        return {"samples": len(x)}

    def evaluate(self, model, data, context):
        if self.returns is None:
            return super().evaluate(model, data, context)
        return {name: float(value) for name, value in self.returns.items()}
"""

MODEL = Model(type="nn", args={"input_size": 2, "hidden": 4, "classes": 2})
SHARE = 0.3


def samples(count: int = 100, classes: int = 2) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return {"x": torch.rand(count, 2, generator=draw), "y": torch.randint(classes, (count,), generator=draw)}


def silent(_: str) -> None:
    """Say nothing."""


def weights(learner: Learner | None = None) -> bytes:
    return work.do(Build(MODEL, 1, learner or Learner()), {}, silent)[1]["weights"]


def files(data: dict[str, Tensor], learner: Learner | None = None) -> dict[str, bytes]:
    return {"weights": weights(learner), "shard": tensors.to_bytes(data)}


def train(inputs: dict[str, bytes], evaluation: Evaluation, **changes: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    order: dict[str, Any] = {"training": Training(), "seed": 7, "device": "cpu", "left_s": 60.0, **changes}
    facts, written = work.do(Train(MODEL, evaluation=evaluation, **order), inputs, silent)
    return facts, tensors.from_bytes(written["update"])


def judged(inputs: dict[str, bytes], evaluation: Evaluation) -> tuple[dict[str, Any], dict[str, Tensor]]:
    facts, written = work.do(Evaluate(MODEL, evaluation, held_out=True), inputs, silent)
    return facts, tensors.from_bytes(written["update"])


def sums_in(update: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in update.items() if name.startswith("eval.")}


def test_a_client_judges_the_model_that_it_was_sent_and_trains_on_the_rest() -> None:
    data = samples()
    facts, update = train(files(data), Evaluation(holdout=SHARE))
    rest, held = holdout.split(data, SHARE)
    assert (facts["samples"], facts["judged"]) == (len(rest["x"]), len(held["x"]))
    measured, _ = work.do(Evaluate(MODEL), {**files(held)}, silent)
    assert facts["evaluation"] == measured["metrics"]
    assert facts["seconds"].keys() == {"build", "judge", "train"}
    names = {"eval.loss.sum", "eval.loss.count", "eval.accuracy.correct", "eval.accuracy.count"}
    assert sums_in(update).keys() == names
    assert int(update["eval.loss.count"]) == len(held["x"])


def test_the_training_is_that_of_the_rest_alone() -> None:
    data = samples()
    _, update = train(files(data), Evaluation(holdout=SHARE))
    _, expected = train(files(holdout.split(data, SHARE).rest), Evaluation())
    assert not sums_in(expected)
    assert all(torch.equal(update[name], tensor) for name, tensor in expected.items())


def test_a_task_to_judge_finds_the_same_and_trains_nothing() -> None:
    inputs = files(samples())
    facts, update = judged(inputs, Evaluation(holdout=SHARE))
    trained, beside = train(inputs, Evaluation(holdout=SHARE))
    assert (facts["judged"], facts["evaluation"]) == (trained["judged"], trained["evaluation"])
    assert update.keys() == sums_in(beside).keys()
    assert all(torch.equal(update[name], beside[name]) for name in update)


def test_a_client_that_holds_nothing_out_judges_nothing_and_trains() -> None:
    inputs = files(samples(1))
    facts, update = train(inputs, Evaluation(holdout=SHARE))
    assert (facts["samples"], facts["judged"], facts["evaluation"]) == (1, 0, {})
    assert not sums_in(update)
    assert "judge" not in facts["seconds"]
    facts, update = judged(inputs, Evaluation(holdout=SHARE))
    assert (facts["judged"], facts["evaluation"], update) == (0, {}, {})


def test_a_dry_task_judges_nothing() -> None:
    facts, update = train(files(samples()), Evaluation(holdout=SHARE), training=None)
    assert facts["judged"] == 0
    assert not sums_in(update)


def test_scores_of_summed_states_are_those_of_all_samples_at_once() -> None:
    names = ("accuracy", "auroc", "f1")
    data = samples(400)
    evaluation = Evaluation(metrics=names, holdout=SHARE)
    total: dict[str, Tensor] = {}
    for rows in (slice(0, 50), slice(50, 170), slice(170, 400)):
        _, update = judged(files({name: part[rows] for name, part in data.items()}), evaluation)
        for name, state in sums_in(update).items():
            total[name] = total[name] + state if name in total else state
    sums = {name.removeprefix("eval."): state for name, state in total.items()}
    scored, _ = work.do(Score(MODEL, evaluation), {"sums": tensors.to_bytes(sums)}, silent)
    central, _ = work.do(Evaluate(MODEL, Evaluation(metrics=names)), files(holdout.split(data, SHARE).held), silent)
    assert scored["metrics"].keys() == {"loss", *names}
    # Some processors multiply a matrix of other height in another order: outputs differ in the last bits of a float32.
    assert scored["metrics"] == pytest.approx(central["metrics"], rel=1e-7)
    for name in names:
        assert scored["metrics"][name] == central["metrics"][name], "counts add up exactly"


def test_a_client_with_one_class_has_no_auroc_of_its_own_and_its_scores_count() -> None:
    data = samples()
    data["y"] = torch.zeros_like(data["y"])
    facts, update = judged(files(data), Evaluation(metrics=("auroc",), holdout=SHARE))
    assert facts["evaluation"].keys() == {"loss"}
    assert "eval.auroc.confmat" in update


def test_a_user_s_fit_gets_the_form_that_its_data_has_and_the_modes_that_its_model_had(own: str) -> None:
    learner = Learner(f"{own}:Judged")
    data = samples()
    train(files(data, learner), Evaluation(holdout=SHARE), learner=learner)
    expected = len(holdout.split(data, SHARE).rest["x"])
    assert importlib.import_module(own).Judged.seen == [(expected, [True, False])]


def test_a_metric_that_is_not_finite_is_left_out_by_its_client_alone(own: str) -> None:
    learner = Learner(f"{own}:Judged", {"returns": {"error": float("inf"), "dice": 0.5}})
    facts, update = train(files(samples(), learner), Evaluation(holdout=SHARE), learner=learner)
    assert facts["evaluation"] == {"dice": 0.5}
    assert sums_in(update).keys() == {"eval.dice.sum", "eval.dice.count"}


def test_sums_that_no_update_may_carry_are_refused_where_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "MAX_BYTES", 100)
    with pytest.raises(TrainingFailed, match=r"the sums take [\d,]+ bytes, .* most for 'auroc'; at most 100 and"):
        judged(files(samples()), Evaluation(metrics=("auroc",), holdout=SHARE))


class Remembering(torch.nn.Module):
    """Keeps what no evaluation may change, in three ways, and two that can't be written to or compared."""

    written: Tensor
    replaced: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.register_buffer("written", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()), persistent=False)
        self.register_buffer("view", torch.ones(1).expand(5), persistent=False)
        self.register_buffer("sparse", torch.eye(2).to_sparse(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.written += 1
        self.replaced = self.replaced + 1
        out: Tensor = self.norm.train()(self.layer(x))
        return out


def test_a_judgement_leaves_modes_and_buffers_as_they_were() -> None:
    model, ours, data = Remembering(), learner.make(Train(MODEL, Training(), 7, "cpu", 60.0)), samples(20)
    model.norm.eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name != "sparse"}
    replaced = model.replaced
    judge.judge(ours, model, (data["x"], data["y"]), Context(ours, model, Training()))
    assert model.training
    assert not model.norm.training
    assert model.replaced is replaced
    after = dict(model.named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())
