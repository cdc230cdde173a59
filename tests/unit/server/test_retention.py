"""The oldest finished jobs go first, and never one that is needed or has only just ended."""

import msgspec
import pytest

from broker.messages.job_record import BestModel, JobRecord
from broker.messages.round import BlobRef
from server import retention
from server.retention import FinishedJob, Retention
from tests.support import fakes

DAY_S = 86_400.0
NOW_S = 100 * DAY_S
JOBS = [FinishedJob(f"job-{age}", NOW_S - age * DAY_S, 100) for age in (1, 2, 3, 40)]
WIDE = Retention(days=365.0, jobs=100, bytes=10_000)


@pytest.mark.parametrize(
    ("limits", "needed", "expected"),
    [
        ({}, (), []),
        ({"days": 30.0}, (), ["job-40"]),
        ({"days": 2.5}, (), ["job-40", "job-3"]),
        ({"days": 2.5}, ("job-40",), ["job-3"]),
        ({"jobs": 2}, (), ["job-40", "job-3"]),
        ({"jobs": 2}, ("job-40",), ["job-3", "job-2"]),
        ({"jobs": 0}, (), ["job-40", "job-3", "job-2", "job-1"]),
        ({"bytes": 300}, (), ["job-40"]),
        ({"bytes": 299}, (), ["job-40", "job-3"]),
        ({"bytes": 0}, ("job-3",), ["job-40", "job-2", "job-1"]),
        ({"days": 2.5, "jobs": 1}, (), ["job-40", "job-3", "job-2"]),
    ],
)
def test_the_oldest_jobs_go_until_the_rest_is_within_the_limits(
    limits: dict[str, float], needed: tuple[str, ...], expected: list[str]
) -> None:
    chosen = retention.expired(JOBS, needed, msgspec.convert({**_as_dict(WIDE), **limits}, Retention), NOW_S)
    assert [job.id for job in chosen] == expected


def _as_dict(limits: Retention) -> dict[str, float]:
    return {"days": limits.days, "jobs": limits.jobs, "bytes": limits.bytes}


def test_a_job_that_has_only_just_ended_can_still_be_fetched() -> None:
    recent = FinishedJob("new", NOW_S - 1.0, 1 << 40)
    assert retention.expired([recent], (), Retention(jobs=0, bytes=0), NOW_S) == []
    assert retention.expired([recent], (), Retention(jobs=0, bytes=0), NOW_S + retention.RECENT_S) == [recent]


def test_the_size_of_a_job_is_that_of_all_its_models_each_once() -> None:
    model, best, first, frozen = (BlobRef(f"fl.models.a.{n}", f"{n}" * 64, 10**n) for n in range(4))
    record = JobRecord(
        id="a",
        job=fakes.job(),
        created_s=1.0,
        opened_s=5.0,
        model=model,
        best=BestModel(2, "accuracy", 0.5, best),
        kept={1: first, 2: best},
        frozen_model=frozen,
    )
    assert retention.of(record) == FinishedJob("a", 5.0, 1111)
    assert retention.of(msgspec.structs.replace(record, ended_s=9.0)).ended_s == 9.0


def test_jobs_that_an_unfinished_job_starts_from_are_needed() -> None:
    def record(name: str, start: str, **facts: object) -> JobRecord:
        return JobRecord(id=name, job=fakes.job(model={"from": start}), **facts)  # type: ignore[arg-type]

    records = [
        record("a", "job:first"),
        record("b", "job:second@3", phase="running"),
        record("c", "file:///model.safetensors"),
        record("d", ""),
        record("e", "job:third", phase="failed", announced=True),
        record("f", "job:fourth", phase="failed"),
    ]
    assert retention.needed(records) == {"first", "second", "fourth"}
