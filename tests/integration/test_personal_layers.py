"""FedBN and FedPer over a real broker: personal layers never reach it, and each client learns its own."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

import broker
from broker.base import Broker
from broker.messages import job_file as jobs
from broker.messages import tensors
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.progress import ModelEvaluated
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.messages.tensors import Tensors
from broker.nats.server import NatsServer
from client_fn.data import datasets, shards
from client_fn.data.shard_cache import ShardCache
from client_fn.function import WarmState, handle
from client_fn.site import Site
from client_fn.training import models
from client_fn.training import tensors as of_torch
from client_fn.training.orders import Model
from fedkeeper.sdk import Client
from fedkeeper.services.learning import TrainerLearning
from server.service import serve
from tests.support.fakes import Fleet, running
from tests.support.shard_files import read_shard
from tests.support.tap import Tap, tapped
from tests.support.trainers import InlineTrainers

pytestmark = [pytest.mark.torch, pytest.mark.slow]

CLIENTS = 4
ROUNDS = 4
TYPE = "tests.support.modules:BatchNormed"
NORM = ("2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked")
HEAD = ("3.weight", "3.bias")


@dataclass
class Trained:
    """A job that has run.

    Attributes:
        record: its record.
        model: its global model.
        tap: what the broker was sent and stores.
        kept: every file of personal layers that was ever written, by client, in the order of writing.
        shards: path of each client's shard.
        judged: what the evaluations said, by round.
    """

    record: JobRecord
    model: Tensors
    tap: Tap
    kept: dict[str, list[Tensors]]
    shards: dict[str, str]
    judged: dict[int, ModelEvaluated]


def job_of(personal: list[str], partition: str) -> Job:
    return jobs.from_dict(
        {
            "id": "own",
            "model": {"type": TYPE, "personal": personal},
            "training": {"local_epochs": 2, "batch_size": 32, "learning_rate": 0.01},
            "data": {"dataset": "digits", "partition": partition, "clients": CLIENTS},
            "cohort": {"clients": CLIENTS, "deadline_s": 600.0},
            "evaluation": {"holdout": 0.2},
            "stop": {"rounds": ROUNDS},
        }
    )


async def train(server: NatsServer, folder: Path, job: Job) -> Trained:
    """Run a job, with a broker that is watched from its beginning."""
    trainers, site = InlineTrainers(), Site()
    warm, kept = WarmState(trainers, site, ShardCache(site)), dict[str, list[Tensors]]()

    async def function(bus: Broker, task: RoundTask) -> None:
        done = await handle(task, bus, warm, attempt=1)
        if task.purpose == "evaluate":
            return
        name = f"{task.round}.1.{done.header.personal[:12]}.safetensors"
        file = folder / task.client_id / "state" / "own" / task.client_id / name
        content = await asyncio.to_thread(file.read_bytes)
        kept.setdefault(task.client_id, []).append(tensors.decode(content)[0])

    records = shards.stage(datasets.load("digits"), job.data, str(folder), platform="fake")
    if job.data.partition == "iid":
        shift_features(records)
    async with broker.connect(server.url) as bus:
        sdk = Client(bus)
        await sdk.register(records)
        async with tapped(server) as tap, asyncio.timeout(600):
            async with running(serve(bus, TrainerLearning(site, trainers, None)), Fleet(bus, function).serve()):
                await sdk.submit(job)
                events = [message.event async for message in sdk.watch("own")]
            assert events[-1].what == "job.completed", events[-1]
        model, _ = tensors.decode(await sdk.model("own"))
        judged = {event.round: event for event in events if isinstance(event, ModelEvaluated)}
        return Trained(await sdk.job("own"), model, tap, kept, {each.id: each.data_loc for each in records}, judged)


def shift_features(records: list[ClientRecord]) -> None:
    """Give each client's samples a brightness and a contrast of its own, as different cameras would."""
    for number, record in enumerate(records):
        x, y = read_shard(record.data_loc)
        shards.write(record.data_loc, x * np.float32(3.0**number) - np.float32(5 * number), y)


def telling_parts(kept: dict[str, list[Tensors]]) -> Iterator[tuple[str, bytes]]:
    """The bytes of all tensors that no other content equals by chance: 16 bytes that are not all alike."""
    for client, files in kept.items():
        for round_, file in enumerate(files, 1):
            for name, array in file.items():
                content = np.ascontiguousarray(array).tobytes()
                if len(content) >= 16 and len(set(content)) > 4:
                    yield f"{name} of {client} in round {round_}", content


def accuracy(trained: Trained, client: str, own: Tensors) -> float:
    """Share of right answers on a client's shard, with the global model and some personal layers."""
    module = models.build(Model(TYPE), seed=0)
    whole = {**trained.model, **{name: array for name, array in own.items() if not name.startswith("optimizer/")}}
    of_torch.load(module, {name: torch.from_numpy(np.array(array)) for name, array in whole.items()})
    x, y = read_shard(trained.shards[client])
    module.eval()
    with torch.no_grad():
        answers = module(torch.from_numpy(x).float()).argmax(1).numpy()
    return float((answers == y).mean())


@pytest.mark.parametrize(
    ("patterns", "names", "partition"),
    [(["2.*"], NORM, "iid"), (["3.*"], HEAD, "shards")],
    ids=["FedBN with other features", "FedPer with other labels"],
)
async def test_personal_layers_never_reach_the_broker_and_each_client_learns_its_own(
    nats_server: NatsServer, tmp_path: Path, patterns: list[str], names: tuple[str, ...], partition: str
) -> None:
    trained = await train(nats_server, tmp_path / "shards", job_of(patterns, partition))
    assert not set(names) & trained.model.keys()
    assert {client: len(files) for client, files in trained.kept.items()} == dict.fromkeys(trained.shards, ROUNDS)

    # The tap sees what it should: the shared tensors' names and bytes.
    shared = next(name for name in trained.model if name.startswith("1."))
    assert any(place.startswith("fl.updates.") for place in trained.tap.places_of(shared.encode()))
    assert any(place.startswith("fl.models.") for place in trained.tap.places_of(trained.model[shared].tobytes()))
    parts = list(telling_parts(trained.kept))
    assert len(parts) >= CLIENTS * ROUNDS * 3
    assert {what: trained.tap.places_of(content) for what, content in parts if trained.tap.places_of(content)} == {}
    # Their names are in the job's record alone, which tells which tensors are personal.
    on_record = msgspec.json.encode(names)
    assert trained.record.personal == names
    assert {name: trained.tap.places_of(name.encode(), but_in=on_record) for name in names} == {n: set() for n in names}
    assert trained.tap.places_of(b"optimizer/") == set(), "no state of the optimizer's is there"

    last = {client: files[-1] for client, files in trained.kept.items()}
    assert len({last[client][names[0]].tobytes() for client in last}) == CLIENTS, "each client has its own"
    with_own = np.mean([accuracy(trained, client, own) for client, own in last.items()])
    with_first = np.mean([accuracy(trained, client, files[0]) for client, files in trained.kept.items()])
    with_others = np.mean(
        [accuracy(trained, client, last[other]) for client in last for other in last if other != client]
    )
    assert with_own > with_first
    assert with_own > with_others + 0.2
    # Clients judge it with the layers of their own, also the last model, which nobody has trained on.
    assert {event.by for event in trained.judged.values()} == {"clients"}
    assert trained.judged[ROUNDS].clients == CLIENTS
    assert (trained.judged[ROUNDS].accuracy or 0) > with_others + 0.2
