"""The parts of a comparison of runs, as `results.Comparison` and what is printed of it have them."""

from typing import Any

import msgspec

from broker.messages.job_record import Phase


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
        phase: `completed`, `failed` or `cancelled`, `running` if it had not ended when its folder was written last;
            None: its folder does not say it.
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
