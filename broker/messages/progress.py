"""Progress events: one class per event, and its topic.

`round.completed` is the class RoundCompleted; the server publishes it to `fl.progress.<job>.round.completed`.
"""

from typing import ClassVar, Literal, get_args

import msgspec

from broker import topics
from broker.messages import cloudevents, codec
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError
from broker.messages.job import Job
from broker.messages.reports import Split, Spread, StartReport
from broker.messages.round import BlobRef, Purpose
from broker.support import texts


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the events. `what` is the event's name: its subject and verb.

    What strangers have written into a reason or a value is shortened: an event must fit into one message.
    """

    what: ClassVar[str]

    def __post_init__(self) -> None:
        for name in ("reason", "value", "topic", "submission"):
            if isinstance(text := getattr(self, name, None), str):
                msgspec.structs.force_setattr(self, name, texts.shortened(text))


class JobAccepted(_Event, frozen=True):
    """The server has accepted the job.

    Attributes:
        name: the job's name.
        job: the job, with all defaults filled in.
    """

    what: ClassVar = "job.accepted"
    name: str
    job: Job


class JobRejected(_Event, frozen=True):
    """The server has rejected the job: it cannot run.

    Attributes:
        field: name of the wrong field, such as `cohort.clients`; empty: the whole job.
        value: the field's value, as Python prints it.
        reason: the field, its value and what is allowed, in one sentence.
        submission: id of the CloudEvent that submitted the job; empty: it was a bare job.
    """

    what: ClassVar = "job.rejected"
    field: str
    value: str
    reason: str
    submission: str = ""


class JobWaiting(_Event, frozen=True):
    """The job waits for clients.

    Attributes:
        data: key of the partition whose clients it waits for.
        have: number of available clients.
        need: number of clients that a round needs.
        until_s: when the job fails if they are still missing, in seconds since the epoch.
    """

    what: ClassVar = "job.waiting"
    reason: str
    data: str
    have: int
    need: int
    until_s: float


class JobPaused(_Event, frozen=True):
    """The job waits until the broker has room again, and then goes on.

    Attributes:
        reason: what there is no room for, and what can be done.
        until_s: when the job fails if there is still no room, in seconds since the epoch.
    """

    what: ClassVar = "job.paused"
    reason: str
    until_s: float


class JobStarted(_Event, frozen=True):
    """The initial model is published.

    Attributes:
        parameters: number of parameters of the model.
        start: what was taken of the model that the job names in `model.from`; None: it names none.
    """

    what: ClassVar = "job.started"
    model: BlobRef
    parameters: int
    start: StartReport | None = None


class JobCompleted(_Event, frozen=True):
    """The job has met its stop condition.

    Attributes:
        accuracy: the last model's test accuracy; None: not evaluated.
        metrics: what the last evaluation measured, by metric: the server's, or the clients' if it has no test set.
        best_round: the round of the best model; None: the job does not ask for the best one.
        best: that model.
        processors: number of counted updates by the kind of processor that trained them; empty: a function of an older
            version, which does not tell.
    """

    what: ClassVar = "job.completed"
    reason: str
    rounds: int
    accuracy: float | None
    model: BlobRef
    metrics: dict[str, float] = {}
    best_round: int | None = None
    best: BlobRef | None = None
    processors: dict[str, int] = {}


class JobFailed(_Event, frozen=True):
    """The job cannot continue."""

    what: ClassVar = "job.failed"
    reason: str


class JobCancelled(_Event, frozen=True):
    """The job was cancelled. `model` is the last global model."""

    what: ClassVar = "job.cancelled"
    rounds: int
    model: BlobRef | None


class RoundOpened(_Event, frozen=True):
    """The cohort is selected, and the server sends its tasks.

    Attributes:
        cohort: ids of the clients that are to train; none: the round only judges the job's last model.
        quorum: number of counted updates that the round needs.
        deadline_s: the round's deadline, in seconds since the epoch.
        resumed: whether the server was restarted during the round.
        evaluators: ids of the clients that only judge the round's model.
    """

    what: ClassVar = "round.opened"
    round: int
    cohort: tuple[str, ...]
    quorum: int
    deadline_s: float
    resumed: bool = False
    evaluators: tuple[str, ...] = ()


class RoundQuorum(_Event, frozen=True):
    """The round has reached its quorum.

    Attributes:
        counted: number of counted updates.
        grace_s: time that the other clients have left, in seconds.
    """

    what: ClassVar = "round.quorum"
    round: int
    counted: int
    grace_s: float


class RoundCompleted(_Event, frozen=True):
    """A new global model is committed.

    Attributes:
        counted: ids of the clients whose update is in the model.
        missing: ids of the invited clients whose update is not in the model.
        samples: number of examples that the counted clients trained on, in total.
        model: the new global model.
        split: the phases of the round's wall time.
        trained_s: training time, summed over the counted clients, in seconds.
        metrics: mean of the clients' metrics, weighted by samples.
        bytes_in: size of the counted updates, in bytes.
        bytes_out: bytes that the counted clients fetched from the broker.
    """

    what: ClassVar = "round.completed"
    round: int
    counted: tuple[str, ...]
    missing: tuple[str, ...]
    samples: int
    model: BlobRef
    split: Split
    trained_s: float
    metrics: dict[str, float]
    bytes_in: int
    bytes_out: int


class RoundFailed(_Event, frozen=True):
    """The round has missed its quorum.

    Attributes:
        counted: ids of the clients whose update had arrived.
        missing: ids of the other invited clients.
        policy: what follows: `retry` it, `skip` it, or `stop` the job.
    """

    what: ClassVar = "round.failed"
    round: int
    reason: str
    counted: tuple[str, ...]
    policy: str
    missing: tuple[str, ...] = ()


class ClientTraining(_Event, frozen=True):
    """A client has loaded the model and its data, and trains."""

    what: ClassVar = "client.training"
    round: int
    client: str
    platform: str
    activation: str
    attempt: int
    cold: bool | None


class ClientFailed(_Event, frozen=True):
    """An invocation has failed.

    Attributes:
        final: whether the client is given up for this round.
    """

    what: ClassVar = "client.failed"
    round: int
    client: str
    platform: str
    attempt: int
    reason: str
    final: bool


class ClientRefused(_Event, frozen=True):
    """The platform was unreachable or too busy to start the function. The bridge tries again, and no attempt counts."""

    what: ClassVar = "client.refused"
    round: int
    client: str
    platform: str
    attempt: int
    reason: str


class ClientRestored(_Event, frozen=True):
    """A client's function was missing on its platform and was created again."""

    what: ClassVar = "client.restored"
    round: int
    client: str
    platform: str
    attempt: int
    reason: str


class UpdateCounted(_Event, frozen=True):
    """A client's update is counted in the round.

    Attributes:
        samples: number of examples that the client trained on.
        counted: number of counted updates so far; of clients with the same purpose.
        of: number of invited clients with that purpose.
        trained_s: training time of the client, in seconds.
        metrics: metrics that the training measured.
        judged: number of held-out samples that it judged the round's model with.
        evaluation: what that gave, by metric.
        purpose: `evaluate`: the client has only judged the model.
        processor: the kind of processor that trained; empty: not told.
    """

    what: ClassVar = "update.counted"
    round: int
    client: str
    attempt: int
    samples: int
    counted: int
    of: int
    trained_s: float
    metrics: dict[str, float]
    judged: int = 0
    evaluation: dict[str, float] = {}
    purpose: Purpose = "train"
    processor: str = ""


class UpdateRefused(_Event, frozen=True):
    """An update was not counted.

    Attributes:
        topic: topic of the update.
        code: code of the reason: one of `server.gate.CODES`.
    """

    what: ClassVar = "update.refused"
    topic: str
    code: str
    reason: str


class ModelEvaluated(_Event, frozen=True):
    """A round's global model was evaluated, by the server on its test set or by clients on what they hold out.

    Attributes:
        accuracy: share of correct predictions, 0 to 1; None: not measured.
        loss: mean loss over the samples; None: it is not finite, or not measured.
        samples: number of samples.
        evaluation_s: duration of the evaluation, in seconds; summed over the clients.
        background: whether the next round ran at the same time.
        by: who evaluated it.
        metrics: all that was measured, `accuracy` and `loss` too, over all samples at once.
        clients: number of clients that have judged it; 0: the server has.
        spread: by metric, how it differs among the clients.
        left_out: by metric, number of clients that answered and could not measure it, for example for want of a second
            class.
        reason: why there are no metrics; empty: there are.
    """

    what: ClassVar = "model.evaluated"
    round: int
    accuracy: float | None
    loss: float | None
    samples: int
    evaluation_s: float
    background: bool
    by: Literal["server", "clients"] = "server"
    metrics: dict[str, float] = {}
    clients: int = 0
    spread: dict[str, Spread] = {}
    left_out: dict[str, int] = {}
    reason: str = ""


Event = (
    JobAccepted
    | JobRejected
    | JobWaiting
    | JobPaused
    | JobStarted
    | JobCompleted
    | JobFailed
    | JobCancelled
    | RoundOpened
    | RoundQuorum
    | RoundCompleted
    | RoundFailed
    | ClientTraining
    | ClientFailed
    | ClientRefused
    | ClientRestored
    | UpdateCounted
    | UpdateRefused
    | ModelEvaluated
)

_KINDS: dict[str, type[Event]] = {kind.what: kind for kind in get_args(Event)}

FINAL_EVENTS = (JobRejected, JobCompleted, JobFailed, JobCancelled)
"""A job's last event is one of these."""


class Progress(msgspec.Struct, frozen=True):
    """An event of a job.

    Attributes:
        job: the job's id.
        event: the event.
        time_s: when it happened, in seconds since the epoch.
        id: id of the event; a repetition of the event has the same id.
    """

    job: str
    event: Event
    time_s: float
    id: str


def topic_of(job: str, event: Event) -> str:
    """Return the topic of an event.

    Args:
        job: the job's id.
        event: the event.

    Raises:
        BadTopic: the job's id is not a legal id.
    """
    subject, verb = event.what.split(".")
    return topics.progress(job, subject, verb)


def encode(progress: Progress) -> bytes:
    """Encode an event as a CloudEvent."""
    envelope = Envelope(progress.id, "/server", progress.event.what, progress.time_s, progress.job)
    return cloudevents.encode(envelope, progress.event)


def decode(payload: bytes) -> Progress:
    """Decode an event from a CloudEvent.

    Raises:
        SchemaTooNew: the event has a newer schema than this program knows.
        DecodeError: the payload is not a CloudEvent, or this program does not know the event.
    """
    envelope, data = cloudevents.decode(payload)
    kind = _KINDS.get(envelope.type)
    if kind is None:
        raise DecodeError(f"no such progress event: {envelope.type}")
    codec.check_schema(kind, envelope.schema)
    return Progress(envelope.subject, codec.decode(kind, data), envelope.time_s, envelope.id)
