"""Which finished jobs are kept: as many, as long and as large as the operator says. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.messages import job_record
from broker.messages.job_record import JobRecord

RECENT_S: Final = 600.0
"""So long a job is kept whatever the limits of number and size: somebody may be about to fetch its model. Seconds."""

_DAY_S: Final = 86_400.0
_FROM_JOB: Final = "job:"


@dataclass(frozen=True, slots=True)
class Retention:
    """The limits of what finished jobs may leave on the broker.

    Attributes:
        days: age after which a finished job is deleted.
        jobs: number of finished jobs.
        bytes: size of the models of all finished jobs.
    """

    days: float = 30.0
    jobs: int = 1000
    bytes: int = 10_000_000_000


class FinishedJob(NamedTuple):
    """What decides about a finished job.

    Attributes:
        id: the job's id.
        ended_s: when it ended, in seconds since the epoch.
        bytes: size of its models.
    """

    id: str
    ended_s: float
    bytes: int


def of(record: JobRecord) -> FinishedJob:
    """Return what decides about a finished job. Records of older versions do not say when it ended, but more or less.

    Args:
        record: the job's record.
    """
    ended_s = record.ended_s or max(record.created_s, record.opened_s)
    return FinishedJob(record.id, ended_s, sum(blob.bytes for blob in job_record.blobs(record)))


def needed(records: Iterable[JobRecord]) -> frozenset[str]:
    """Return the ids of the jobs whose models an unfinished job starts from.

    Args:
        records: the records of all jobs.
    """
    starts = (record.job.model.start for record in records if not record.is_finished)
    return frozenset(_job_of(start) for start in starts if start.startswith(_FROM_JOB))


def _job_of(start: str) -> str:
    return start.removeprefix(_FROM_JOB).partition("@")[0]


def expired(
    jobs: Iterable[FinishedJob], needed_jobs: Collection[str], limits: Retention, now_s: float
) -> list[FinishedJob]:
    """Return the finished jobs to delete, the oldest first.

    Args:
        jobs: all finished jobs.
        needed_jobs: ids of jobs that are kept in any case.
        limits: what may be kept.
        now_s: the time, in seconds since the epoch.
    """
    oldest_first = sorted(jobs, key=lambda each: (each.ended_s, each.id))
    number, size = len(oldest_first), sum(job.bytes for job in oldest_first)
    chosen = list[FinishedJob]()
    for job in oldest_first:
        age_s = now_s - job.ended_s
        is_too_much = (number > limits.jobs or size > limits.bytes) and age_s >= RECENT_S
        if job.id not in needed_jobs and (age_s > limits.days * _DAY_S or is_too_much):
            chosen.append(job)
            number, size = number - 1, size - job.bytes
    return chosen
