"""What `--json` prints: a struct for each command's result. Docs and JSON Schemas are made from this module."""

from typing import Any, Literal

import msgspec

from broker.messages import codec
from broker.messages.job_record import Phase
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


class JobField(Result, frozen=True, kw_only=True):
    """A field of a job: a line of what `fedkeeper fields` prints.

    Attributes:
        name: the field with its tables, as `--set` takes it.
        type: what it may be.
        default: its default, as TOML; empty: it is not set by default.
        meaning: what it means.
    """

    name: str
    type: str
    default: str
    meaning: str


class WrittenFile(Result, frozen=True, kw_only=True):
    """A file that a command has written: what `fedkeeper new` and `fedkeeper package` print.

    Attributes:
        path: the file.
    """

    path: str


class Statistics(msgspec.Struct, frozen=True):
    """A number of several runs.

    Attributes:
        n: number of runs that have it.
        mean: their mean.
        sd: standard deviation of the sample, with n - 1; None: there is one run.
        min: the smallest.
        max: the largest.
    """

    n: int
    mean: float
    sd: float | None
    min: float
    max: float


class ComparedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a comparison.

    Attributes:
        folder: its folder.
        seed: the job's seed; None: not known.
        phase: `completed`, `failed` or `cancelled`; None: its folder does not say it.
        reason: why it has not been completed.
        last: the metric when it was last measured; None: never.
        best: its best value; None: never measured, or nobody has said which values are better.
        best_round: the round of that.
        rounds: number of completed rounds.
        seconds: time of these rounds.
        digest: SHA-256 digest of the last model, 64 hexadecimal digits; empty: there is none.
    """

    folder: str
    seed: int | None
    phase: Phase | None
    reason: str
    last: float | None
    best: float | None
    best_round: int | None
    rounds: int
    seconds: float
    digest: str


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of a comparison whose jobs differ at most in their seed. The numbers are those of completed runs.

    Attributes:
        values: the fields by which this combination differs from others.
        last: the metric when it was last measured; None: no run has it.
        best: the best value of each run; None: no run has it.
        rounds: completed rounds; None: no run was completed.
        seconds: time of these rounds; None: no run was completed.
        runs: each run, also those that failed.
    """

    values: dict[str, Any]
    last: Statistics | None
    best: Statistics | None
    rounds: Statistics | None
    seconds: Statistics | None
    runs: tuple[ComparedRun, ...]


class Comparison(Result, frozen=True, kw_only=True):
    """Runs compared with each other: what `fedkeeper compare` prints.

    Attributes:
        metric: the metric by which they are compared.
        part: who has measured it: the server with its test set, the clients on held-out samples, or their training.
        better: whether more (`max`) or less (`min`) of it is better; None: nobody has said it.
        fields: the fields in which the jobs differ, without their seed.
        combinations: the best ones first.
        plot: the picture; empty: none was made.
    """

    metric: str
    part: Literal["server", "clients", "training"]
    better: Literal["max", "min"] | None
    fields: tuple[str, ...]
    combinations: tuple[Combination, ...]
    plot: str = ""


class Picture(Result, frozen=True, kw_only=True):
    """What `fedkeeper plot` prints.

    Attributes:
        plot: path of the picture.
        runs: the folders of the runs that it shows.
    """

    plot: str
    runs: tuple[str, ...]


class Swept(Result, frozen=True, kw_only=True):
    """What `fedkeeper sweep` prints.

    Attributes:
        folder: the sweep's folder.
        runs: number of runs of its plan.
        completed: number of runs that were completed.
        failed: number of runs that failed.
        cancelled: number of runs that were cancelled.
        comparison: all of them.
    """

    folder: str
    runs: int
    completed: int
    failed: int
    cancelled: int
    comparison: Comparison
