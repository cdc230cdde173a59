"""The function against a broker: what it fetches, trains, publishes, and when it does not."""

import asyncio
import hashlib
import threading
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
from broker import payload, topics
from broker.base import Broker, Receipt, Value
from broker.job import Model, Training
from broker.messages import BlobRef, RoundTask, UpdateHeader
from client_fn import models, optimizers, shards, tensors, training
from client_fn.errors import (
    BadModel,
    BadState,
    BaseMismatch,
    BlobMissing,
    DataMissing,
    LeaseOver,
    TrainingFailed,
)
from client_fn.function import Published, Warm, handle

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


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
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


async def published_model(bus: Broker, model: Model = SMALL, seed: int = 1) -> BlobRef:
    blob, _ = tensors.initial(model, seed)
    digest = hashlib.sha256(blob).hexdigest()
    ref = BlobRef(topics.model("job", digest), digest, len(blob))
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
    training.train(module, optimizer, shards.read(site.data_loc), batch_size=4, epochs=2, seed=7)
    return tensors.trained_of(module), optimizers.state_to_bytes(optimizer)


async def test_the_update_is_the_training_of_the_global_model_on_the_client_s_shard(site: Site) -> None:
    task = await task_for(site)
    done = await handle(task, site.bus, Warm(), attempt=1)
    got, header = await update_of(site)
    expected, state = trained_here(site, tensors.initial(SMALL, 1)[0])
    assert {name: array.tobytes() for name, array in got.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in expected.items()
    }
    assert header == done.header
    assert done.receipt.stored
    assert (header.job, header.round, header.client, header.attempt) == ("job", 1, "c1", 1)
    assert (header.samples, header.base, header.token) == (10, task.model.sha256, "t0ken")
    assert header.metrics["loss"] < header.metrics["first_epoch_loss"]
    assert header.metrics["steps"] == 6
    assert header.seconds.keys() == {"fetch", "data", "build", "train"}
    assert state is not None
    assert header.state == BlobRef(
        topics.optimizer_state("job", "c1", 1, 1), hashlib.sha256(state).hexdigest(), len(state)
    )


async def test_the_state_is_there_before_the_update(site: Site) -> None:
    await handle(await task_for(site), site.bus, Warm(), attempt=2)
    assert site.writes == [topics.optimizer_state("job", "c1", 1, 2), topics.update("job", 1, "c1", 2)]


async def test_the_next_round_goes_on_from_the_state_that_its_task_names(site: Site) -> None:
    first = await handle(await task_for(site), site.bus, Warm(), attempt=1)
    await handle(await task_for(site, round=2, state=first.header.state), site.bus, Warm(), attempt=1)
    got, _ = await update_of(site, round_=2)
    base = tensors.initial(SMALL, 1)[0]
    _, state = trained_here(site, base)
    carried, afresh = trained_here(site, base, state)[0], trained_here(site, base)[0]
    assert got["out.weight"].tobytes() == carried["out.weight"].numpy().tobytes()
    assert got["out.weight"].tobytes() != afresh["out.weight"].numpy().tobytes()


@pytest.mark.parametrize("how", [Training(optimizer="sgd"), Training(optimizer_state="reset")])
async def test_no_state_is_put_where_there_is_none_or_none_is_wanted(site: Site, how: Training) -> None:
    done = await handle(await task_for(site, training_hyperparameters=how), site.bus, Warm(), attempt=1)
    assert done.header.state is None
    assert site.writes == [topics.update("job", 1, "c1", 1)]


async def test_warm_and_cold_instances_give_the_same_tensors(site: Site) -> None:
    warm = Warm()
    for attempt in (1, 2):
        await handle(await task_for(site), site.bus, warm, attempt=attempt)
    await handle(await task_for(site), site.bus, Warm(), attempt=3)
    updates = [(await update_of(site, attempt=attempt))[0] for attempt in (1, 2, 3)]
    for name, array in updates[0].items():
        assert [update[name].tobytes() for update in updates] == [array.tobytes()] * 3


async def test_a_warm_instance_fetches_each_model_and_reads_its_shard_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = shards.read

    def counted(url: str) -> tuple[Tensor, Tensor]:
        reads.append(url)
        return read(url)

    monkeypatch.setattr(shards, "read", counted)
    warm = Warm()
    tasks = [await task_for(site, round=r, training_hyperparameters=Training(optimizer="sgd")) for r in (1, 2, 3)]
    for task in tasks:
        await handle(task, site.bus, warm, attempt=1)
    assert site.gets == [tasks[0].model.topic]
    assert reads == [site.data_loc]
    other = await task_for(site, round=4, model=await published_model(site.bus, seed=2))
    await handle(other, site.bus, warm, attempt=1)
    assert site.gets == [tasks[0].model.topic, other.model.topic]
    await handle(other, site.bus, Warm(), attempt=2)
    assert site.gets[2:] == [other.model.topic]
    assert reads == [site.data_loc] * 2


async def test_what_is_kept_is_bounded(site: Site) -> None:
    warm = Warm()
    for hidden in range(2, 7):
        model = Model(args={"input_size": 4, "hidden": hidden, "classes": 3})
        await handle(await task_for(site, model_configuration=model), site.bus, warm, attempt=hidden)
    assert (len(warm.models), len(warm.modules), len(warm.shards)) == (2, 2, 1)


async def test_models_with_other_args_never_share_a_module(site: Site) -> None:
    warm = Warm()
    for hidden in (5, 6, 5):
        model = Model(args={"input_size": 4, "hidden": hidden, "classes": 3})
        await handle(await task_for(site, round=hidden, model_configuration=model), site.bus, warm, attempt=1)
    modules = list(warm.modules.values())
    assert len({id(module) for module in modules}) == 2
    assert {module.get_parameter("hidden.weight").shape[0] for module in modules} == {5, 6}


async def test_a_second_copy_of_a_task_changes_nothing(site: Site) -> None:
    task = await task_for(site)
    first = await handle(task, site.bus, Warm(), attempt=1)
    second = await handle(task, site.bus, Warm(), attempt=1)
    assert (first.receipt.stored, second.receipt.stored) == (True, False)
    assert first.header.state == second.header.state


async def test_frozen_parameters_stay_out_of_the_update(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_frozen_model.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 3))\n"
        "        self[1].requires_grad_(False)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    await handle(
        await task_for(site, model_configuration=Model(type="own_frozen_model:Net")), site.bus, Warm(), attempt=1
    )
    got, _ = await update_of(site)
    assert sorted(got) == ["2.bias", "2.weight"]


async def test_a_dry_round_publishes_the_global_model_as_it_is(site: Site) -> None:
    task = await task_for(site, told={"train": False})
    done = await handle(task, site.bus, Warm(), attempt=1)
    got, header = await update_of(site)
    base = tensors.from_bytes(tensors.initial(SMALL, 1)[0])
    assert {name: array.tobytes() for name, array in got.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in base.items()
    }
    assert (header.samples, header.metrics, header.state) == (10, {}, None)
    assert done.receipt.stored


async def test_a_dry_round_needs_no_data(site: Site) -> None:
    task = await task_for(site, told={"train": False}, data_loc="")
    assert (await handle(task, site.bus, Warm(), attempt=1)).header.samples == 1
    with pytest.raises(DataMissing, match="data_loc"):
        await handle(await task_for(site, data_loc="", round=2), site.bus, Warm(), attempt=1)


async def test_the_callbacks_come_when_training_begins_and_when_it_is_over(site: Site) -> None:
    seen: list[tuple[str, int, bool]] = []
    warm = Warm()
    await handle(
        await task_for(site),
        site.bus,
        warm,
        attempt=1,
        on_training=lambda: seen.append(("training", len(site.gets), warm.turn.locked())),
        on_trained=lambda: seen.append(("trained", len(site.writes), warm.turn.locked())),
    )
    assert seen == [("training", 1, True), ("trained", 0, False)]


async def test_the_loop_lives_while_the_function_trains(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, released = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(*_: Any, **__: Any) -> dict[str, float]:
        loop.call_soon_threadsafe(begun.set)
        assert released.wait(10)
        return {"loss": 1.0}

    monkeypatch.setattr(training, "train", slow)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        work = group.create_task(handle(await task_for(site), site.bus, Warm(), attempt=1), name="handle")
        await begun.wait()
        assert await site.bus.get(topics.pointer("job")) is None
        released.set()
        assert (await work).header.metrics == {"loss": 1.0}


async def test_after_the_deadline_nothing_is_begun(site: Site) -> None:
    task = await task_for(site, deadline_s=100.0)
    with pytest.raises(LeaseOver) as failed:
        await handle(task, site.bus, Warm(), attempt=1, clock=lambda: 100.0)
    assert (failed.value.task, failed.value.deadline_s) == ("job.1.c1", 100.0)
    assert (site.gets, site.writes) == ([], [])


async def test_a_deadline_during_training_ends_it_and_nothing_is_published(site: Site) -> None:
    now = 1.0

    def training_begins() -> None:
        nonlocal now
        now = 1000.0

    with pytest.raises(LeaseOver):
        await handle(
            await task_for(site, deadline_s=1000.0),
            site.bus,
            Warm(),
            attempt=1,
            on_training=training_begins,
            clock=lambda: now,
        )
    assert site.writes == []


async def test_a_deadline_after_training_keeps_the_update_back(site: Site) -> None:
    now = 1.0

    def training_ends() -> None:
        nonlocal now
        now = 1000.0

    task = await task_for(site, deadline_s=1000.0, training_hyperparameters=Training(optimizer="sgd"))
    with pytest.raises(LeaseOver):
        await handle(task, site.bus, Warm(), attempt=1, on_trained=training_ends, clock=lambda: now)
    assert site.writes == []


async def test_a_broker_that_does_not_answer_costs_no_more_than_the_lease(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(site.bus, "get", silent)
    with pytest.raises(LeaseOver):
        await handle(await task_for(site, deadline_s=10.0), site.bus, Warm(), attempt=1, clock=lambda: 9.99)


async def test_a_time_out_of_another_kind_is_not_taken_for_the_deadline(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: str) -> None:
        raise TimeoutError("somewhere else")

    monkeypatch.setattr(site.bus, "get", fails)
    with pytest.raises(TimeoutError, match="somewhere else"):
        await handle(await task_for(site), site.bus, Warm(), attempt=1)


async def test_a_cancelled_task_stops_its_thread_before_the_next_one_trains(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    ended: list[str] = []
    train = training.train

    def endless(*_: Any, before_batch: Any, **__: Any) -> dict[str, float]:
        loop.call_soon_threadsafe(begun.set)
        try:
            while True:
                before_batch()
        finally:
            ended.append("thread")

    monkeypatch.setattr(training, "train", endless)
    warm = Warm()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        first = group.create_task(handle(await task_for(site), site.bus, warm, attempt=1), name="first")
        await begun.wait()
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert ended == ["thread"]
        monkeypatch.setattr(training, "train", train)
        await handle(await task_for(site), site.bus, warm, attempt=2)
    assert site.writes == [topics.optimizer_state("job", "c1", 1, 2), topics.update("job", 1, "c1", 2)]


async def test_tasks_of_one_instance_train_one_after_the_other(site: Site) -> None:
    events: list[str] = []
    warm = Warm()

    async def one(attempt: int) -> Published:
        return await handle(
            await task_for(site),
            site.bus,
            warm,
            attempt=attempt,
            on_training=lambda: events.append("begin"),
            on_trained=lambda: events.append("end"),
        )

    async with asyncio.TaskGroup() as group:
        for attempt in (1, 2, 3):
            group.create_task(one(attempt), name=f"attempt {attempt}")
    assert events == ["begin", "end"] * 3


async def test_a_model_that_the_broker_has_not_is_named(site: Site) -> None:
    ref = BlobRef(topics.model("job", "f" * 64), "f" * 64, 10)
    with pytest.raises(BlobMissing) as failed:
        await handle(await task_for(site, model=ref), site.bus, Warm(), attempt=1)
    assert failed.value.topic == ref.topic


async def test_a_model_with_another_digest_is_refused_and_not_kept(site: Site) -> None:
    topic = topics.model("job", "f" * 64)
    await Broker.put(site.bus, topic, tensors.initial(SMALL, 1)[0])
    warm = Warm()
    with pytest.raises(BaseMismatch) as failed:
        await handle(await task_for(site, model=BlobRef(topic, "f" * 64, 10)), site.bus, warm, attempt=1)
    assert failed.value.expected == "f" * 64
    assert not warm.models


async def test_state_that_is_missing_changed_or_foreign_is_an_error(site: Site) -> None:
    topic = topics.optimizer_state("job", "c1", 0, 1)
    with pytest.raises(BlobMissing):
        await handle(await task_for(site, state=BlobRef(topic, "e" * 64, 1)), site.bus, Warm(), attempt=1)
    foreign = tensors.to_bytes({"0.momentum": torch.ones(2)})
    await Broker.put(site.bus, topic, foreign)
    with pytest.raises(BaseMismatch):
        await handle(await task_for(site, state=BlobRef(topic, "e" * 64, 1)), site.bus, Warm(), attempt=1)
    ref = BlobRef(topic, hashlib.sha256(foreign).hexdigest(), len(foreign))
    with pytest.raises(BadState):
        await handle(await task_for(site, state=ref), site.bus, Warm(), attempt=1)
    assert site.writes == []


async def test_a_user_s_mistakes_are_named_and_nothing_is_published(site: Site) -> None:
    ref = await published_model(site.bus)
    wrong = Model(type="no_such_package:Net")
    with pytest.raises(BadModel) as no_model:
        await handle(await task_for(site, model=ref, model_configuration=wrong), site.bus, Warm(), attempt=1)
    with pytest.raises(DataMissing) as no_data:
        await handle(await task_for(site, data_loc="/nowhere/shard"), site.bus, Warm(), attempt=1)
    large = Model(args={"input_size": 9})
    with pytest.raises(TrainingFailed, match=r"samples of shape \(2, 2\)"):
        await handle(await task_for(site, model_configuration=large), site.bus, Warm(), attempt=1)
    assert (no_model.value.retryable, no_data.value.retryable) == (False, True)
    assert site.writes == []


async def test_an_instance_recovers_from_a_training_that_failed(site: Site) -> None:
    warm = Warm()
    hot = Training(optimizer="sgd", learning_rate=1e38, batch_size=4, local_epochs=2)
    with pytest.raises(TrainingFailed, match="learning rate"):
        await handle(await task_for(site, training_hyperparameters=hot), site.bus, warm, attempt=1)
    await handle(await task_for(site), site.bus, warm, attempt=2)
    got, _ = await update_of(site, attempt=2)
    expected, _ = trained_here(site, tensors.initial(SMALL, 1)[0])
    assert got["out.weight"].tobytes() == expected["out.weight"].numpy().tobytes()
