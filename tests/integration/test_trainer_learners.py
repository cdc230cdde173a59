"""A learner in a trainer's own process: it imports our class, and leaves no files."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from broker.messages import tensors
from client_fn import alike
from client_fn.errors import TrainerDied, UserCodeFailed
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.training.orders import Build, Evaluate, Evaluation, Learner, Model, Score, Train, Training
from tests.support.trainer_bench import WITHIN_S, Bench, open_bench

pytestmark = [pytest.mark.torch, pytest.mark.slow]

OWN = """
import os
from torch import nn
from client_fn.learner import Context, Learner

class How(Learner):
    def __init__(self, rate=None):
        self.rate = rate

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def fit(self, model, data, context: Context):
        assert isinstance(context, Context)
        (context.path / "checkpoint").write_text("x")
        if self.rate == 0:
            os._exit(3)
        return super().fit(model, data, context)

class Alone:
    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Joint(nn.Linear):
    trains_together = True

    def __init__(self):
        super().__init__(64, 10)

    def forward(self, x):
        return super().forward(x.flatten(1))

class Choosing(Joint):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)
"""
EVALUATION = Evaluation(metrics=("accuracy", "f1"))
TRAINING = Training(batch_size=5, local_epochs=1)


@pytest_asyncio.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    folder, scratch = tmp_path / "code", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    (folder / "own.py").write_text(OWN)
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    async with open_bench(folder) as opened:
        yield opened


@pytest.mark.parametrize("name", ["How", "Alone"])
async def test_a_learner_builds_trains_and_evaluates(bench: Bench, name: str) -> None:
    learner = Learner(f"own:{name}")
    async with asyncio.timeout(WITHIN_S * 3):
        built = await bench.trainer.do(Build(Model(), 1, learner, TRAINING, EVALUATION), {})
        inputs = bench.inputs | {"weights": SharedBytes(built.files["weights"])}
        trained = await bench.trainer.do(Train(Model(), TRAINING, 1, "cpu", 600.0, learner=learner), inputs)
        judged = await bench.trainer.do(Evaluate(Model(), EVALUATION, learner, TRAINING), inputs)
        sums = {"sums": SharedBytes(judged.files["sums"])}
        scored = await bench.trainer.do(Score(Model(), EVALUATION, learner, TRAINING), sums)
    assert sorted(tensors.decode(trained.files["update"])[0]) == ["1.bias", "1.weight"]
    assert trained.facts["samples"] == judged.facts["samples"] == 10
    assert judged.facts["metrics"].keys() == {"loss", "accuracy", "f1"}
    assert scored.facts["metrics"] == pytest.approx(judged.facts["metrics"])


async def test_clients_are_trained_together_in_one_copy_of_the_trainer(bench: Bench) -> None:
    async with asyncio.timeout(WITHIN_S * 3):
        built = await bench.trainer.do(Build(Model("own:Joint"), 1, training=TRAINING), {})
        inputs = bench.inputs | {"weights": SharedBytes(built.files["weights"])}
        orders = [Train(Model("own:Joint"), TRAINING, seed, "cpu", 600.0) for seed in range(3)]
        together, files = alike.order_for([(order, inputs) for order in orders], 0)
        answer = await bench.trainer.do(together, files)
        alone = await bench.trainer.do(orders[2], inputs)
        unfit = [order._replace(model=Model("own:Choosing")) for order in orders]
        together, files = alike.order_for([(order, inputs) for order in unfit], 0)
        with pytest.raises(UserCodeFailed, match="the model failed"):
            await bench.trainer.do(together, files)
    answers = alike.answers_of(answer, 3)
    assert all(isinstance(each, Answer) and each.facts["metrics"]["together"] == 3 for each in answers)
    last = answers[2]
    assert isinstance(last, Answer)
    got, expected = (tensors.decode(each.files["update"])[0] for each in (last, alone))
    assert all(np.allclose(got[name], expected[name], atol=1e-6) for name in expected)
    assert last.files.keys() == alone.files.keys()


async def test_the_folder_of_a_task_is_deleted_even_if_the_task_ends_its_process(bench: Bench, tmp_path: Path) -> None:
    learner = Learner("own:How", {"rate": 0})
    async with asyncio.timeout(WITHIN_S * 2):
        built = await bench.trainer.do(Build(Model(), 1, learner, TRAINING), {})
        inputs = bench.inputs | {"weights": SharedBytes(built.files["weights"])}
        with pytest.raises(TrainerDied, match="ended with code 3"):
            await bench.trainer.do(Train(Model(), TRAINING, 1, "cpu", 600.0, learner=learner), inputs)
        await bench.trainer.do(Build(Model(), 1, learner, TRAINING), {})
    assert not list((tmp_path / "scratch").glob("fedkeeper-[0-9]*"))
