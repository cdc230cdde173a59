"""Run folders: `runs/<date>-<job>/` has what a job has left, and `runs/latest` is the one written last."""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from broker.messages import job_file
from broker.messages.errors import JobError
from broker.messages.job import Job
from fedkeeper.errors import BadOption

LATEST: Final = "latest"

JOB: Final = "job.toml"
METRICS: Final = "metrics.jsonl"
CLIENTS: Final = "clients.jsonl"

UNFINISHED: Final = "unfinished.json"
"""The options of a `fedkeeper run` whose job has not ended."""


def choose(out: Path, job: str, created_s: float) -> Path:
    """Return the folder of a job: the one that it has, else a new one. Creates nothing.

    Args:
        out: the folder of all runs, such as `runs`.
        job: the job's id.
        created_s: when the job was submitted, in seconds since the epoch.
    """
    found = sorted(out.glob(f"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-{job}"))
    return found[-1] if found else out / f"{datetime.fromtimestamp(created_s, UTC):%Y-%m-%d}-{job}"


def mark_latest(folder: Path) -> None:
    """Let `latest` beside a run's folder point to it. Where there are no symbolic links, there is no `latest`."""
    link, new = folder.parent / LATEST, folder.parent / f".{LATEST}-{os.getpid()}"
    with contextlib.suppress(OSError):
        new.unlink(missing_ok=True)
        new.symlink_to(folder.name, target_is_directory=True)
        if link.is_symlink() or not link.exists():
            new.replace(link)
        new.unlink(missing_ok=True)


def check_is_of(folder: Path, job: Job) -> None:
    """Check that a folder has no results of another job.

    Args:
        folder: the folder; it may be missing.
        job: the job.

    Raises:
        BadOption: it has those of another job, or its job.toml can't be read.
    """
    file = folder / JOB
    if not file.is_file():
        return
    try:
        known = job_file.from_text(file.read_text(encoding="utf-8"))
        if _compared(known) == _compared(job):
            return
        reason = "has the results of another job with this id"
    except (OSError, UnicodeDecodeError, JobError) as exc:
        reason = f"may have the results of another job: its job.toml can't be read: {exc}"
    raise BadOption(f"{folder} {reason}; give another folder (--out), or the job another id")


def _compared(job: Job) -> Job:
    """Return a job without its id, and without the digest of the user's code, which is set when it begins."""
    return msgspec.structs.replace(job, id=None, model=msgspec.structs.replace(job.model, code=""))
