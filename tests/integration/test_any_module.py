"""Any torch module trains: from the server's initial model through the function, the gate and the exact sum."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import broker
from broker.base import Broker
from broker.messages import job_file as jobs
from broker.messages import tensors
from broker.messages.round import RoundTask
from broker.messages.tensors import Tensors
from client_fn.data import datasets, shards
from client_fn.data.shard_cache import ShardCache
from client_fn.function import WarmState, handle
from client_fn.site import Site
from client_fn.trainer.trainers import Trainers, open_trainers
from fedkeeper.sdk import Client
from fedkeeper.services.learning import TrainerLearning
from server.service import serve
from tests.support.fakes import Fleet, running
from tests.support.paths import REPOSITORY
from tests.support.trainers import InlineTrainers

pytestmark = pytest.mark.torch

CLIENTS = 2
SITE = Site(allow=("tests",))


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    async with broker.connect(memory_url) as connection:
        yield connection


async def train(
    bus: Broker,
    tmp_path: Path,
    module: str,
    *,
    rounds: int = 2,
    trainers: Trainers | None = None,
    learner: dict[str, Any] | None = None,
    **training: Any,
) -> tuple[Tensors, Tensors]:
    """A few rounds of one epoch, in this process unless there are trainers; the initial and the final model."""
    trainers = trainers or InlineTrainers()
    warm, sdk = WarmState(trainers, SITE, ShardCache(SITE)), Client(bus)
    learning = TrainerLearning(SITE, trainers, None)

    async def function(bus: Broker, task: RoundTask) -> None:
        await handle(task, bus, warm, attempt=1)

    job = jobs.from_dict(
        {
            "model": {"type": f"tests.support.modules:{module}"} if module else {},
            "learner": learner or {},
            "training": {"local_epochs": 1, "batch_size": 100, **training},
            "data": {"dataset": "digits", "partition": "iid", "clients": CLIENTS},
            "cohort": {"clients": CLIENTS, "deadline_s": 600.0},
            "evaluation": {"every": rounds},
            "stop": {"rounds": rounds},
        }
    )
    await sdk.register(shards.stage(datasets.load("digits"), job.data, str(tmp_path), platform="fake"))
    async with running(serve(bus, learning), Fleet(bus, function).serve()), asyncio.timeout(600):
        name = await sdk.submit(job)
        events = [message.event async for message in sdk.watch(name)]
    assert events[-1].what == "job.completed", events[-1]
    initial = (await learning.initial_model(job)).weights
    return dict(initial), tensors.decode(await sdk.model(name))[0]


def changed(before: Tensors, after: Tensors) -> set[str]:
    """Names of the tensors that training has changed, the layout being the same."""
    assert tensors.layout(before) == tensors.layout(after)
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam"])
async def test_batch_norms_statistics_are_averaged_and_its_batches_counted(
    bus: Broker, tmp_path: Path, optimizer: str
) -> None:
    before, after = await train(bus, tmp_path, "BatchNormed", optimizer=optimizer)
    assert changed(before, after) == set(before)
    assert after["2.num_batches_tracked"] == 2 * 8, "two rounds of eight batches"
    assert (after["2.running_var"] > 0).all()


@pytest.mark.slow
async def test_a_parameter_without_dimensions(bus: Broker, tmp_path: Path) -> None:
    before, after = await train(bus, tmp_path, "Scalar")
    assert changed(before, after) == {"scale", "out.weight", "out.bias"}
    assert after["scale"].shape == ()


async def test_tied_weights_are_sent_once_and_stay_tied(bus: Broker, tmp_path: Path) -> None:
    before, after = await train(bus, tmp_path, "Tied")
    assert changed(before, after) == {"first.weight", "out.weight", "out.bias"}


async def test_frozen_parameters_stay_bit_for_bit(bus: Broker, tmp_path: Path) -> None:
    before, after = await train(bus, tmp_path, "Frozen")
    assert changed(before, after) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("module", ["Half", "Brain"])
async def test_a_model_of_half_precision(bus: Broker, tmp_path: Path, module: str) -> None:
    before, after = await train(bus, tmp_path, module)
    assert changed(before, after) == {"1.weight", "1.bias"}
    assert np.isfinite(after["1.weight"].astype(np.float32)).all()


async def test_a_model_of_one_parameter(bus: Broker, tmp_path: Path) -> None:
    before, after = await train(bus, tmp_path, "Single")
    assert changed(before, after) == {"slope"}


async def test_constants_with_infinities_and_tiny_numbers_stay_as_they_are(bus: Broker, tmp_path: Path) -> None:
    before, after = await train(bus, tmp_path, "Masked")
    assert changed(before, after) == {"out.weight", "out.bias"}
    assert np.isinf(after["mask"][1])
    assert "passing" not in after


@pytest.mark.parametrize("module", ["Several", "Lazy", "Doubles"])
async def test_modules_with_several_outputs_lazy_layers_or_float64(bus: Broker, tmp_path: Path, module: str) -> None:
    before, after = await train(bus, tmp_path, module)
    assert changed(before, after) == set(before)


@pytest.mark.slow
async def test_five_thousand_tensors(bus: Broker, tmp_path: Path) -> None:
    before, after = await train(bus, tmp_path, "Thousands")
    assert len(changed(before, after)) == 5000


async def test_a_learner_without_torch(bus: Broker, tmp_path: Path) -> None:
    learner = {"type": "tests.support.modules:Centres"}
    before, after = await train(bus, tmp_path, "", learner=learner)
    assert changed(before, after) == {"centres", "seen"}
    assert after["centres"].shape == (10, 64)


@pytest.mark.slow
@pytest.mark.xdist_group("much memory")
async def test_an_embedding_of_300_mb_in_a_process_of_its_own(
    bus: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The trainer imports the model from there.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    async with open_trainers(SITE) as trainers:
        before, after = await train(bus, tmp_path, "Large", rounds=1, trainers=trainers, optimizer="sgd")
    assert changed(before, after) == {"table.weight"}
