"""Jobs on data that only the clients have: raw columns, a test set of the server's, none at all, frozen layers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import broker
from broker.base import Broker
from broker.messages import job_file, progress, tensors
from broker.messages.progress import Progress
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from client_fn.data import shards
from client_fn.data.shard_cache import ShardCache
from client_fn.function import Published, WarmState, handle
from client_fn.site import Site
from fedkeeper.sdk import Client
from fedkeeper.services.learning import TrainerLearning
from server.service import serve
from tests.support.fakes import Fleet, running
from tests.support.job_progress import events_of
from tests.support.trainers import InlineTrainers

pytestmark = pytest.mark.torch

SITE = Site(allow=("tests",))
CLIENTS = ("c-0", "c-1")


@dataclass
class Fabric:
    """A server and two clients with four columns of raw numbers; each client has a worker of its own."""

    bus: Broker
    folder: Path
    sdk: Client
    tasks: list[RoundTask] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)

    async def run(self, until: type[Any] = progress.JobFailed, **tables: Any) -> list[Progress]:
        """Run a job to its end, or cancel it at an event of the kind `until`; return its events."""
        warm = {client: WarmState(InlineTrainers(), SITE, ShardCache(SITE)) for client in CLIENTS}

        async def function(bus: Broker, task: RoundTask) -> None:
            self.tasks.append(task)
            self.published.append(await handle(task, bus, warm[task.client_id], attempt=1))

        base: dict[str, Any] = {
            "data": {"dataset": "raw", "clients": 2},
            "model": {"type": "tests.support.modules:RawColumns"},
            "cohort": {"clients": 2, "deadline_s": 600.0},
            "training": {"local_epochs": 1},
            "stop": {"rounds": 2},
        }
        for name, table in tables.items():
            base[name] = {**base.get(name, {}), **table} if isinstance(table, dict) else table
        job = job_file.from_dict(base)
        learning = TrainerLearning(SITE, InlineTrainers(), None)
        async with running(serve(self.bus, learning), Fleet(self.bus, function).serve()), asyncio.timeout(600):
            messages, job_id = [], await self.sdk.submit(job)
            async for message in self.sdk.watch(job_id):
                messages.append(message)
                if isinstance(message.event, until):
                    await self.sdk.cancel(job_id)
        return messages


@pytest.fixture
async def fabric(memory_url: str, tmp_path: Path) -> AsyncIterator[Fabric]:
    generator = np.random.default_rng(1)
    async with broker.connect(memory_url) as bus:
        sdk, records = Client(bus), []
        for name in (*CLIENTS, "test"):
            x = (generator.normal(0, 50_000, (60, 4))).astype(np.float32)
            shards.write(f"{tmp_path}/{name}/shard.safetensors", x, (x[:, 0] > 0).astype(np.int64))
            place = f"{tmp_path}/{name}/shard.safetensors"
            records.append(ClientRecord(id=name, platform="fake", data_loc=place, labels={"data": "raw"}, samples=60))
        await sdk.register(records[:2])
        yield Fabric(bus, tmp_path, sdk)


async def test_statistics_of_raw_columns_are_refused_with_the_setting_that_lifts_the_bound(fabric: Fabric) -> None:
    messages = await fabric.run(until=progress.UpdateRefused)
    refused = events_of(messages, progress.UpdateRefused)[0]
    assert refused.code == "magnitude"
    assert "0.running_" in refused.reason
    assert refused.reason.endswith("is accepted: training.headroom lifts this bound")


async def test_headroom_lets_a_model_normalise_raw_columns(fabric: Fabric) -> None:
    messages = await fabric.run(training={"headroom": {"*.running_*": 40}})
    assert messages[-1].event.what == "job.completed"
    model, _ = tensors.decode(await fabric.sdk.model(messages[-1].job))
    assert float(model["0.running_var"].min()) > 2**20


WIDE: dict[str, Any] = {"training": {"headroom": {"*.running_*": 40}}}


async def test_the_server_judges_on_a_test_set_of_its_own(fabric: Fabric) -> None:
    at = f"file://{fabric.folder}/test/shard.safetensors"
    messages = await fabric.run(**WIDE, evaluation={"data": at, "best": "loss"})
    evaluated = events_of(messages, progress.ModelEvaluated)
    assert [event.round for event in evaluated] == [1, 2]
    assert all(event.samples == 60 and event.metrics.keys() >= {"accuracy", "loss"} for event in evaluated)
    assert events_of(messages, progress.JobCompleted)[0].best_round in (1, 2)


async def test_a_test_set_may_have_another_format_than_the_shards(fabric: Fabric) -> None:
    rows = "\n".join(f"{number},{-number},7,1,{number % 2},row-{number}" for number in range(30))
    (fabric.folder / "test.csv").write_text(f"a,b,c,d,label,id\n{rows}\n")
    reading, judging = {"target": "label", "drop": ["id"]}, {"data": f"{fabric.folder}/test.csv"}
    messages = await fabric.run(**WIDE, data=reading, evaluation=judging)
    assert [event.samples for event in events_of(messages, progress.ModelEvaluated)] == [30, 30]
    # One round: no client trains any more when the job fails and what it has left is deleted.
    wrong = await fabric.run(**WIDE, data={**reading, "target": "price"}, evaluation=judging, stop={"rounds": 1})
    failed = events_of(wrong, progress.JobFailed)
    assert "it has no column 'price', which data.target names" in failed[0].reason


async def test_without_a_test_set_nothing_is_judged_and_nothing_fails(fabric: Fabric) -> None:
    messages = await fabric.run(**WIDE)
    assert events_of(messages, progress.ModelEvaluated) == []
    assert messages[-1].event.what == "job.completed"


async def test_a_missing_test_set_fails_the_job_before_its_first_round(fabric: Fabric) -> None:
    messages = await fabric.run(**WIDE, evaluation={"data": f"file://{fabric.folder}/none.safetensors"})
    (failed,) = events_of(messages, progress.JobFailed)
    assert failed.reason.startswith(f"evaluation.data = 'file://{fabric.folder}/none.safetensors', ")
    assert failed.reason.endswith("read by the server: no file lies there")
    assert events_of(messages, progress.RoundOpened) == []


async def test_an_override_reaches_the_training_of_exactly_one_client(fabric: Fabric) -> None:
    await fabric.run(**WIDE, override=[{"where": {"id": "c-1"}, "batch_size": 60, "learning_rate": 0.5}])
    steps = {(each.header.client, each.header.metrics["steps"]) for each in fabric.published}
    assert steps == {("c-0", 6.0), ("c-1", 1.0)}


@pytest.mark.parametrize("frozen", ["send", "site"])
async def test_frozen_layers_cost_nothing_after_the_first_round(fabric: Fabric, frozen: str) -> None:
    messages = await fabric.run(model={"type": "tests.support.modules:Adapted", "frozen": frozen}, stop={"rounds": 3})
    assert messages[-1].event.what == "job.completed", messages[-1].event
    completed = events_of(messages, progress.RoundCompleted)
    sent = fabric.tasks[0].frozen
    bytes_of_base = 0 if sent is None else sent.bytes
    small = 4096
    assert completed[0].bytes_out < len(CLIENTS) * (bytes_of_base + small)
    assert completed[0].bytes_out > len(CLIENTS) * bytes_of_base
    assert (bytes_of_base > 10 * small) is (frozen == "send")
    assert all(event.bytes_out < len(CLIENTS) * small for event in completed[1:])
    assert all(event.model.bytes < small for event in completed)
