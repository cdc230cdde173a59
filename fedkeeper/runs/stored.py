"""Reads what a run has left in its folder, and notes there how the run has ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.messages.job import Job
from broker.messages.job_record import Phase
from broker.support.decoding import UNREADABLE
from fedkeeper import files
from fedkeeper.errors import Missing, NoSuchFile
from fedkeeper.runs import folder as run_folder

ENDED: Final = "ended.json"


class Ended(msgspec.Struct, frozen=True):
    """How a run has ended. Its file is written when all others are.

    Attributes:
        job: the job's id; empty: it was never accepted.
        phase: `completed`, `failed` or `cancelled`.
        reason: why it has not been completed.
    """

    job: str
    phase: Phase
    reason: str = ""


@dataclass(frozen=True)
class StoredRun:
    """What a run has left.

    Attributes:
        folder: its folder.
        job: its job; None: the folder has none.
        fields: the job's fields by their dotted names; empty: not known.
        rows: the rows of its metrics.jsonl.
        ended: how it has ended, `running` if it had not when the folder was written last; None: its folder is of
            version 0.1, which did not say it.
    """

    folder: Path
    job: Job | None
    fields: dict[str, Any]
    rows: list[dict[str, Any]]
    ended: Ended | None = None

    @property
    def name(self) -> str:
        """The folder's name, whatever the working directory is."""
        return self.folder.resolve().name

    @property
    def seed(self) -> int | None:
        """The job's seed; None: not known."""
        return None if self.job is None else self.job.seed

    @property
    def is_completed(self) -> bool:
        """Whether its values may be taken for its result."""
        return self.ended is None or self.ended.phase == "completed"


def read(folder: Path) -> StoredRun:
    """Read what one run has left.

    Raises:
        Missing: the folder has no metrics.jsonl, or a file in it is damaged.
    """
    is_unfinished = (folder / run_folder.UNFINISHED).is_file()
    table = _job_table(folder)
    ended = Ended("", "running", "it has not ended") if is_unfinished else read_ended(folder)
    rows = [] if ended is not None and not (folder / run_folder.METRICS).is_file() else read_metrics(folder)
    if ended is None and table is not None:
        ended = Ended("", "running", "it had not ended when it was fetched: fetch it again")
    try:
        # A newer program's job may have fields that this one does not know.
        job = None if table is None else msgspec.convert(table, Job)
    except ValueError as exc:
        raise Missing(f"{folder / 'job.toml'} is damaged: {exc}") from exc
    return StoredRun(folder, job, {} if table is None else flattened(table), rows, ended)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the rounds of a run from its folder.

    Raises:
        Missing: the folder has no metrics.jsonl, or the file is damaged.
    """
    file = folder / run_folder.METRICS
    if not file.is_file():
        raise NoSuchFile(f"{file} is missing: give the folder of a job, such as runs/2026-11-27-quickstart-1a2b3c")
    try:
        return [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    except OSError as exc:
        raise Missing(f"{file} can't be read: {exc}") from exc
    except UNREADABLE as exc:
        raise Missing(f"{file} is damaged: {exc}") from exc


def read_ended(folder: Path) -> Ended | None:
    """Return how a run has ended; None: it has not, or its folder does not say it.

    Raises:
        Missing: the file is damaged.
    """
    file = folder / ENDED
    try:
        return msgspec.json.decode(file.read_bytes(), type=Ended)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as exc:
        raise Missing(f"{file} can't be read: {exc}") from exc


def write_ended(folder: Path, ended: Ended) -> None:
    """Note how a run has ended.

    Args:
        folder: the run's folder.
        ended: how it has ended.

    Raises:
        NotSaved: the file can't be written.
    """
    files.write(folder / ENDED, msgspec.json.encode(ended) + b"\n")


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their dotted names.

    Args:
        table: the tables.
        prefix: what comes before each name.
    """
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        values |= flattened(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return values


def _job_table(folder: Path) -> dict[str, Any] | None:
    file = folder / run_folder.JOB
    try:
        table: dict[str, Any] = msgspec.toml.decode(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as exc:
        raise Missing(f"{file} can't be read: {exc}") from exc
    return table
