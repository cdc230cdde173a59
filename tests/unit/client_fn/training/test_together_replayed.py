"""Clients whose steps are replayed from a record come out with the same bits as those of the steps themselves."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from client_fn.errors import LeaseOver
from client_fn.training import graphs, memory
from client_fn.training.context import Context
from client_fn.training.orders import Model, Training
from tests.support import cohorts
from tests.support.cohorts import (
    OPTIMIZERS,
    Clients,
    as_it_is,
)
from tests.support.recorders import Recorder

pytestmark = pytest.mark.torch

OWN = cohorts.OWN


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Let steps be recorded on the CPU, and fewer of them."""
    recorder = Recorder()
    monkeypatch.setattr(graphs, "LEAST", 5)
    monkeypatch.setattr(graphs, "recorder", lambda _: recorder)
    return recorder


@pytest.mark.parametrize(
    ("training", "settings"),
    [
        *((each, {}) for each in OPTIMIZERS.values()),
        (OPTIMIZERS["adam"], {"strategy": {"name": "fedprox", "mu": 0.5}}),
        (Training("sgd", 0.05, loss="bce_with_logits", loss_args={"pos_weight": [1.0, 2.0, 3.0]}), {}),
    ],
)
def test_replayed_steps_give_each_client_the_same_bits(
    own: str, recorder: Recorder, training: Training, settings: dict[str, Any]
) -> None:
    def one_hot(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x": x, "y": torch.nn.functional.one_hot(y, 3).double()}

    change = one_hot if training.loss == "bce_with_logits" else as_it_is
    clients = Clients(Model(f"{own}:Single"), training._replace(local_epochs=5), change=change, **settings)
    expected = clients.together(graph=False)
    assert (recorder.said, clients.replayed) == ([], None)
    got = clients.together()
    # The clients have 25, 15, 30 and 5 steps: 5 steps of four clients, 10 of three, 10 of two and 5 of one.
    assert (clients.replayed, clients.unrecorded) == (30 - 4 * graphs.WARM_UP, None)
    for (facts, files), (expected_facts, expected_files) in zip(got, expected, strict=True):
        assert files == expected_files
        assert facts["metrics"] == expected_facts["metrics"]


@pytest.mark.parametrize("model", ["nn", "cnn"])
def test_steps_of_the_models_of_the_paper_are_replayed(recorder: Recorder, model: str) -> None:
    def images(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x": x.repeat(1, 1, 2, 2).squeeze(1), "y": y}

    args = {"nn": {"input_size": 256, "hidden": 8, "classes": 3}, "cnn": {"size": 16, "classes": 3}}[model]
    clients = Clients(Model(model, args), Training("adam", local_epochs=5), earlier=(0, 0, 0, 0), change=images)
    expected = [files for _, files in clients.together(graph=False)]
    assert [files for _, files in clients.together()] == expected
    assert clients.replayed
    assert recorder.said[-1] == "release"


def test_a_model_that_counts_its_calls_is_trained_without_a_record(own: str, recorder: Recorder) -> None:
    clients = Clients(Model(f"{own}:Counting"), Training("adam", 0.002, local_epochs=5))
    got = [files for _, files in clients.together()]
    assert clients.unrecorded == "numbers of the model change from step to step"
    assert (clients.replayed, "record" in recorder.said) == (None, False)
    assert got == [files for _, files in clients.together(graph=False)]


def test_after_a_record_that_fails_no_other_part_is_recorded(
    own: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "clients", lambda *_: 2)
    recorder.failure = RuntimeError("operation not permitted when stream is capturing")
    clients = Clients(Model(f"{own}:Double"), Training("adam", 0.002, local_epochs=5))
    got = [files for _, files in clients.together()]
    assert clients.unrecorded == f"it can't be recorded: RuntimeError: {recorder.failure}"
    assert recorder.said.count("record") == 1
    assert got == [files for _, files in clients.together(graph=False)]


def test_who_has_made_all_replayed_steps_at_the_deadline_has_an_answer(
    own: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Clients(Model(f"{own}:Double"), Training("adam", 0.002, local_epochs=5))
    expected = clients.together(graph=False)
    before_batch, begun = Context.before_batch, itertools.count()

    def until_the_end(context: Context) -> None:
        if next(begun) == 18:
            raise LeaseOver("", 0.0)
        before_batch(context)

    monkeypatch.setattr(Context, "before_batch", until_the_end)
    answers = clients.together()
    assert [facts.get("alone") for facts, _ in answers] == ["the time was over", None, "the time was over", None]
    assert [answers[number][1] for number in (1, 3)] == [expected[number][1] for number in (1, 3)]
    assert recorder.said[-1] == "release"
