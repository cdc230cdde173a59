"""Progress events: one class for each thing that a person may want to see, and its topic.

`round.completed` is the class RoundCompleted, published to `fl.progress.<job>.round.completed`.
"""

from typing import ClassVar, get_args

import msgspec

from broker import topics
from broker.messages import cloudevents, codec
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError
from broker.messages.job import Job
from broker.messages.round import BlobRef


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened; `what` is its subject and verb."""

    what: ClassVar[str]


class JobAccepted(_Event, frozen=True):
    """The job is with the server.

    Attributes:
        name: the job's.
        job: what was asked for, with every default written out.
    """

    what: ClassVar = "job.accepted"
    name: str
    job: Job


class JobRejected(_Event, frozen=True):
    """The job can't be run.

    Attributes:
        field: what of the job is wrong, such as `cohort.clients`; empty: all of it.
        value: the field's value, as Python shows it.
        reason: the field, its value and what is allowed, in a sentence.
    """

    what: ClassVar = "job.rejected"
    field: str
    value: str
    reason: str


class JobWaiting(_Event, frozen=True):
    """The job waits for clients.

    Attributes:
        data: the deal whose clients it waits for.
        have: how many there are.
        need: how many a round needs.
        until_s: when the job is given up, seconds since the epoch.
    """

    what: ClassVar = "job.waiting"
    reason: str
    data: str
    have: int
    need: int
    until_s: float


class JobStarted(_Event, frozen=True):
    """The initial model is published.

    Attributes:
        parameters: how many numbers the model has.
    """

    what: ClassVar = "job.started"
    model: BlobRef
    parameters: int


class JobCompleted(_Event, frozen=True):
    """The job's stop rule was met."""

    what: ClassVar = "job.completed"
    reason: str
    rounds: int
    accuracy: float | None
    model: BlobRef


class JobFailed(_Event, frozen=True):
    """The job can't go on."""

    what: ClassVar = "job.failed"
    reason: str


class JobCancelled(_Event, frozen=True):
    """Someone asked for the end; `model` is the last global model."""

    what: ClassVar = "job.cancelled"
    rounds: int
    model: BlobRef | None


class RoundOpened(_Event, frozen=True):
    """A cohort is chosen; its tasks are on their way.

    Attributes:
        cohort: the invited clients.
        quorum: how many counted updates make the round.
        deadline_s: when it must be over, seconds since the epoch.
        resumed: the server was started anew in the middle of the round.
    """

    what: ClassVar = "round.opened"
    round: int
    cohort: tuple[str, ...]
    quorum: int
    deadline_s: float
    resumed: bool = False


class RoundQuorum(_Event, frozen=True):
    """Enough updates are counted.

    Attributes:
        counted: how many.
        grace_s: how long the other clients have left, in seconds.
    """

    what: ClassVar = "round.quorum"
    round: int
    counted: int
    grace_s: float


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A round's wall time in the paper's terms (Figure 5). Seconds; the parts add up to `round_s`.

    Attributes:
        invocation_s: until every task was with the broker.
        clients_start_s: from there until the first client began to train (start of function, model, data).
        training_s: from there until the last counted update was here.
        aggregation_s: from there until the new global model was committed.
        round_s: all of it.
    """

    invocation_s: float
    clients_start_s: float
    training_s: float
    aggregation_s: float
    round_s: float


class RoundCompleted(_Event, frozen=True):
    """A new global model is committed.

    Attributes:
        counted: clients whose update is in the model.
        missing: invited clients whose update is not.
        samples: how many examples they trained on, all together.
        model: the new global model.
        split: where the time went.
        trained_s: seconds of training, summed over the counted clients.
        metrics: the clients' own metrics, weighted by samples.
        bytes_in: size of the counted updates.
        bytes_out: size of what the clients had to fetch.
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
    """The round missed its quorum.

    Attributes:
        counted: clients whose update had come.
        policy: what follows: `retry`, `skip` or `stop`.
    """

    what: ClassVar = "round.failed"
    round: int
    reason: str
    counted: tuple[str, ...]
    policy: str


class ClientTraining(_Event, frozen=True):
    """A client has model and data, and trains."""

    what: ClassVar = "client.training"
    round: int
    client: str
    platform: str
    activation: str
    attempt: int
    cold: bool | None


class ClientFailed(_Event, frozen=True):
    """An invocation failed.

    Attributes:
        final: the client is given up for this round.
    """

    what: ClassVar = "client.failed"
    round: int
    client: str
    platform: str
    attempt: int
    reason: str
    final: bool


class ClientRefused(_Event, frozen=True):
    """The platform was away or too busy to start the function; it is asked again, and no attempt is lost."""

    what: ClassVar = "client.refused"
    round: int
    client: str
    platform: str
    attempt: int
    reason: str


class ClientRestored(_Event, frozen=True):
    """A client's function had vanished from its platform and was created again."""

    what: ClassVar = "client.restored"
    round: int
    client: str
    platform: str
    attempt: int
    reason: str


class UpdateCounted(_Event, frozen=True):
    """A client's update is in the round's sum.

    Attributes:
        samples: how many examples it was trained on.
        counted: how many updates are in the sum now.
        of: how many clients were invited.
        trained_s: how long the client trained, in seconds.
        metrics: what the training measured.
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


class UpdateRefused(_Event, frozen=True):
    """An update was not counted.

    Attributes:
        topic: where it lies.
        code: why, in a word: one of `server.gate.CODES`.
    """

    what: ClassVar = "update.refused"
    topic: str
    code: str
    reason: str


class ModelEvaluated(_Event, frozen=True):
    """The global model after a round was judged on the server's test set.

    Attributes:
        accuracy: share of right answers, 0 to 1.
        loss: mean over the test set; null: it is not finite.
        samples: how many examples it was judged on.
        evaluation_s: how long that took, in seconds.
        background: the next round had begun meanwhile.
    """

    what: ClassVar = "model.evaluated"
    round: int
    accuracy: float
    loss: float | None
    samples: int
    evaluation_s: float
    background: bool


Event = (
    JobAccepted
    | JobRejected
    | JobWaiting
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

ENDS = (JobRejected, JobCompleted, JobFailed, JobCancelled)
"""After one of these nothing more happens to a job."""


class Progress(msgspec.Struct, frozen=True):
    """An event, what job it belongs to, when it happened, and an id that a repetition shares."""

    job: str
    event: Event
    time_s: float
    id: str


def topic_of(job: str, event: Event) -> str:
    """Where the event is published."""
    subject, verb = event.what.split(".")
    return topics.progress(job, subject, verb)


def encode(progress: Progress) -> bytes:
    """The event as a CloudEvent."""
    envelope = Envelope(progress.id, "/server", progress.event.what, progress.time_s, progress.job)
    return cloudevents.encode(envelope, progress.event)


def decode(payload: bytes) -> Progress:
    """Read it back.

    Raises:
        SchemaTooNew: it is of a newer schema.
        DecodeError: it is no progress event that we know.
    """
    envelope, data = cloudevents.decode(payload)
    kind = _KINDS.get(envelope.type)
    if kind is None:
        raise DecodeError(f"no such progress event: {envelope.type}")
    codec.check_schema(kind, envelope.schema)
    return Progress(envelope.subject, codec.decode(kind, data), envelope.time_s, envelope.id)
