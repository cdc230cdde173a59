"""The job record: everything that the server must remember of a job, in one retained value."""

from typing import ClassVar, Literal

import msgspec

from broker.messages import codec
from broker.messages.job import Job
from broker.messages.progress import JobStarted, RoundCompleted, RoundFailed
from broker.messages.round import BlobRef, Purpose
from broker.support import notebook, texts

Phase = Literal["accepted", "running", "completed", "failed", "cancelled"]


class Member(msgspec.Struct, frozen=True):
    """A client that is invited to a round, as the register described it at that time.

    Attributes:
        id: the client's id.
        platform: name of the platform that hosts the client's function.
        url: where the platform triggers the function; empty: the platform needs no URL.
        data_loc: fsspec URL of the client's shard.
        samples: number of examples in the shard; 0: not known.
        labels: the client's labels.
        state_loc: fsspec URL of the folder of its own tensors; empty: beside `data_loc`.
        purpose: `train`, or `evaluate`: it only judges the round's model.
    """

    id: str
    platform: str
    url: str
    data_loc: str
    samples: int
    labels: dict[str, str] = {}
    state_loc: str = ""
    purpose: Purpose = "train"


class BestModel(msgspec.Struct, frozen=True):
    """The best model of a job so far.

    Attributes:
        round: the round that it is of.
        metric: the metric that it is best by.
        value: that metric's value.
        model: the model.
    """

    round: int
    metric: str
    value: float
    model: BlobRef


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a job. Every decision about a job is one compare-and-set of its record.

    Attributes:
        id: the job's id.
        job: the job as it was submitted.
        phase: the job's phase.
        created_s: when the job was accepted, in seconds since the epoch.
        round: number of the open round, or of the last one.
        model: the global model that the open round starts from; at the end, the final model.
        server_state: the strategy's own tensors; None: it has none.
        along: tensors that the strategy sends along with the tasks of the open round; None: it sends none.
        frozen: names of the model's tensors that clients do not train, so updates leave them out.
        buffers: names of the model's tensors that are statistics, not weights.
        cohort: the clients that are invited to the open round.
        holders: number of registered clients that held the job's data when the open round was opened; 0: an older
            version opened it.
        opened_s: when the round was opened, in seconds since the epoch.
        deadline_s: the round's deadline, in seconds since the epoch.
        invited: whether the broker has every task of the open round.
        renewed_s: when the open round got its whole time again, because the whole system was off, in seconds since the
            epoch; 0: it did not.
        closed: last sequence of the log that counts for the open round; None: the round still collects updates.
        counted: attempts whose updates count for the closed round, by client id. On MQTT an event that comes later may
            have a smaller sequence, so the position alone would not tell them. Records of older versions have none.
        failures: number of failed rounds in a row.
        state_tables: the tables of what clients' next tasks name of their earlier rounds, oldest first: of a client the
            newest entry counts.
        states: by client, its optimizer state: version 0.1 wrote it here.
        done: number of completed rounds.
        last: the event of the last completed round; the server announces it again after a crash.
        started: the event of the job's start, until the first round is opened: the server announces it again after a
            crash.
        failed: the event of the last round, if that failed, until the next one is opened; as `started`.
        evaluated: number of the last round that was evaluated.
        accuracy: test accuracy of that round.
        metrics: what the last evaluation measured, by metric: the server's, or the clients' if it has no test set.
        best: the best model so far by `evaluation.best`; None: there is none.
        watched: the best value so far of the metric that `stop` looks at; None: there is none.
        without_better: number of evaluations in a row without a better value of it.
        kept: the models that `model.keep_every` keeps, by round.
        frozen_model: the tensors that no client trains; None: there are none, or each site makes them itself.
        frozen_digest: SHA-256 digest of the safetensors file of the tensors that each site makes itself, 64 hexadecimal
            digits; empty: there are none.
        personal: names of the tensors that never leave a client.
        processors: number of counted updates by the kind of processor that trained them; empty: not told.
        starts: how often the last step that runs the user's code was started, by the step's name.
        superseded: earlier models that may not be deleted yet, oldest first.
        waiting: why the job waits for clients before it opens a round, and what can be done; empty: it does not.
        reason: why the job ended.
        ended_s: when the job's end was announced, in seconds since the epoch; 0: not yet, or not known.
        changes: how often the record was changed. Of two versions, the one with more changes is newer.
        announced: whether the broker also has the job's last event.
        submission: id of the CloudEvent that submitted the job; empty: it was a bare job.
        epoch: tells the job's events from those of a deleted job that had the same id: a part of their ids.
        schema: schema number of the message.
    """

    upgrade: ClassVar = "a newer server wrote it: upgrade this program"

    id: str
    job: Job
    phase: Phase = "accepted"
    created_s: float = 0.0
    round: int = 0
    model: BlobRef | None = None
    server_state: BlobRef | None = None
    along: BlobRef | None = None
    frozen: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    cohort: tuple[Member, ...] = ()
    holders: int = 0
    opened_s: float = 0.0
    deadline_s: float = 0.0
    invited: bool = False
    renewed_s: float = 0.0
    closed: int | None = None
    counted: dict[str, int] = {}
    failures: int = 0
    state_tables: tuple[BlobRef, ...] = ()
    states: dict[str, BlobRef] = {}
    done: int = 0
    last: RoundCompleted | None = None
    started: JobStarted | None = None
    failed: RoundFailed | None = None
    evaluated: int = 0
    accuracy: float | None = None
    metrics: dict[str, float] = {}
    best: BestModel | None = None
    watched: float | None = None
    without_better: int = 0
    kept: dict[int, BlobRef] = {}
    frozen_model: BlobRef | None = None
    frozen_digest: str = ""
    personal: tuple[str, ...] = ()
    processors: dict[str, int] = {}
    starts: dict[str, int] = {}
    superseded: tuple[BlobRef, ...] = ()
    waiting: str = ""
    reason: str = ""
    ended_s: float = 0.0
    changes: int = 0
    announced: bool = False
    submission: str = ""
    epoch: str = ""
    schema: int = codec.SCHEMA

    @property
    def has_ended(self) -> bool:
        """Whether the job is in one of its last phases: the model does not change any more."""
        return self.phase in ("completed", "failed", "cancelled")

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended and its end is announced: nothing is left to do."""
        return self.has_ended and self.announced

    def is_of(self, submitted: Job) -> bool:
        """Whether this is the record of a submitted job. The digest of the user's code is set when a job begins."""
        code = submitted.model.code or self.job.model.code
        model = msgspec.structs.replace(submitted.model, code=code)
        return self.job == msgspec.structs.replace(submitted, model=model)

    def _repr_html_(self) -> str:
        found = dict(self.metrics) | ({} if self.accuracy is None else {"accuracy": self.accuracy})
        rows = [
            ("phase", self.phase),
            ("rounds", f"{self.done} of at most {self.job.stop.rounds}"),
            ("result", ", ".join(f"{name} {value:.4g}" for name, value in sorted(found.items()))),
            ("reason", self.reason),
            ("model digest", "" if self.last is None else self.last.model.sha256),
        ]
        return notebook.facts(self.id, rows)


def blobs(record: JobRecord) -> tuple[BlobRef, ...]:
    """Return what a server has stored of a job beside its record, each once."""
    best = None if record.best is None else record.best.model
    state = record.model, record.server_state, record.along, *record.state_tables
    named = (*state, record.frozen_model, best, *record.kept.values())
    return tuple(dict.fromkeys(blob for blob in named if blob is not None))


def as_failed(record: JobRecord, reason: str) -> JobRecord:
    """Return the record with the phase `failed` and no cohort.

    Args:
        record: the record of a job that cannot continue.
        reason: why, for people.
    """
    return msgspec.structs.replace(record, phase="failed", cohort=(), reason=texts.shortened(reason))
