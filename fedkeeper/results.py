"""What `--json` prints: a struct for each command's result. Docs and JSON Schemas are made from this module."""

from typing import Any, Literal

import msgspec

from broker.messages.data_report import DataReport
from broker.messages.job_record import Phase
from fedkeeper.compared import Combination
from fedkeeper.sites.site_list import Site


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The root of all results."""


class DeletedJob(Result, frozen=True, kw_only=True):
    """A job that `fedkeeper delete` or `fedkeeper prune` has deleted: a line as soon as it is gone.

    Attributes:
        job: the job's id.
        bytes: size of its models.
        ended_s: when it ended, in seconds since the epoch.
        dry_run: whether it was not deleted, but would be.
    """

    job: str
    bytes: int
    ended_s: float
    dry_run: bool = False


class Fetched(Result, frozen=True, kw_only=True):
    """What `fedkeeper fetch`, `run` and `submit --wait` have written of a job.

    Attributes:
        job: the job's id.
        phase: the job's phase; unless it has ended, there is more to come.
        reason: why it has ended; empty: it has not.
        rounds: number of completed rounds.
        metrics: what was measured last, by metric.
        sha256: digest of the model, as the broker has it; null: no round is completed.
        folder: the run folder.
        files: names of the files in it that were written.
    """

    job: str
    phase: Phase
    reason: str
    rounds: int
    metrics: dict[str, float]
    sha256: str | None
    folder: str
    files: tuple[str, ...]


class SubmittedJob(Result, frozen=True, kw_only=True):
    """What `fedkeeper submit` has submitted.

    Attributes:
        job: the job's id.
        accepted: whether an FL server has taken it; if not, the broker keeps it until one does.
    """

    job: str
    accepted: bool


class ListedJob(Result, frozen=True, kw_only=True):
    """A job: a line of what `fedkeeper jobs` prints.

    Attributes:
        job: the job's id.
        name: its name.
        phase: its phase; `waiting` while clients are missing.
        reason: why it waits or has ended; empty: there is nothing to say.
        rounds: number of completed rounds.
        max_rounds: how many it has at most.
        metrics: what was measured last, by metric.
        created_s: when it was submitted, in seconds since the epoch; 0: not known.
        ended_s: when it ended; 0: not yet, or not known.
        sha256: digest of its model, 64 hexadecimal digits; null: there is none yet.
        bytes: size of its models.
    """

    job: str
    name: str
    phase: Literal["accepted", "waiting", "running", "completed", "failed", "cancelled"]
    reason: str
    rounds: int
    max_rounds: int
    metrics: dict[str, float]
    created_s: float
    ended_s: float
    sha256: str | None
    bytes: int


class CancelledJob(Result, frozen=True, kw_only=True):
    """What `fedkeeper cancel` has requested.

    Attributes:
        job: the job's id.
        requested: whether its end was requested; false: it had ended before.
        phase: its phase before the request.
        reason: why it had ended; empty: it had not.
    """

    job: str
    requested: bool
    phase: Phase
    reason: str


class JobEvent(Result, frozen=True, kw_only=True):
    """An event: a line of what `fedkeeper watch` prints.

    Attributes:
        job: the job's id.
        what: the event's name, such as `round.completed`.
        time_s: when it was published, in seconds since the epoch.
        event: the event, as docs/wire.md describes it.
    """

    job: str
    what: str
    time_s: float
    event: Any


class ListedClient(Result, frozen=True, kw_only=True):
    """A client: a line of what `fedkeeper clients` prints.

    Attributes:
        client: the client's id.
        platform: the platform that hosts it.
        state: outcome of its last invocation; `registered`: it was never invoked.
        paused: whether it is left out of the cohorts.
        seen_s: when it was last heard of, in seconds since the epoch; null: never.
        invocations: number of invocations.
        failures: number of those that failed.
        cold: number of cold starts.
        samples: number of its samples; 0: not known.
        labels: its labels.
        data_loc: where its data is, without passwords.
    """

    client: str
    platform: str
    state: str
    paused: bool
    seen_s: float | None
    invocations: int
    failures: int
    cold: int
    samples: int
    labels: dict[str, str]
    data_loc: str


class CheckedClient(DataReport, Result, frozen=True, kw_only=True, omit_defaults=False):
    """What a client's site says of its data: a line of what `fedkeeper clients check` prints.

    Attributes:
        error: the error that a job would fail with; `NotChecked`: nobody could look. Empty: nothing is wrong.
    """


class SiteList(Result, frozen=True, kw_only=True):
    """What `fedkeeper sites` prints.

    Attributes:
        time_s: when it was made, in seconds since the epoch.
        version: this command's version of FedKeeper.
        sites: the sites, those where something fails first.
    """

    time_s: float
    version: str
    sites: list[Site]


class ChangedClient(Result, frozen=True, kw_only=True):
    """An entry of the register: a line of what `fedkeeper clients add`, `remove` and `pause` print.

    Attributes:
        client: the client's id.
        entry: what has become of its entry, or would with --dry-run.
        fields: names of the fields that differ from before.
        samples: number of its samples; 0: not known.
    """

    client: str
    entry: Literal["new", "changed", "same", "removed"]
    fields: tuple[str, ...] = ()
    samples: int = 0


class StagedClient(Result, frozen=True, kw_only=True):
    """A client whose shard was written.

    Attributes:
        client: the client's id.
        samples: number of its samples.
        data_loc: where its shard is.
    """

    client: str
    samples: int
    data_loc: str


class StagedData(Result, frozen=True, kw_only=True):
    """What `fedkeeper stage` has written.

    Attributes:
        clients: the clients.
        registered: whether they are in the register.
        job: the tables of a job file that fit them; empty: those of the job that was named.
    """

    clients: tuple[StagedClient, ...]
    registered: bool
    job: dict[str, Any] = {}


class DeploymentStep(Result, frozen=True, kw_only=True):
    """A step of a deployment.

    Attributes:
        action: `create`, `update` or `delete` a function; `register` or `unregister` a client, or `change` its entry.
        client: the client's id.
        platform: the platform that hosts it.
    """

    action: Literal["create", "update", "register", "change", "unregister", "delete"]
    client: str
    platform: str


class Deployment(Result, frozen=True, kw_only=True):
    """What `fedkeeper deploy` has done.

    Attributes:
        plan: whether nothing was done, and these are the steps that would be.
        steps: the steps.
        unchanged: number of clients that were as the file describes them.
    """

    plan: bool
    steps: tuple[DeploymentStep, ...]
    unchanged: int


class Exported(Result, frozen=True, kw_only=True):
    """What `fedkeeper export` has written.

    Attributes:
        job: the job's id.
        round: the round of the model.
        sha256: digest of the model, as the broker has it.
        format: `onnx` or `state_dict`.
        file: the file's path.
        bytes: its size.
    """

    job: str
    round: int
    sha256: str
    format: str
    file: str
    bytes: int


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
