"""The function publishes nothing after its deadline, after a cancellation, or after an error."""

import asyncio
import hashlib

import pytest
import torch

from broker import topics
from broker.base import Broker
from broker.deliveries import Receipt
from broker.errors import BrokerError, Disconnected, StorageFull, StoreChanged
from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef
from client_fn import function
from client_fn.errors import (
    BadModel,
    BlobMissing,
    DataMissing,
    LeaseOver,
    TrainingFailed,
)
from client_fn.function import Published, handle
from client_fn.training import tensors
from tests.support.function_site import (
    SMALL,
    Site,
    initial_weights,
    publish_model,
    read_update,
    task_for,
    train_locally,
)
from tests.support.trainers import warm_state

pytestmark = pytest.mark.torch


async def test_nothing_begins_after_the_deadline(site: Site) -> None:
    task = await task_for(site, deadline_s=100.0)
    with pytest.raises(LeaseOver) as failed:
        await handle(task, site.bus, warm_state(), attempt=1, clock=lambda: 100.0)
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
            warm_state(),
            attempt=1,
            on_training=training_begins,
            clock=lambda: now,
        )
    assert site.writes == []


async def test_a_deadline_after_training_withholds_the_update(site: Site) -> None:
    now = 1.0

    def training_ends() -> None:
        nonlocal now
        now = 1000.0

    task = await task_for(site, deadline_s=1000.0, training_hyperparameters=Training(optimizer="sgd"))
    with pytest.raises(LeaseOver):
        await handle(task, site.bus, warm_state(), attempt=1, on_trained=training_ends, clock=lambda: now)
    assert site.writes == []


async def test_a_broker_that_does_not_answer_costs_no_more_than_the_lease(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(site.bus, "get", silent)
    with pytest.raises(LeaseOver):
        await handle(await task_for(site, deadline_s=10.0), site.bus, warm_state(), attempt=1, clock=lambda: 9.99)


async def test_another_timeout_error_is_not_mistaken_for_the_deadline(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: str) -> None:
        raise TimeoutError("somewhere else")

    monkeypatch.setattr(site.bus, "get", fails)
    with pytest.raises(TimeoutError, match="somewhere else"):
        await handle(await task_for(site), site.bus, warm_state(), attempt=1)


async def test_tasks_of_one_instance_train_one_after_the_other(site: Site) -> None:
    events: list[str] = []
    warm = warm_state()

    async def run(attempt: int) -> Published:
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
            group.create_task(run(attempt), name=f"attempt {attempt}")
    assert events == ["begin", "end"] * 3


async def test_a_model_that_the_broker_lacks_is_named(site: Site) -> None:
    ref = BlobRef(topics.model("job", "f" * 64), "f" * 64, 10)
    with pytest.raises(BlobMissing) as failed:
        await handle(await task_for(site, model=ref), site.bus, warm_state(), attempt=1)
    assert failed.value.topic == ref.topic


async def test_a_model_with_another_digest_is_refused_and_not_kept(site: Site) -> None:
    topic = topics.model("job", "f" * 64)
    await Broker.put(site.bus, topic, initial_weights(SMALL, 1))
    warm = warm_state()
    with pytest.raises(BlobMissing, match=f"the task announces {'f' * 64}") as failed:
        await handle(await task_for(site, model=BlobRef(topic, "f" * 64, 10)), site.bus, warm, attempt=1)
    assert failed.value.topic == topic
    assert not warm.models


async def test_state_that_is_missing_changed_or_foreign_is_an_error(site: Site) -> None:
    topic = topics.client_state("job", "c1", 0, 1, "opt")
    with pytest.raises(BlobMissing, match="holds nothing"):
        await handle(
            await task_for(site, states={"opt": BlobRef(topic, "e" * 64, 1)}), site.bus, warm_state(), attempt=1
        )
    foreign = tensors.to_bytes({"0.momentum": torch.ones(2)})
    await Broker.put(site.bus, topic, foreign)
    with pytest.raises(BlobMissing, match="SHA-256"):
        await handle(
            await task_for(site, states={"opt": BlobRef(topic, "e" * 64, 1)}), site.bus, warm_state(), attempt=1
        )
    ref = BlobRef(topic, hashlib.sha256(foreign).hexdigest(), len(foreign))
    with pytest.raises(TrainingFailed, match="this optimizer keeps"):
        await handle(await task_for(site, states={"opt": ref}), site.bus, warm_state(), attempt=1)
    assert site.writes == []


async def test_a_user_s_mistakes_are_named_and_nothing_is_published(site: Site) -> None:
    ref = await publish_model(site.bus)
    wrong = Model(type="no_such_package:Net")
    with pytest.raises(BadModel) as no_model:
        await handle(await task_for(site, model=ref, model_configuration=wrong), site.bus, warm_state(), attempt=1)
    with pytest.raises(DataMissing) as no_data:
        await handle(await task_for(site, data_loc="/nowhere/shard"), site.bus, warm_state(), attempt=1)
    large = Model(args={"input_size": 9})
    with pytest.raises(TrainingFailed, match=r"samples of shape \(2, 2\)"):
        await handle(await task_for(site, model_configuration=large), site.bus, warm_state(), attempt=1)
    assert (no_model.value.retryable, no_data.value.retryable) == (False, True)
    assert site.writes == []


async def test_an_instance_recovers_from_a_training_that_failed(site: Site) -> None:
    warm = warm_state()
    hot = Training(optimizer="sgd", learning_rate=1e38, batch_size=4, local_epochs=2)
    with pytest.raises(TrainingFailed, match="learning rate"):
        await handle(await task_for(site, training_hyperparameters=hot), site.bus, warm, attempt=1)
    await handle(await task_for(site), site.bus, warm, attempt=2)
    got, _ = await read_update(site, attempt=2)
    expected, _ = train_locally(site, initial_weights(SMALL, 1))
    assert got["out.weight"].tobytes() == expected["out.weight"].numpy().tobytes()


@pytest.mark.parametrize(
    "error", [Disconnected("no connection for 30 s"), StorageFull("fl.updates", "its disk is full")]
)
async def test_a_trained_update_waits_while_the_broker_is_away_or_full(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: BrokerError
) -> None:
    monkeypatch.setattr(function, "RETRY_S", 0.0)
    away, publish = 3, site.bus.publish

    async def publish_later(topic: str, payload: bytes) -> Receipt:
        nonlocal away
        if away:
            away -= 1
            raise error
        return await publish(topic, payload)

    monkeypatch.setattr(site.bus, "publish", publish_later)
    trainings = 0

    def training_begins() -> None:
        nonlocal trainings
        trainings += 1

    await handle(await task_for(site), site.bus, warm_state(), attempt=1, on_training=training_begins)
    assert (away, trainings) == (0, 1)
    assert (await read_update(site))[1].client == "c1"


async def test_a_connection_to_another_store_is_not_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_topic: str, _payload: bytes) -> Receipt:
        raise StoreChanged("nats://host", "it was emptied")

    monkeypatch.setattr(site.bus, "publish", never)
    with pytest.raises(StoreChanged):
        await asyncio.wait_for(handle(await task_for(site), site.bus, warm_state(), attempt=1), 60)


async def test_an_update_waits_no_longer_than_its_lease(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "RETRY_S", 0.0)
    now = 1.0

    async def never(_topic: str, _payload: bytes) -> Receipt:
        nonlocal now
        now += 400.0
        raise Disconnected("no connection for 30 s")

    monkeypatch.setattr(site.bus, "publish", never)
    with pytest.raises(LeaseOver):
        await handle(await task_for(site, deadline_s=1000.0), site.bus, warm_state(), attempt=1, clock=lambda: now)
