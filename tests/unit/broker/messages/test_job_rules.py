"""Rules of a job that concern several fields: who judges it, by what, and which clients it sets apart."""

from typing import Any

import pytest

from broker.messages import job_file
from broker.messages.errors import JobError

OWN = {"data": {"dataset": "mine"}}
HELD_OUT = {"evaluation": {"holdout": 0.2}}
JUDGE = "nobody judges the model: set evaluation.data to a test set, or evaluation.holdout to a share such as 0.2"


def refusal(*tables: dict[str, Any]) -> str:
    with pytest.raises(JobError) as refused:
        job_file.from_dict(merged(*tables))
    return str(refused.value)


def accept(*tables: dict[str, Any]) -> None:
    job_file.from_dict(merged(*tables))


def merged(*tables: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    for table in tables:
        for section, values in table.items():
            raw[section] = {**raw.get(section, {}), **values} if isinstance(values, dict) else values
    return raw


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        ({"evaluation": {"best": "loss"}}, "evaluation.best = 'loss'"),
        ({"stop": {"metric": "loss", "patience": 3}}, "stop.metric = 'loss'"),
        ({"stop": {"patience": 3}}, "stop.patience = 3"),
        ({"stop": {"target": 0.1}}, "stop.target = 0.1"),
        ({"stop": {"target_accuracy": 0.9}}, "stop.target_accuracy = 0.9"),
    ],
)
def test_what_needs_a_judge_is_refused_without_one(table: dict[str, Any], shown: str) -> None:
    assert refusal(OWN, table) == f"{shown}: {JUDGE}"
    for judge in ({"evaluation": {"data": "file:///test.npz"}}, HELD_OUT, {"data": {"dataset": "digits"}}):
        accept(OWN, judge, table)


def test_a_metric_of_one_s_own_needs_a_direction() -> None:
    own = {"evaluation": {"metrics": ["mine:Brier"], "best": "brier"}}
    assert refusal(own) == (
        "evaluation.best = 'brier': which values are better? set evaluation.directions.brier to 'max' or 'min'"
    )
    accept(own, {"evaluation": {"directions": {"brier": "min"}}})


def test_a_misspelt_metric_is_answered_with_the_one_that_was_meant() -> None:
    assert refusal({"evaluation": {"best": "auruc"}}).startswith("evaluation.best = 'auruc': did you mean 'auroc'? ")


@pytest.mark.parametrize("name", ["top_5", "top_10", "f1"])
def test_known_metrics_have_a_direction(name: str) -> None:
    accept({"evaluation": {"best": name, "metrics": [name]}})


def test_what_is_looked_at_must_be_measured_unless_a_learner_may_measure_it() -> None:
    table = {"evaluation": {"metrics": ["f1"]}, "stop": {"metric": "auroc", "target": 0.9}}
    assert (
        refusal(table) == "stop.metric = 'auroc': is not measured: add it to evaluation.metrics; measured are loss, f1"
    )
    accept(table, {"learner": {"type": "mine:Learner"}})


@pytest.mark.parametrize("name", ["", "a b", "mine:", "F1", "x" * 65])
def test_a_metric_s_name_is_well_formed(name: str) -> None:
    assert refusal({"evaluation": {"metrics": ["f1", name]}}).startswith(f"evaluation.metrics = {name!r}: a metric's")
    assert refusal({"evaluation": {"directions": {name: "max"}}}).startswith(f"evaluation.directions = {name!r}: ")


def test_a_test_set_that_nobody_would_use_is_refused() -> None:
    table = {"evaluation": {"data": "file:///test.npz", "every": 0}}
    assert refusal(table) == "evaluation.data = 'file:///test.npz': needs evaluation.every of at least 1"


def test_a_job_with_personal_layers_is_judged_by_its_clients() -> None:
    personal = {"model": {"personal": ["head.*"]}}
    assert refusal(personal, {"evaluation": {"data": "/test.npz"}}) == (
        "evaluation.data = '/test.npz': set evaluation.holdout instead: a job with model.personal is judged by its "
        "clients"
    )
    assert refusal(personal, {"evaluation": {"best": "loss"}}) == f"evaluation.best = 'loss': {JUDGE}"
    accept(personal, HELD_OUT, {"evaluation": {"best": "loss"}})


@pytest.mark.parametrize("clients", [0.5, 1.0, 2, 7])
def test_clients_that_judge_are_a_share_or_a_number(clients: float) -> None:
    accept(HELD_OUT, {"evaluation": {"clients": clients}})


def test_a_schedule_needs_a_rate_to_begin_with() -> None:
    cosine = {"training": {"optimizer": "adamw", "schedule": {"name": "cosine"}}}
    assert refusal(cosine) == "training.schedule = 'cosine': needs training.learning_rate"
    accept(cosine, {"training": {"learning_rate": 0.1}})
    accept(cosine, {"training": {"optimizer": "sgd"}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"where": {"a": "b"}}, "[1]: changes nothing: set batch_size, local_epochs, learning_rate or device"),
        ({"batch_size": 0}, "[1].batch_size = 0: expected a whole number >= 1"),
        ({"device": "GPU"}, "[1].device = 'GPU': a device as torch names it, such as 'cuda' or 'cuda:1'"),
        ({"wher": {}}, "[1].wher = {}: no such key; did you mean 'where'?"),
        ({"where": {"": "a"}, "device": "cpu"}, "[1].where = {'': 'a'}: labels by name, as the register has them"),
    ],
)
def test_a_wrong_override_is_named_by_its_place(override: dict[str, Any], message: str) -> None:
    assert refusal({"override": [{"batch_size": 4}, override]}).startswith(f"override{message}")


def test_overrides_come_back_from_text() -> None:
    text = '[[override]]\nwhere = {platform = "edge"}\nbatch_size = 4\n[[override]]\ndevice = "cuda"\n'
    job = job_file.from_text(text)
    assert [part.batch_size for part in job.override] == [4, None]
    assert job_file.from_text(job_file.to_toml(job)) == job


def fields(*tables: dict[str, Any]) -> list[str]:
    with pytest.raises(JobError) as refused:
        job_file.from_dict(merged(*tables))
    return [each.field for each in refused.value.errors]


def test_rules_are_told_beside_fields_of_a_wrong_type() -> None:
    raw = {
        "name": "My Job",
        "stop": {"rounds": "ten"},
        "cohort": {"quorum": 2.5},
        "data": {"clients": 5},
        "training": {"loss": "mze", "optimizer": 3, "device": "?"},
        "model": {"code": "abc", "type": "none"},
        "override": [{"where": {"": "x"}, "batch_size": "a"}],
    }
    assert fields(raw) == [
        "training.optimizer",
        "stop.rounds",
        "override[0].batch_size",
        "name",
        "cohort.quorum",
        "cohort.clients",
        "model.type",
        "model.code",
        "training.loss",
        "training.device",
        "override[0].where",
    ]


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"cohort": {"clients": "ten"}, "data": {"clients": 5}}, ["cohort.clients"]),
        ({"cohort": {"client": 3}, "data": {"clients": 5}}, ["cohort.client"]),
        ({"cohort": 3, "data": {"clients": 5}}, ["cohort"]),
        ({"cohort": {"clients": 0, "quorum": 5}}, ["cohort.clients"]),
        ({"strategy": {"name": "median"}, "cohort": {"quorum": "two"}}, ["cohort.quorum"]),
        ({"strategy": {"name": "medain"}, "cohort": {"quorum": 2}}, ["strategy.name"]),
        ({"training": {"schedule": {"name": "step", "every": 0}, "optimizer": "rprop"}}, ["training.schedule.every"]),
        ({**OWN, "stop": {"patience": 3}, "evaluation": {"data": 3}}, ["evaluation.data"]),
        ({**OWN, "stop": {"patience": 3}, "evaluation": {"hold_out": 0.2}}, ["evaluation.hold_out"]),
        ({**OWN, "stop": {"target": "low"}}, ["stop.target"]),
        ({"id": 7, "name": 8}, ["id", "name"]),
        ({"override": [{"batch_size": "a"}, {"batchsize": 3}]}, ["override[0].batch_size", "override[1].batchsize"]),
    ],
)
def test_what_follows_from_a_wrong_field_is_not_told(raw: dict[str, Any], named: list[str]) -> None:
    assert fields(raw) == named


def test_a_job_that_is_no_table_has_one_mistake() -> None:
    with pytest.raises(JobError) as refused:
        job_file.from_dict([])
    assert [each.field for each in refused.value.errors] == ["the job"]


def test_a_stream_of_numpy_needs_a_seed_that_numpy_takes() -> None:
    stream = {"cohort": {"draw": "numpy"}}
    accept(stream, {"seed": 2**32 - 1})
    accept({"seed": 2**32})
    accept(stream, {"seed": 2**32, "cohort": {"seed": 0}})
    assert refusal(stream, {"seed": 2**32}) == "seed = 4294967296: at most 4294967295 with cohort.draw = 'numpy'"
    assert refusal(stream, {"cohort": {"seed": 2**40}}).startswith("cohort.seed = 1099511627776: at most 4294967295")
