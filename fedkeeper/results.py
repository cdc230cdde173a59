"""What `--json` prints: a struct for each command's result. Docs and JSON Schemas are made from this module."""

import msgspec

from broker.messages import codec
from fedkeeper import screen


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The root of all results."""


class DeletedJob(Result, frozen=True, kw_only=True):
    """A finished job that was deleted.

    Attributes:
        job: the job's id.
        bytes: size of its models.
        ended_s: when it ended, in seconds since the epoch.
    """

    job: str
    bytes: int
    ended_s: float


class DeletedJobs(Result, frozen=True, kw_only=True):
    """What `fedkeeper delete` and `fedkeeper prune` have deleted.

    Attributes:
        jobs: the jobs, the oldest first for `prune`, else in the order of the command line.
        dry_run: whether nothing was deleted, and this is what would be.
    """

    jobs: tuple[DeletedJob, ...]
    dry_run: bool = False


class Fetched(Result, frozen=True, kw_only=True):
    """What `fedkeeper fetch` has written.

    Attributes:
        job: the job's id.
        phase: the job's phase; unless it has ended, there is more to come.
        rounds: number of completed rounds.
        sha256: digest of the model, as the broker has it; null: no round is completed.
        folder: the run folder.
        files: names of the files in it that were written.
    """

    job: str
    phase: str
    rounds: int
    sha256: str | None
    folder: str
    files: tuple[str, ...]


def print_json(result: Result) -> None:
    """Print a result on standard output, as one line of JSON."""
    screen.echo(codec.encode(result).decode())
