"""Orders with learners of the user's: own loops, and models that are no torch modules."""

import importlib
from pathlib import Path

import pytest
import torch

from client_fn.errors import BadModel, LeaseOver, TrainingFailed, UserCodeFailed
from client_fn.training import tensors
from client_fn.training.orders import Evaluation, Learner, Model, Score, Training
from tests.support import own_learners
from tests.support.own_learners import Client, learning

pytestmark = pytest.mark.torch

OWN = own_learners.OWN


def test_a_loop_of_the_user_s_keeps_the_states_of_its_optimizers(own: str) -> None:
    client = learning(own, "Loop")
    _, weights = client.build()
    facts, files = client.train(weights, round=3)
    assert facts["metrics"]["own"] == 1.5
    assert (facts["metrics"]["seen"], facts["metrics"]["round"], facts["samples"]) == (50, 3, 50)
    assert sorted(files) == ["state.opt", "state.opt2", "update"]
    states = {name: content for name, content in files.items() if name != "update"}
    _, again = client.train(weights, states)
    assert tensors.from_bytes(again["state.opt2"])["0.step"].item() == 20
    assert again["update"] != files["update"]
    client.training = Training(batch_size=10, local_epochs=2, optimizer_state="reset")
    assert client.train(weights, states)[1] == {"update": files["update"]}


def test_a_folder_for_files_is_deleted_after_the_task(own: str) -> None:
    client = learning(own, "Loop")
    client.train(client.build()[1])
    path: Path = importlib.import_module(own).path
    assert path.name.startswith("fedkeeper-")
    assert not path.exists()


@pytest.mark.parametrize(("name", "samples"), [("Alone", 50), ("Searching", 7)])
def test_an_optimizer_that_begins_anew_is_told(own: str, name: str, samples: int) -> None:
    client = learning(own, name)
    facts, files = client.train(client.build()[1])
    assert (facts["metrics"], facts["samples"], sorted(files)) == ({"fresh_optimizer": 1.0}, samples, ["update"])
    client.training = Training(optimizer_state="reset")
    assert client.train(client.build()[1])[0]["metrics"] == {}


@pytest.mark.parametrize("name", ["Loop", "Alone", "Searching", "Batches"])
def test_a_strategy_corrects_every_loop(own: str, name: str) -> None:
    client = learning(own, name)
    _, weights = client.build()
    near, far = (
        tensors.from_bytes(client.train(weights, strategy={"name": "fedprox", "mu": mu})[1]["update"])
        for mu in (5.0, 0.0)
    )
    moved = [sum(float(part.square().sum()) for part in update.values()) for update in (near, far)]
    assert 0 < moved[0] < moved[1]


def test_a_model_without_torch_is_given_and_taken_as_arrays(own: str) -> None:
    client = learning(own, "Plane")
    facts, weights = client.build()
    assert facts == {"frozen": [], "buffers": [], "personal": []}
    assert {name: (part.shape, part.dtype) for name, part in weights.items()} == {
        "b": ((), torch.float64),
        "w": ((3,), torch.float64),
    }
    facts, files = client.train(weights)
    assert (facts["metrics"], facts["samples"], sorted(files)) == ({}, 50, ["update"])
    before, after = client.evaluate(weights)[0], client.evaluate(client.after(weights, files))[0]
    assert after["metrics"]["mse"] < 0.5 * before["metrics"]["mse"]
    with pytest.raises(BadModel, match="not this model's tensors; missing: w"):
        client.train({"b": weights["b"]})
    with pytest.raises(TrainingFailed, match="strategy 'fedprox' changes gradients, and the learner's model is a dict"):
        client.train(weights, strategy={"name": "fedprox", "mu": 1.0})


def test_batches_that_come_as_they_are_are_counted(own: str) -> None:
    client = learning(own, "Batches")
    _, weights = client.build()
    facts, _ = client.train(weights)
    assert (facts["samples"], facts["metrics"]["steps"]) == (50, 4)
    assert client.evaluate(weights)[0]["samples"] == 50


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Once", r"data\(\) returns a list_iterator, which can be read once"),
        ("NoData", r"the learner's data\(\) failed: FileNotFoundError in own_.*\.py"),
    ],
)
def test_data_that_can_t_be_had_is_told(own: str, name: str, reason: str) -> None:
    client = learning(own, name)
    with pytest.raises(TrainingFailed, match=reason):
        client.train(client.build()[1])


def test_what_an_evaluation_returns_is_checked(own: str) -> None:
    client = learning(own, "NoMetric")
    with pytest.raises(BadModel, match=r'evaluate\(\) returns "loss" as a str'):
        client.evaluate(client.build()[1])
    with pytest.raises(BadModel, match="arrays\\(\\) returns classes with dtype <U1: give numbers"):
        learning(own, "Words").build()


def test_numbers_are_means_over_the_samples_and_metric_objects_add_up(own: str) -> None:
    client = learning(own, "Summed")
    _, weights = client.build()
    facts, sums = client.evaluate(weights)
    assert facts["metrics"].keys() == {"f1", "share", "count"}
    assert (sums["share.sum"].item(), sums["share.count"].item()) == (12.5, 50)
    twice = tensors.to_bytes({name: 2 * state for name, state in sums.items()})
    order = Score(client.model, client.evaluation, client.learner, client.training)
    assert client.do(order, {"sums": twice})[0]["metrics"] == pytest.approx(facts["metrics"])
    client.learner = Learner(f"{own}:Unnamed")
    order = Score(client.model, client.evaluation, client.learner, client.training)
    with pytest.raises(BadModel, match=r"metric 'f1': evaluate\(\) returns it, so metrics\(\) must return it too"):
        client.do(order, {"sums": twice})


SMALL = Model("nn", {"input_size": 3, "classes": 3, "hidden": 4})


@pytest.mark.parametrize(
    ("training", "evaluation", "reason"),
    [
        (Training(loss="mze"), Evaluation(), "training.loss is 'mze': did you mean 'mse'"),
        (Training(optimizer="adamz"), Evaluation(), "training.optimizer is 'adamz'"),
        (Training(optimizer_args={"x": 1}), Evaluation(), "training.optimizer_args are those of Adam"),
        (Training(scheduler="cosine"), Evaluation(), "training.scheduler is 'cosine'"),
        (Training(), Evaluation(metrics=("auorc",)), "evaluation.metrics is 'auorc': did you mean 'auroc'"),
        (Training(), Evaluation(metrics=("torch.nn:Linear",)), "can't be constructed"),
        (
            Training(),
            Evaluation(metrics=("torchmetrics.regression:SpearmanCorrCoef",), holdout=0.1),
            "'spearmancorrcoef' keeps more than sums, so clients can't measure it",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Metric `SpearmanCorrcoef` will save")
def test_a_mistake_fails_the_job_before_its_first_round(
    training: Training, evaluation: Evaluation, reason: str
) -> None:
    with pytest.raises(UserCodeFailed, match=reason):
        Client(model=SMALL, training=training, evaluation=evaluation).build()


def test_a_deadline_ends_a_loop_of_the_user_s(own: str) -> None:
    client = learning(own, "Loop")
    with pytest.raises(LeaseOver):
        client.train(client.build()[1], left_s=-1.0)
