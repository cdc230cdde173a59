"""The function with a broker: what it fetches, trains, keeps and publishes."""

import hashlib
from pathlib import Path

import pytest

from broker import topics
from broker.messages.job import Model, Training
from broker.messages.round import BlobRef
from client_fn.data import sources
from client_fn.data.places import Place
from client_fn.data.sources import Source, Version
from client_fn.errors import DataMissing
from client_fn.function import handle
from client_fn.site import Site as ClientSite
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


async def test_the_update_is_the_training_of_the_global_model_on_the_client_s_shard(site: Site) -> None:
    task = await task_for(site)
    done = await handle(task, site.bus, warm_state(), attempt=1)
    got, header = await read_update(site)
    expected, state = train_locally(site, initial_weights(SMALL, 1))
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


async def test_the_state_is_stored_before_the_update(site: Site) -> None:
    await handle(await task_for(site), site.bus, warm_state(), attempt=2)
    assert site.writes == [topics.optimizer_state("job", "c1", 1, 2), topics.update("job", 1, "c1", 2)]


async def test_the_next_round_continues_from_the_state_that_its_task_names(site: Site) -> None:
    first = await handle(await task_for(site), site.bus, warm_state(), attempt=1)
    await handle(await task_for(site, round=2, state=first.header.state), site.bus, warm_state(), attempt=1)
    got, _ = await read_update(site, round_=2)
    base = initial_weights(SMALL, 1)
    _, state = train_locally(site, base)
    continued, restarted = train_locally(site, base, state)[0], train_locally(site, base)[0]
    assert got["out.weight"].tobytes() == continued["out.weight"].numpy().tobytes()
    assert got["out.weight"].tobytes() != restarted["out.weight"].numpy().tobytes()


@pytest.mark.parametrize("training", [Training(optimizer="sgd"), Training(optimizer_state="reset")])
async def test_no_state_is_put_if_the_optimizer_has_none_or_the_job_resets_it(site: Site, training: Training) -> None:
    done = await handle(await task_for(site, training_hyperparameters=training), site.bus, warm_state(), attempt=1)
    assert done.header.state is None
    assert site.writes == [topics.update("job", 1, "c1", 1)]


async def test_warm_and_cold_instances_give_the_same_tensors(site: Site) -> None:
    warm = warm_state()
    for attempt in (1, 2):
        await handle(await task_for(site), site.bus, warm, attempt=attempt)
    await handle(await task_for(site), site.bus, warm_state(), attempt=3)
    updates = [(await read_update(site, attempt=attempt))[0] for attempt in (1, 2, 3)]
    for name, array in updates[0].items():
        assert [update[name].tobytes() for update in updates] == [array.tobytes()] * 3


async def test_a_warm_instance_fetches_each_model_and_reads_its_shard_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    fetch = sources.fetch

    def counted(source: Source, place: Place, of: ClientSite) -> tuple[bytearray, Version]:
        reads.append(place.target)
        return fetch(source, place, of)

    monkeypatch.setattr(sources, "fetch", counted)
    warm = warm_state()
    tasks = [await task_for(site, round=r, training_hyperparameters=Training(optimizer="sgd")) for r in (1, 2, 3)]
    for task in tasks:
        await handle(task, site.bus, warm, attempt=1)
    assert site.gets == [tasks[0].model.topic]
    assert reads == [site.data_loc]
    other = await task_for(site, round=4, model=await publish_model(site.bus, seed=2))
    await handle(other, site.bus, warm, attempt=1)
    assert site.gets == [tasks[0].model.topic, other.model.topic]
    await handle(other, site.bus, warm_state(), attempt=2)
    assert site.gets[2:] == [other.model.topic]
    assert reads == [site.data_loc] * 2


async def test_the_warm_state_is_bounded(site: Site) -> None:
    warm = warm_state()
    for hidden in range(2, 7):
        model = Model(args={"input_size": 4, "hidden": hidden, "classes": 3})
        await handle(await task_for(site, model_configuration=model), site.bus, warm, attempt=hidden)
    assert len(warm.models) == 2


async def test_a_second_copy_of_a_task_changes_nothing(site: Site) -> None:
    task = await task_for(site)
    first = await handle(task, site.bus, warm_state(), attempt=1)
    second = await handle(task, site.bus, warm_state(), attempt=1)
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
        await task_for(site, model_configuration=Model(type="own_frozen_model:Net")), site.bus, warm_state(), attempt=1
    )
    got, _ = await read_update(site)
    assert sorted(got) == ["2.bias", "2.weight"]


async def test_a_dry_round_publishes_the_global_model_as_it_is(site: Site) -> None:
    task = await task_for(site, training_hyperparameters=Training(dry=True))
    done = await handle(task, site.bus, warm_state(), attempt=1)
    got, header = await read_update(site)
    base = tensors.from_bytes(initial_weights(SMALL, 1))
    assert {name: array.tobytes() for name, array in got.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in base.items()
    }
    assert (header.samples, header.metrics, header.state) == (10, {}, None)
    assert done.receipt.stored


async def test_a_dry_round_needs_no_data(site: Site) -> None:
    task = await task_for(site, training_hyperparameters=Training(dry=True), data_loc="")
    assert (await handle(task, site.bus, warm_state(), attempt=1)).header.samples == 1
    with pytest.raises(DataMissing, match="data_loc"):
        await handle(await task_for(site, data_loc="", round=2), site.bus, warm_state(), attempt=1)


async def test_the_callbacks_come_when_training_begins_and_when_it_is_over(site: Site) -> None:
    calls: list[tuple[str, int, bool]] = []
    warm = warm_state()
    await handle(
        await task_for(site),
        site.bus,
        warm,
        attempt=1,
        on_training=lambda: calls.append(("training", len(site.gets), warm.training_lock.locked())),
        on_trained=lambda: calls.append(("trained", len(site.writes), warm.training_lock.locked())),
    )
    assert calls == [("training", 1, True), ("trained", 0, False)]
