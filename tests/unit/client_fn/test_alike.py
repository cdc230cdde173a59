"""Which tasks may be trained in one program."""

from typing import Any

import msgspec
import pytest

from broker.messages.job_sections import Learner, Model, Training
from broker.messages.round import BlobRef, RoundTask
from client_fn import alike
from client_fn.alike import Keys
from client_fn.data.shard_cache import Shard
from client_fn.site import Site
from client_fn.task_order import order_of

TASK = RoundTask(
    client_id="c1",
    client_type="local",
    url="",
    model_configuration=Model(),
    training_hyperparameters=Training(),
    data_loc="/data/c1",
    job="job",
    round=1,
    model=BlobRef("model", "digest", 10),
    token="t0ken",  # noqa: S106 (nobody's)
    seed=1,
    deadline_s=4e9,
    max_attempts=3,
)


def keys(**changes: Any) -> Keys | None:
    task = msgspec.structs.replace(TASK, **changes)
    return alike.keys_of(task, order_of(task, None, Site(), changes.get("left_s", 60.0)))


@pytest.mark.parametrize("changes", [{"client_id": "c2"}, {"seed": 2}, {"token": "other"}, {"data_loc": "/data/c2"}])
def test_clients_of_a_round_are_alike(changes: dict[str, Any]) -> None:
    assert keys(**changes) == keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 2},
        {"model": BlobRef("model", "another", 10)},
        {"job": "other"},
        {"training_hyperparameters": Training(batch_size=3)},
        {"learner": Learner("own:Learner")},
        {"update": "delta"},
    ],
)
def test_tasks_of_other_rounds_or_settings_are_not(changes: dict[str, Any]) -> None:
    first, second = keys(), keys(**changes)
    assert first is not None
    assert second is not None
    assert first.task != second.task


def test_what_is_known_of_a_job_holds_for_its_next_round() -> None:
    next_round = {
        "round": 2,
        "model": BlobRef("next", "next", 10),
        "training_hyperparameters": Training(learning_rate=0.5),
    }
    first, second, other = keys(), keys(**next_round), keys(training_hyperparameters=Training(optimizer="sgd"))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.job == second.job != other.job
    # Also before the client's samples are here.
    order = order_of(TASK, Shard("csv", None, "/data/c1", "/data/c1", None, "digest"), Site(), 60.0)
    ready = alike.keys_of(TASK, order)
    assert ready is not None
    assert ready.job == first.job


@pytest.mark.parametrize(
    "changes", [{"purpose": "evaluate"}, {"data_loc": ""}, {"training_hyperparameters": Training(dry=True)}]
)
def test_what_trains_nothing_is_done_alone(changes: dict[str, Any]) -> None:
    assert keys(**changes) is None
