"""A site for tests of the function: a broker, a client's shard, and tasks for the client."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

import broker
from broker import topics
from broker.base import Broker
from broker.deliveries import Receipt, Value
from broker.messages import tensors as payload
from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef, RoundTask
from broker.messages.update import UpdateHeader
from client_fn.data import shards
from client_fn.training import models, optimizer_states, optimizers, tensors
from tests.support import loops
from tests.support.shard_files import read_shard

SMALL = Model(args={"input_size": 4, "hidden": 5, "classes": 3})
TRAINING = Training(batch_size=4, local_epochs=2)
FAR = 4e9
"""A deadline in the next century, in seconds since the epoch."""


@dataclass
class Site:
    """A broker and a client's shard.

    Attributes:
        gets: the topics that the function read, in order.
        writes: the topics that the function wrote, in order.
    """

    bus: Broker
    data_loc: str
    gets: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def open_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    generator = np.random.default_rng(1)
    data_loc = f"{tmp_path}/client/shard.safetensors"
    shards.write(data_loc, generator.random((10, 2, 2), dtype=np.float32), np.arange(10) % 3)
    async with broker.connect(f"memory://{tmp_path.name}") as bus:
        site = Site(bus, data_loc)
        get, put, publish = bus.get, bus.put, bus.publish

        async def counted_get(topic: str) -> Value | None:
            site.gets.append(topic)
            return await get(topic)

        async def counted_put(topic: str, content: bytes, **options: Any) -> int:
            site.writes.append(topic)
            return await put(topic, content, **options)

        async def counted_publish(topic: str, content: bytes, **options: Any) -> Receipt:
            site.writes.append(topic)
            return await publish(topic, content, **options)

        monkeypatch.setattr(bus, "get", counted_get)
        monkeypatch.setattr(bus, "put", counted_put)
        monkeypatch.setattr(bus, "publish", counted_publish)
        yield site


def initial_weights(model: Model, seed: int) -> bytes:
    """The first global model of a job, a safetensors file."""
    return tensors.to_bytes(tensors.tensors_of(models.build(model, seed=seed)))


def model_ref(blob: bytes) -> BlobRef:
    digest = hashlib.sha256(blob).hexdigest()
    return BlobRef(topics.model("job", digest), digest, len(blob))


async def publish_model(bus: Broker, model: Model = SMALL, seed: int = 1) -> BlobRef:
    blob = initial_weights(model, seed)
    ref = model_ref(blob)
    await Broker.put(bus, ref.topic, blob)
    return ref


async def task_for(site: Site, **changes: Any) -> RoundTask:
    model = changes.get("model_configuration", SMALL)
    ref = changes.pop("model", None) or await publish_model(site.bus, model)
    task = RoundTask(
        client_id="c1",
        client_type="local",
        url="",
        model_configuration=SMALL,
        data_loc=site.data_loc,
        training_hyperparameters=TRAINING,
        update=changes.get("training_hyperparameters", TRAINING).update,
        job="job",
        round=1,
        model=ref,
        token="t0ken",  # noqa: S106 (nobody's)
        seed=7,
        deadline_s=FAR,
        max_attempts=3,
    )
    return msgspec.structs.replace(task, **changes)


async def read_update(site: Site, round_: int = 1, attempt: int = 1) -> tuple[payload.Tensors, UpdateHeader]:
    """Read an update as a subscriber to the round's updates does."""
    async with site.bus.subscribe(topics.round_updates("job", round_), start="first") as deliveries:
        async for delivery in deliveries:
            if delivery.topic == topics.update("job", round_, "c1", attempt):
                decoded, metadata = payload.decode(await delivery.read())
                return decoded, UpdateHeader.from_metadata(metadata)
    raise AssertionError("the subscription ended")


def train_locally(site: Site, base: bytes, state: bytes | None = None) -> tuple[dict[str, Tensor], bytes | None]:
    """Train as the function does, but without it; return the update's deltas and the optimizer state."""
    module, start = models.build(SMALL, seed=0), tensors.from_bytes(base)
    tensors.load(module, start)
    optimizer = optimizers.make(TRAINING, module.parameters())
    if state:
        optimizer_states.load(optimizer, state)
    x, y = read_shard(site.data_loc)
    loops.train(module, optimizer, (torch.from_numpy(x), torch.from_numpy(y)), batch_size=4, epochs=2, seed=7)
    deltas = {name: tensor - start[name] for name, tensor in tensors.trained_of(module).items()}
    return deltas, optimizer_states.to_bytes(optimizer)
