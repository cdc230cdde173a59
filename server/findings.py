"""What a job's evaluations have found so far, and whether that ends the job. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from broker.messages import metrics as names
from broker.messages.job import Job
from broker.messages.job_record import BestModel, JobRecord
from broker.messages.job_sections import Direction
from broker.messages.round import BlobRef


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What evaluations have found; the names are those of the job record's fields.

    Attributes:
        metrics: what the last evaluation measured, by metric: the server's, or the clients' if it has no test set.
        best: the best model so far by `evaluation.best`; None: there is none.
        watched: the best value so far of the metric that `stop` looks at; None: there is none.
        without_better: number of evaluations in a row without a better value of it.
    """

    metrics: dict[str, float] = {}
    best: BestModel | None = None
    watched: float | None = None
    without_better: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of one evaluation.

    Attributes:
        round: the round whose model was evaluated.
        model: that model.
        metrics: what was measured, by metric.
        by: who has evaluated it.
    """

    round: int
    model: BlobRef
    metrics: Mapping[str, float]
    by: Literal["server", "clients"]


def of(record: JobRecord) -> Findings:
    """Return the findings that a job's record holds."""
    return msgspec.convert(record, Findings, from_attributes=True)


def changes(findings: Findings) -> dict[str, Any]:
    """Return the findings as changes of the job's record."""
    return msgspec.structs.asdict(findings)


def after(findings: Findings, job: Job, judgement: Judgement) -> Findings:
    """Return the findings after one more evaluation.

    Args:
        findings: before it.
        job: says what to look at. Where the server evaluates, its results alone decide about the best and the end.
        judgement: the evaluation's result.
    """
    if judgement.by != _judge(job):
        return findings
    findings = msgspec.structs.replace(findings, metrics=dict(judgement.metrics))
    return _watched(_with_best(findings, job, judgement), job, judgement)


def needs_results(job: Job) -> bool:
    """Whether a job must know the result of each evaluation before its next round."""
    stop = job.stop
    return bool(job.evaluation.best or stop.patience) or not (stop.target_accuracy is None and stop.target is None)


def stop_reason(findings: Findings, job: Job) -> str:
    """Say why the findings end the job; empty if they do not.

    Args:
        findings: the findings so far.
        job: says when it ends.
    """
    stop, name = job.stop, watched_metric(job)
    test = "test " if _judge(job) == "server" else ""
    accuracy, value = findings.metrics.get("accuracy"), findings.metrics.get(name)
    if stop.target_accuracy is not None and accuracy is not None and accuracy >= stop.target_accuracy:
        return f"{test}accuracy {accuracy:.4f} reached the target {stop.target_accuracy:g}"
    if stop.target is not None and value is not None and not names.is_better(stop.target, value, _better(job, name)):
        return f"{test}{name} {value:.4g} reached the target {stop.target:g}"
    if stop.patience and findings.without_better >= stop.patience:
        watched = findings.watched
        finding = "never measured" if watched is None else f"not better than {watched:.4g}"
        return f"{test}{name} was {finding} in {findings.without_better} evaluations"
    return ""


def watched_metric(job: Job) -> str:
    """The metric that `stop.target` and `stop.patience` look at."""
    return job.stop.metric or job.evaluation.best or "loss"


def _judge(job: Job) -> Literal["server", "clients"]:
    return "server" if job.test_data else "clients"


def _better(job: Job, name: str) -> Direction:
    # The rules of a job refuse a metric whose direction nobody knows.
    return names.direction(name, job.evaluation.directions) or "max"


def _with_best(findings: Findings, job: Job, judgement: Judgement) -> Findings:
    name = job.evaluation.best
    value = judgement.metrics.get(name)
    so_far = None if findings.best is None else findings.best.value
    if value is None or not names.is_better(value, so_far, _better(job, name)):
        return findings
    return msgspec.structs.replace(findings, best=BestModel(judgement.round, name, value, judgement.model))


def _watched(findings: Findings, job: Job, judgement: Judgement) -> Findings:
    name = watched_metric(job)
    value = judgement.metrics.get(name)
    if value is not None and names.is_better(value, findings.watched, _better(job, name)):
        return msgspec.structs.replace(findings, watched=value, without_better=0)
    # An evaluation that could not measure it, such as a loss that is not finite, is not better either.
    return msgspec.structs.replace(findings, without_better=findings.without_better + 1)
