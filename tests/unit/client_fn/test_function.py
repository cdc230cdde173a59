"""The function with a broker: what it fetches, trains, keeps and publishes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from broker import topics
from broker.base import Broker
from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef
from broker.messages.strategy import FedAvg, FedProx
from client_fn.data import sources
from client_fn.data.places import Place
from client_fn.data.shard_cache import ShardCache
from client_fn.data.sources import Fetched, Source
from client_fn.errors import DataMissing, TrainerDied
from client_fn.function import WarmState, handle
from client_fn.site import Site as ClientSite
from client_fn.trainer.answers import Answer
from client_fn.training import processor, tensors
from client_fn.training.orders import Order, Train
from tests.support.function_site import (
    SMALL,
    Site,
    initial_weights,
    publish_model,
    read_update,
    task_for,
    train_locally,
)
from tests.support.trainers import InlineTrainers, warm_state

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
    state_at = topics.client_state("job", "c1", 1, 1, "opt")
    assert header.states == {"opt": BlobRef(state_at, hashlib.sha256(state).hexdigest(), len(state))}
    assert (header.update, header.strategy) == ("delta", "fedavg")
    assert header.processor == processor.name()


async def test_the_state_is_stored_before_the_update(site: Site) -> None:
    await handle(await task_for(site), site.bus, warm_state(), attempt=2)
    assert site.writes == [topics.client_state("job", "c1", 1, 2, "opt"), topics.update("job", 1, "c1", 2)]


async def test_the_next_round_continues_from_the_state_that_its_task_names(site: Site) -> None:
    first = await handle(await task_for(site), site.bus, warm_state(), attempt=1)
    await handle(await task_for(site, round=2, states=first.header.states), site.bus, warm_state(), attempt=1)
    got, _ = await read_update(site, round_=2)
    base = initial_weights(SMALL, 1)
    _, state = train_locally(site, base)
    continued, restarted = train_locally(site, base, state)[0], train_locally(site, base)[0]
    assert got["out.weight"].tobytes() == continued["out.weight"].numpy().tobytes()
    assert got["out.weight"].tobytes() != restarted["out.weight"].numpy().tobytes()


@pytest.mark.parametrize("training", [Training(optimizer="sgd"), Training(optimizer_state="reset")])
async def test_no_state_is_put_if_the_optimizer_has_none_or_the_job_resets_it(site: Site, training: Training) -> None:
    done = await handle(await task_for(site, training_hyperparameters=training), site.bus, warm_state(), attempt=1)
    assert done.header.states == {}
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

    def counted(source: Source, place: Place, of: ClientSite, key: bytes) -> Fetched:
        reads.append(place.target)
        return fetch(source, place, of, key)

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
    assert first.header.states == second.header.states


class Answering(InlineTrainers):
    """Answers each order with these files, and keeps the orders and the names of their inputs."""

    def __init__(self, **files: bytes) -> None:
        self.facts: dict[str, Any] = {}
        self.files = files
        self.orders: list[tuple[Order, list[str]]] = []

    async def do(self, *arguments: Any, **_: Any) -> Answer:
        _, order, inputs = arguments
        self.orders.append((order, sorted(inputs)))
        return Answer({"samples": 10, **self.facts}, self.files)


def warm_with(trainers: Answering) -> WarmState:
    return WarmState(trainers, ClientSite(), ShardCache(ClientSite()))


UPDATE = tensors.to_bytes({"w": torch.ones(1)})


async def put(site: Site, topic: str, content: bytes) -> BlobRef:
    await Broker.put(site.bus, topic, content)
    return BlobRef(topic, hashlib.sha256(content).hexdigest(), len(content))


async def test_the_trainer_gets_the_strategy_with_all_states_and_what_is_sent_along(site: Site) -> None:
    trainers = Answering(update=UPDATE)
    warm = warm_with(trainers)
    states = {
        name: await put(site, topics.client_state("job", "c1", 1, 1, name), name.encode()) for name in ("opt", "drift")
    }
    along = await put(site, topics.model("job", "a" * 64), b"along")
    task = await task_for(
        site,
        round=2,
        states=states,
        along=along,
        strategy=FedProx(mu=0.25),
        training_hyperparameters=Training(update="weights"),
    )
    first = await handle(task, site.bus, warm, attempt=1)
    ((order, inputs),) = trainers.orders
    assert isinstance(order, Train)
    assert (order.strategy, order.update) == ({"name": "fedprox", "guard": None, "mu": 0.25}, "weights")
    assert inputs == ["along", "shard", "state.drift", "state.opt", "weights"]
    assert (first.header.strategy, first.header.update) == ("fedprox", "weights")
    assert first.header.fetched == task.model.bytes + along.bytes + len(b"optdrift")
    second = await handle(task, site.bus, warm, attempt=2)
    assert second.header.fetched == len(b"optdrift")


async def test_each_state_has_its_topic_and_comes_before_the_update(site: Site) -> None:
    trainers = Answering(**{"update": UPDATE, "state.opt": b"o", "state.drift": b"dd", "state.none": b"", "more": b"m"})
    done = await handle(await task_for(site), site.bus, warm_with(trainers), attempt=1)
    at = {name: topics.client_state("job", "c1", 1, 1, name) for name in ("drift", "opt")}
    assert site.writes == [at["drift"], at["opt"], topics.update("job", 1, "c1", 1)]
    assert {name: (ref.topic, ref.bytes) for name, ref in done.header.states.items()} == {
        "drift": (at["drift"], 2),
        "opt": (at["opt"], 1),
    }
    assert done.header == (await read_update(site))[1]


@pytest.mark.parametrize("name", ["*", ">", "a.b", "", "x" * 300])
async def test_a_state_with_a_wrong_name_is_refused(site: Site, name: str) -> None:
    trainers = Answering(**{"update": UPDATE, f"state.{name}": b"o"})
    with pytest.raises(TrainerDied, match="the trainer's answer holds a state of a wrong name"):
        await handle(await task_for(site), site.bus, warm_with(trainers), attempt=1)
    assert site.writes == []


@pytest.mark.parametrize(("told", "header"), [("aarch64 NEON", "aarch64 NEON"), ("\x1b[31m", ""), (["x"], ""), (7, "")])
async def test_a_trainer_s_word_about_its_processor_is_checked(site: Site, told: Any, header: str) -> None:
    trainers = Answering(update=UPDATE)
    trainers.facts["processor"] = told
    await handle(await task_for(site), site.bus, warm_with(trainers), attempt=1)
    assert (await read_update(site))[1].processor == header


async def test_fedprox_trains_otherwise_than_fedavg_and_with_mu_0_alike(site: Site) -> None:
    updates = []
    for attempt, strategy in enumerate((FedAvg(), FedProx(mu=0.0), FedProx(mu=1.0)), 1):
        await handle(await task_for(site, strategy=strategy), site.bus, warm_state(), attempt=attempt)
        updates.append((await read_update(site, attempt=attempt))[0]["out.weight"].tobytes())
    assert updates[0] == updates[1] != updates[2]


async def test_a_task_of_an_older_server_names_the_optimizer_s_state_alone(site: Site) -> None:
    first = await handle(await task_for(site), site.bus, warm_state(), attempt=1)
    by_name = await task_for(site, round=2, states=first.header.states)
    alone = await task_for(site, round=2, state=first.header.states["opt"])
    await handle(by_name, site.bus, warm_state(), attempt=1)
    await handle(alone, site.bus, warm_state(), attempt=2)
    updates = [(await read_update(site, 2, attempt))[0]["out.weight"].tobytes() for attempt in (1, 2)]
    assert updates[0] == updates[1]


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


async def test_a_dry_round_publishes_an_update_without_a_state(site: Site) -> None:
    task = await task_for(site, training_hyperparameters=Training(dry=True))
    done = await handle(task, site.bus, warm_state(), attempt=1)
    got, header = await read_update(site)
    base = tensors.from_bytes(initial_weights(SMALL, 1))
    assert {name: array.shape for name, array in got.items()} == {name: tensor.shape for name, tensor in base.items()}
    assert all(0 < np.abs(array).max() < 0.01 for array in got.values())
    assert (header.samples, header.metrics, header.states) == (10, {}, {})
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
