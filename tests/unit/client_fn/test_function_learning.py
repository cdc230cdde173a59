"""What a task says about learning reaches the trainer, and what the trainer says about samples is checked."""

from typing import Any

import pytest
import torch

from broker.messages.job_sections import Evaluation, Learner, Model, Training
from client_fn.code.named import Names
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import NotAllowed, TrainerDied
from client_fn.function import WarmState, handle
from client_fn.site import Site as ClientSite
from client_fn.trainer.answers import Answer
from client_fn.trainer.trainers import open_trainers
from client_fn.training import orders, tensors
from tests.support.function_site import Site, publish_model, task_for
from tests.support.trainers import InlineTrainers

pytestmark = pytest.mark.torch

UPDATE = tensors.to_bytes({"w": torch.ones(1)})


class Answering(InlineTrainers):
    """Answers each order with these facts, and keeps what it was asked."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.asked: list[tuple[Names, Any]] = []

    async def do(self, *arguments: Any, **_: Any) -> Answer:
        names, order, _ = arguments
        self.asked.append((names, order))
        return Answer(self.facts, {"update": UPDATE})


def warm_with(trainers: InlineTrainers, site: ClientSite | None = None) -> WarmState:
    site = site or ClientSite()
    return WarmState(trainers, site, ShardCache(site))


async def test_the_order_has_all_that_the_task_says_about_learning(site: Site) -> None:
    trainers = Answering({"samples": 3})
    training = Training(optimizer="AdamW", optimizer_args={"amsgrad": True}, loss="mine:loss", clip_norm=1.0)
    task = await task_for(
        site,
        learner=Learner("mine:How", {"deep": True}),
        training_hyperparameters=training,
        evaluation=Evaluation(metrics=("f1", "more:Metric"), batch_size=7),
        round=4,
    )
    done = await handle(task, site.bus, warm_with(trainers), attempt=1)
    assert done.header.samples == 3
    ((names, order),) = trainers.asked
    assert names.types == ("mine:How", "mine:loss", "more:Metric")
    assert order.learner == orders.Learner("mine:How", {"deep": True})
    assert order.training == orders.Training(
        "AdamW", None, optimizer_args={"amsgrad": True}, loss="mine:loss", clip_norm=1.0
    )
    assert (order.evaluation.metrics, order.evaluation.batch_size, order.round) == (("f1", "more:Metric"), 7, 4)


@pytest.mark.parametrize(
    ("of_site", "of_job", "device"), [("", "", "cpu"), ("", "cuda:1", "cuda:1"), ("cuda", "cpu", "cuda")]
)
async def test_the_site_s_device_comes_before_the_job_s(site: Site, of_site: str, of_job: str, device: str) -> None:
    trainers = Answering({"samples": 3})
    task = await task_for(site, training_hyperparameters=Training(device=of_job))
    await handle(task, site.bus, warm_with(trainers, ClientSite(device=of_site)), attempt=1)
    assert trainers.asked[0][1].device == device


async def test_a_client_counts_for_no_more_samples_than_its_shard_has(site: Site) -> None:
    done = await handle(await task_for(site), site.bus, warm_with(Answering({"samples": 1000})), attempt=1)
    assert done.header.samples == 10


@pytest.mark.parametrize("samples", [None, 0, -1, 2.5, "3", True, [3]])
async def test_a_number_of_samples_that_can_t_be_is_refused(site: Site, samples: object) -> None:
    with pytest.raises(TrainerDied, match="does not say how many samples"):
        await handle(await task_for(site), site.bus, warm_with(Answering({"samples": samples})), attempt=1)
    assert site.writes == []


@pytest.mark.parametrize(
    "changes",
    [
        {"model_configuration": Model("os:Net")},
        {"learner": Learner("os:How")},
        {"training_hyperparameters": Training(loss="os:loss")},
        {"evaluation": Evaluation(metrics=("os:Metric",))},
    ],
)
async def test_nothing_that_the_site_did_not_allow_is_imported(site: Site, changes: dict[str, Any]) -> None:
    async with open_trainers(ClientSite(allow=("mine",))) as trainers:
        warm = WarmState(trainers, ClientSite(), ShardCache(ClientSite()))
        task = await task_for(site, model=await publish_model(site.bus), **changes)
        with pytest.raises(NotAllowed, match=r"'os:\w+' is not allowed here"):
            await handle(task, site.bus, warm, attempt=1)
    assert site.gets == []
