"""Clients that are trained in one program come out as if each had been trained alone, up to rounding."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from client_fn.errors import LeaseOver, TrainingFailed
from client_fn.training import memory, stacked_loop, tensors, tracebacks
from client_fn.training.context import Context
from client_fn.training.orders import Evaluation, Learner, Model, Training
from tests.support import cohorts
from tests.support.cohorts import (
    OPTIMIZERS,
    SIZES,
    Clients,
    distance,
    shard,
)

pytestmark = pytest.mark.torch

OWN = cohorts.OWN


@pytest.mark.parametrize(
    ("name", "model", "most"),
    [
        *((name, "Double", 1e-10) for name in OPTIMIZERS),
        ("momentum", "Single", 1e-5),
        ("adam", "Single", 1e-5),
        ("nadam", "Single", 1e-5),
    ],
)
def test_each_client_is_trained_as_if_it_were_alone(own: str, name: str, model: str, most: float) -> None:
    # 53 samples in batches of 10 are 6 steps of an epoch: 300 in all.
    training = OPTIMIZERS[name]._replace(local_epochs=50)
    clients = Clients(Model(f"{own}:{model}"), training)
    for number, (facts, files) in enumerate(clients.together()):
        expected_facts, expected = clients.alone(number)
        assert distance(files["update"], expected["update"]) < most
        assert files.keys() == expected.keys()
        if "state.opt" in expected:
            got, wanted = (tensors.from_bytes(each["state.opt"]) for each in (files, expected))
            assert got.keys() == wanted.keys()
            for key in (key for key in wanted if key.endswith((".step", ".mu_product"))):
                assert torch.equal(got[key], wanted[key])
                assert got[key].dtype == wanted[key].dtype
            assert distance(files["state.opt"], expected["state.opt"]) < 10 * most
        assert facts["metrics"].pop("together") == len(SIZES)
        assert facts["metrics"] == pytest.approx(expected_facts["metrics"], rel=1e-4)
        assert facts["metrics"]["steps"] == 50 * -(-SIZES[number] // 10)
        assert (facts["samples"], facts["processor"]) == (expected_facts["samples"], expected_facts["processor"])
        assert facts["seconds"].keys() == expected_facts["seconds"].keys()


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": {"name": "fedprox", "mu": 0.5}},
        {"strategy": {"name": "qfedavg", "q": 1.0}},
        {"update": "weights"},
        {"update": "bf16"},
        {"update": "int8"},
        {"evaluation": Evaluation(holdout=0.3)},
        {"learner": "Doubling"},
        {"learner": "Scaling", "evaluation": Evaluation(holdout=0.3), "strategy": {"name": "qfedavg", "q": 1.0}},
        {"training": {"loss": "cross_entropy", "loss_args": {"label_smoothing": 0.1}, "drop_last": True}},
        {"training": {"order": "balanced", "optimizer_state": "reset"}},
    ],
)
def test_what_else_a_job_says_holds_for_each_client(own: str, settings: dict[str, Any]) -> None:
    training = Training("adam", 0.002, local_epochs=3)._replace(**settings.pop("training", {}))
    if "learner" in settings:
        settings["learner"] = Learner(f"{own}:{settings['learner']}")
    clients = Clients(Model(f"{own}:Double"), training, **settings)
    for number, (facts, files) in enumerate(clients.together()):
        expected_facts, expected = clients.alone(number)
        assert distance(files["update"], expected["update"]) < 1e-10
        assert facts["samples"] == expected_facts["samples"]
        assert facts["metrics"].pop("together") == len(SIZES)
        assert facts["metrics"] == pytest.approx(expected_facts["metrics"], rel=1e-5)
        assert facts["evaluation"] == expected_facts["evaluation"]
        assert facts["judged"] == expected_facts["judged"]


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce_with_logits"])
def test_losses_of_numbers(own: str, loss: str) -> None:
    def one_hot(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x": x, "y": torch.nn.functional.one_hot(y, 3).double()}

    training = Training("sgd", 0.01, loss=loss, local_epochs=2)
    clients = Clients(Model(f"{own}:Double"), training, change=one_hot)
    for number, (_, files) in enumerate(clients.together()):
        assert distance(files["update"], clients.alone(number)[1]["update"]) < 1e-10


@pytest.mark.parametrize("model", ["nn", "cnn"])
def test_the_models_of_the_paper(model: str) -> None:
    def images(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x": x.repeat(1, 1, 2, 2).squeeze(1), "y": y}

    args = {"nn": {"input_size": 256, "hidden": 8, "classes": 3}, "cnn": {"size": 16, "classes": 3}}[model]
    clients = Clients(Model(model, args), Training("adam", local_epochs=2), change=images)
    for number, (_, files) in enumerate(clients.together()):
        assert distance(files["update"], clients.alone(number)[1]["update"]) < 1e-5


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("Silent", "does not say"),
        ("Layered", "Dropout drops at random"),
        ("Normed", "BatchNorm2d normalises over a batch"),
        ("Buffered", "has buffers"),
        ("Hooked", "Linear has hooks"),
        ("Doubled", "a parameter has hooks"),
        ("Followed", "a parameter has hooks"),
        ("Unused", "the loss does not depend on more.weight"),
    ],
)
def test_models_that_are_trained_one_by_one(own: str, model: str, reason: str) -> None:
    clients = Clients(Model(f"{own}:{model}"), Training(), earlier=(0, 0, 0, 0))
    assert all(reason in got for got in clients.reasons())


@pytest.mark.parametrize("model", ["Choosing", "Dropping"])
def test_a_model_that_only_its_run_shows_to_be_unfit_fails_as_a_whole(own: str, model: str) -> None:
    clients = Clients(Model(f"{own}:{model}"), Training())
    with pytest.raises(RuntimeError, match="vmap"):
        clients.together()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"learner": "Quiet"}, "the learner does not say"),
        ({"learner": "Looping"}, "the learner has its own fit"),
        ({"strategy": {"name": "feddyn", "alpha": 0.1}}, "the strategy is feddyn"),
        ({"personal": ("out.*",)}, "personal layers"),
        ({"training": {"optimizer": "rmsprop"}}, "the optimizer is RMSprop"),
        ({"training": {"scheduler": "steplr", "scheduler_args": {"step_size": 1}}}, "training.scheduler is set"),
        ({"training": {"clip_norm": 1.0}}, "training.clip_norm is set"),
        ({"training": {"precision": "bfloat16"}}, "training.precision is set"),
        ({"training": {"loss_args": {"weight": [1.0, 2.0, 1.0]}}}, "a weight for each class"),
    ],
)
def test_jobs_that_are_trained_one_by_one(own: str, settings: dict[str, Any], reason: str) -> None:
    training = Training()._replace(**settings.pop("training", {}))
    if "learner" in settings:
        settings["learner"] = Learner(f"{own}:{settings['learner']}")
    clients = Clients(Model(f"{own}:Double"), training, earlier=(0, 0, 0, 0), **settings)
    assert all(reason in got for got in clients.reasons())


def test_a_client_that_fails_leaves_the_others_alone(own: str) -> None:
    clients = Clients(Model(f"{own}:Double"), Training("adam", 0.002, local_epochs=2))
    clients.files[0]["shard"] = b"no file"
    clients.files[1]["shard"] = shard(23, 1, bad=True)
    clients.files[3]["state.opt"] = tensors.to_bytes({"0.exp_avg": torch.zeros(1)})
    answers = clients.together()
    assert "it is no safetensors file" in answers[0][0]["alone"]
    assert answers[1][0]["alone"] == "its loss is not finite"
    assert "this optimizer keeps" in answers[3][0]["alone"]
    assert distance(answers[2][1]["update"], clients.alone(2)[1]["update"]) < 1e-10
    with pytest.raises(TrainingFailed, match="loss is nan"):
        clients.alone(1)


def test_labels_that_are_left_out_and_samples_of_other_shapes_are_trained_one_by_one(own: str) -> None:
    clients = Clients(Model(f"{own}:Double"), Training())
    named = tensors.from_bytes(clients.files[1]["shard"])
    clients.files[1]["shard"] = tensors.to_bytes({**named, "y": named["y"] - 100})
    assert set(clients.reasons()) == {"a label is left out"}
    clients.files[1]["shard"] = tensors.to_bytes({**named, "x": named["x"][:, :, :7]})
    assert set(clients.reasons()) == {"the clients' samples have different shapes"}


def test_clients_that_do_not_fit_into_memory_are_trained_in_parts(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(Model(f"{own}:Double"), Training("adam", 0.002, local_epochs=2))
    whole = clients.together()
    monkeypatch.setattr(memory, "clients", lambda *_: 2)
    for (facts, files), (_, expected) in zip(clients.together(), whole, strict=True):
        assert facts["metrics"]["together"] == 2
        assert distance(files["update"], expected["update"]) < 1e-10
    monkeypatch.setattr(memory, "clients", lambda *_: 1)
    assert set(clients.reasons()) == {"the memory is too small for two clients"}


def test_a_client_without_others_is_trained_as_if_it_were_alone(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(Model(f"{own}:Double"), Training("adam", 0.002, local_epochs=2))
    expected_facts, expected = clients.alone(0)
    clients.orders, clients.files = clients.orders[:1], clients.files[:1]
    [(facts, files)] = clients.together()
    assert distance(files["update"], expected["update"]) < 1e-10
    assert facts["metrics"] == pytest.approx(expected_facts["metrics"], rel=1e-5)
    monkeypatch.setattr(memory, "clients", lambda *_: 0)
    assert clients.reasons() == ["the memory is too small for a client"]


def test_it_says_that_it_lives_while_it_reads_trains_and_answers(own: str) -> None:
    clients = Clients(Model(f"{own}:Double"), Training("sgd", local_epochs=2))
    said: list[str] = []
    clients.together(said.append)
    assert said.index("training") == len(SIZES)
    assert said.count("training") == 1
    # 12 steps, and each client's reading, preparation and answer.
    assert said.count("alive") == 12 + 3 * len(SIZES)


def test_who_has_made_all_steps_at_the_deadline_has_an_answer(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(Model(f"{own}:Double"), Training("adam", 0.002, local_epochs=2))
    expected = {number: clients.alone(number)[1] for number in (1, 3)}
    before_batch, begun = Context.before_batch, itertools.count()

    def until_the_end(context: Context) -> None:
        if next(begun) == 7:
            raise LeaseOver("", 0.0)
        before_batch(context)

    monkeypatch.setattr(Context, "before_batch", until_the_end)
    answers = clients.together()
    assert clients.fewer == "the time was over"
    for number, (facts, files) in enumerate(answers):
        assert facts.get("alone") == (None if number in expected else "the time was over")
        for name, file in expected.get(number, {}).items():
            assert distance(files[name], file) < 1e-10


def test_nobody_has_an_answer_if_there_was_no_time(own: str) -> None:
    clients = Clients(Model(f"{own}:Double"), Training())
    clients.orders[1] = clients.orders[1]._replace(left_s=0.0)
    assert set(clients.reasons()) == {"the time was over"}
    clients.orders[1] = clients.orders[1]._replace(left_s=600.0)
    clients.together()
    assert clients.fewer is None


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (LeaseOver("", 0.0), "the time was over"),
        (torch.OutOfMemoryError("CUDA out of memory"), "the memory was too small: CUDA out of memory"),
        (
            RuntimeError(f"[enforce] {tracebacks.NO_MEMORY}"),
            f"the memory was too small: [enforce] {tracebacks.NO_MEMORY}",
        ),
    ],
)
def test_clients_that_have_their_answer_keep_it(
    own: str, monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str
) -> None:
    clients = Clients(Model(f"{own}:Double"), Training("adam", 0.002))
    monkeypatch.setattr(memory, "clients", lambda *_: 2)
    train, parts = stacked_loop.train, itertools.count()

    def fail_at_last(*args: Any) -> stacked_loop.Trained:
        if next(parts):
            raise failure
        return train(*args)

    monkeypatch.setattr(stacked_loop, "train", fail_at_last)
    answers = clients.together()
    assert [facts.get("alone") for facts, _ in answers] == [None, None, reason, reason]
    assert clients.fewer == reason
