"""How each member of a cohort trains: overrides by label, and the round's learning rate."""

from typing import Any

import msgspec
import pytest

from broker.messages import job_file
from broker.messages.job_record import JobRecord, Member
from server import training

BOARD = Member("c-1", "edge", "", "/1", 10, {"site": "north", "gpu": "no"})
RACK = Member("c-2", "openfaas", "", "/2", 10, {"site": "north", "gpu": "yes"})
CLINIC = Member("c-3", "edge", "", "/3", 10, {"site": "south"})
MEMBERS = (BOARD, RACK, CLINIC)


def record(done: int = 0, **tables: Any) -> JobRecord:
    return JobRecord(id="job", job=job_file.from_dict(tables), done=done)


@pytest.mark.parametrize(
    ("where", "reached"),
    [
        ({}, {"c-1", "c-2", "c-3"}),
        ({"platform": "edge"}, {"c-1", "c-3"}),
        ({"id": "c-2"}, {"c-2"}),
        ({"site": "north"}, {"c-1", "c-2"}),
        ({"site": "north", "platform": "edge"}, {"c-1"}),
        ({"gpu": "yes"}, {"c-2"}),
        ({"gpu": ""}, set()),
        ({"color": "red"}, set()),
    ],
)
def test_an_override_reaches_exactly_those_that_it_names(where: dict[str, str], reached: set[str]) -> None:
    changed = {"batch_size": 3, "local_epochs": 2, "learning_rate": 0.5, "device": "cuda:1"}
    got = record(override=[{"where": where, **changed}])
    for member in MEMBERS:
        trained = training.training_of(member, got)
        if member.id in reached:
            assert {name: getattr(trained, name) for name in changed} == changed
        else:
            assert trained == got.job.training


def test_of_several_overrides_the_later_one_wins() -> None:
    got = record(override=[{"batch_size": 3, "device": "cuda"}, {"where": {"platform": "edge"}, "batch_size": 5}])
    assert [training.training_of(member, got).batch_size for member in MEMBERS] == [5, 3, 5]
    assert {training.training_of(member, got).device for member in MEMBERS} == {"cuda"}


def test_a_job_without_overrides_and_schedule_trains_as_it_says() -> None:
    got = record(training={"optimizer": "adamw"})
    assert all(training.training_of(member, got) is not None for member in MEMBERS)
    assert {training.training_of(member, got).learning_rate for member in MEMBERS} == {None}
    assert training.training_of(BOARD, record(done=7)) == record().job.training


def test_the_schedule_changes_the_rate_from_round_to_round() -> None:
    linear = {"training": {"optimizer": "sgd", "schedule": {"name": "linear"}}, "stop": {"rounds": 4}}
    rates = [training.training_of(BOARD, record(done, **linear)).learning_rate for done in range(4)]
    assert rates == [None, pytest.approx(0.075), pytest.approx(0.05), pytest.approx(0.025)]


def test_the_schedule_applies_to_an_override_s_rate() -> None:
    tables: dict[str, Any] = {
        "training": {"learning_rate": 0.1, "schedule": {"name": "step", "every": 1, "gamma": 0.5}},
        "override": [{"where": {"platform": "edge"}, "learning_rate": 0.8}],
    }
    got = msgspec.structs.replace(record(**tables), done=1)
    assert [training.training_of(member, got).learning_rate for member in MEMBERS] == [0.4, 0.05, 0.4]
