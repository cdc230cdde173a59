"""What evaluations find: the best model, and when a job ends."""

from typing import Any

import pytest

from broker.messages import job_file
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.round import BlobRef
from server import findings
from server.findings import Findings, Judgement

MODELS = [BlobRef(f"fl.models.job.{n}", f"{n:064d}", n) for n in range(10)]


def job(**tables: Any) -> Job:
    data = {"dataset": "digits"}
    return job_file.from_dict({"data": data, **tables})


def found(job: Job, *values: dict[str, float], by: Any = "server") -> Findings:
    """The findings after evaluations of rounds 1, 2 ..."""
    after = Findings()
    for round_, metrics in enumerate(values, start=1):
        after = findings.after(after, job, Judgement(round_, MODELS[round_], metrics, by))
    return after


AUROC = {"evaluation": {"best": "auroc", "metrics": ["auroc"]}}


def test_the_best_model_is_the_first_with_the_best_value() -> None:
    best = found(job(**AUROC), *({"auroc": value} for value in (0.5, 0.8, 0.7, 0.8))).best
    assert best is not None
    assert (best.round, best.metric, best.value, best.model) == (2, "auroc", 0.8, MODELS[2])


def test_less_of_a_loss_is_better() -> None:
    best = found(job(evaluation={"best": "loss"}), *({"loss": value} for value in (0.5, 0.1, 0.7))).best
    assert best is not None
    assert best.round == 2


def test_a_metric_of_one_s_own_has_the_direction_that_the_job_says() -> None:
    evaluation = {"best": "brier", "metrics": ["mine:Brier"], "directions": {"brier": "min"}}
    best = found(job(evaluation=evaluation), {"brier": 0.5}, {"brier": 0.1}).best
    assert best is not None
    assert best.round == 2


def test_a_model_that_could_not_be_measured_is_not_the_best() -> None:
    assert found(job(**AUROC), {"loss": 0.5}).best is None


@pytest.mark.parametrize(
    ("losses", "without"), [([0.5], 0), ([0.5, 0.5], 1), ([0.5, 0.6, 0.7], 2), ([0.5, 0.6, 0.4], 0)]
)
def test_evaluations_without_a_better_value_are_counted(losses: list[float], without: int) -> None:
    assert found(job(), *({"loss": value} for value in losses)).without_better == without


def test_patience_ends_a_job() -> None:
    patient = job(stop={"patience": 2})
    assert findings.stop_reason(found(patient, {"loss": 0.5}, {"loss": 0.6}), patient) == ""
    after = found(patient, {"loss": 0.5}, {"loss": 0.6}, {})
    assert findings.stop_reason(after, patient) == "test loss was not better than 0.5 in 2 evaluations"


def test_patience_ends_a_job_whose_metric_was_never_measured() -> None:
    patient = job(stop={"patience": 2})
    assert findings.stop_reason(found(patient, {}, {}), patient) == "test loss was never measured in 2 evaluations"


@pytest.mark.parametrize(
    ("metric", "target", "value", "reason"),
    [
        ("loss", 0.25, 0.26, ""),
        ("loss", 0.25, 0.25, "test loss 0.25 reached the target 0.25"),
        ("auroc", 0.9, 0.89, ""),
        ("auroc", 0.9, 0.91, "test auroc 0.91 reached the target 0.9"),
    ],
)
def test_a_target_on_any_metric_ends_a_job(metric: str, target: float, value: float, reason: str) -> None:
    aimed = job(evaluation={"metrics": ["auroc"]}, stop={"metric": metric, "target": target})
    assert findings.stop_reason(found(aimed, {metric: value}), aimed) == reason


def test_a_target_accuracy_ends_a_job_that_clients_judge() -> None:
    aimed = job(data={"dataset": "own"}, evaluation={"holdout": 0.2}, stop={"target_accuracy": 0.9})
    assert findings.stop_reason(found(aimed, {"accuracy": 0.95}, by="clients"), aimed) == (
        "accuracy 0.9500 reached the target 0.9"
    )


def test_where_the_server_judges_the_clients_results_decide_nothing() -> None:
    both = job(evaluation={"holdout": 0.2, "best": "loss"}, stop={"patience": 1})
    after = found(both, {"loss": 0.5, "accuracy": 0.9})
    after = findings.after(after, both, Judgement(1, MODELS[1], {"loss": 0.1, "auroc": 0.7}, "clients"))
    assert after.metrics == {"loss": 0.5, "accuracy": 0.9}
    assert after.best is not None
    assert (after.best.value, after.without_better) == (0.5, 0)


def test_a_metric_that_the_last_evaluation_could_not_measure_is_not_kept() -> None:
    assert found(job(), {"loss": 0.5, "accuracy": 0.5}, {"accuracy": 0.1}).metrics == {"accuracy": 0.1}


def test_findings_come_back_from_a_record() -> None:
    after = found(job(**AUROC), {"auroc": 0.5}, {"auroc": 0.4})
    assert findings.of(JobRecord(id="job", job=job(), **findings.changes(after))) == after


@pytest.mark.parametrize(
    ("tables", "needed"),
    [
        ({}, False),
        (AUROC, True),
        ({"stop": {"patience": 3}}, True),
        ({"stop": {"target": 0.1}}, True),
        ({"stop": {"target_accuracy": 0.9}}, True),
    ],
)
def test_a_rule_that_needs_results_waits_for_them(tables: dict[str, Any], needed: bool) -> None:  # noqa: FBT001 (a column of the table)
    assert findings.needs_results(job(**tables)) is needed
