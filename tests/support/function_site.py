"""A broker, a client's shard and tasks for it: what the tests of the function start from."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from torch import Tensor

import broker
from broker import topics
from broker.base import Broker, Receipt, Value
from broker.messages import tensors as payload
from broker.messages.job import Model, Training
from broker.messages.round import BlobRef, RoundTask
from broker.messages.update import UpdateHeader
from client_fn.data import shards
from client_fn.training import loop, models, optimizers, tensors

SMALL = Model(args={"input_size": 4, "hidden": 5, "classes": 3})
HOW = Training(batch_size=4, local_epochs=2)
FAR = 4e9
"""A deadline in the next century."""


@dataclass
class Site:
    """A broker, a client's shard, and a count of what the function asks for."""

    bus: Broker
    data_loc: str
    gets: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    generator = np.random.default_rng(1)
    data_loc = f"{tmp_path}/client/shard.safetensors"
    shards.write(data_loc, generator.random((10, 2, 2), dtype=np.float32), np.arange(10) % 3)
    async with broker.connect(f"memory://{tmp_path.name}") as bus:
        made = Site(bus, data_loc)
        get, put, publish = bus.get, bus.put, bus.publish

        async def counted_get(topic: str) -> Value | None:
            made.gets.append(topic)
            return await get(topic)

        async def counted_put(topic: str, content: bytes, **more: Any) -> int:
            made.writes.append(topic)
            return await put(topic, content, **more)

        async def counted_publish(topic: str, content: bytes, **more: Any) -> Receipt:
            made.writes.append(topic)
            return await publish(topic, content, **more)

        monkeypatch.setattr(bus, "get", counted_get)
        monkeypatch.setattr(bus, "put", counted_put)
        monkeypatch.setattr(bus, "publish", counted_publish)
        yield made


def model_ref(blob: bytes) -> BlobRef:
    digest = hashlib.sha256(blob).hexdigest()
    return BlobRef(topics.model("job", digest), digest, len(blob))


async def published_model(bus: Broker, model: Model = SMALL, seed: int = 1) -> BlobRef:
    blob, _ = tensors.initial(model, seed)
    ref = model_ref(blob)
    await Broker.put(bus, ref.topic, blob)
    return ref


async def task_for(site: Site, **changes: Any) -> RoundTask:
    model = changes.get("model_configuration", SMALL)
    ref = changes.pop("model", None) or await published_model(site.bus, model)
    task = RoundTask(
        client_id="c1",
        client_type="local",
        url="",
        model_configuration=SMALL,
        data_loc=site.data_loc,
        training_hyperparameters=HOW,
        job="job",
        round=1,
        model=ref,
        state=None,
        token="t0ken",  # noqa: S106 (nobody's)
        seed=7,
        deadline_s=FAR,
        max_attempts=3,
    )
    return msgspec.structs.replace(task, **changes)


async def update_of(site: Site, round_: int = 1, attempt: int = 1) -> tuple[payload.Tensors, UpdateHeader]:
    """What a subscriber to the round's updates gets."""
    async with site.bus.subscribe(topics.round_updates("job", round_), start="first") as deliveries:
        async for delivery in deliveries:
            if delivery.topic == topics.update("job", round_, "c1", attempt):
                decoded, metadata = payload.decode(await delivery.read())
                return decoded, UpdateHeader.from_metadata(metadata)
    raise AssertionError("the subscription ended")


def trained_here(site: Site, base: bytes, state: bytes | None = None) -> tuple[dict[str, Tensor], bytes | None]:
    """The same training without the function."""
    module = models.build(SMALL, seed=0)
    tensors.load(module, tensors.from_bytes(base))
    optimizer = optimizers.make(HOW, module.parameters())
    if state:
        optimizers.load_state(optimizer, state)
    loop.train(module, optimizer, shards.read(site.data_loc), batch_size=4, epochs=2, seed=7)
    return tensors.trained_of(module), optimizers.state_to_bytes(optimizer)
