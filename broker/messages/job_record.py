"""The job's record: all that the server must remember of a job, in one retained value."""

from typing import ClassVar, Literal

import msgspec

from broker.messages import codec
from broker.messages.job import Job
from broker.messages.progress import RoundCompleted
from broker.messages.round import BlobRef


class Member(msgspec.Struct, frozen=True):
    """A client that was invited to a round, as the register knew it then."""

    id: str
    platform: str
    url: str
    data_loc: str
    samples: int


Phase = Literal["accepted", "running", "completed", "failed", "cancelled"]


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The job's state of record; whoever moves it by compare-and-set has decided.

    Attributes:
        id: the job's.
        job: what was asked for.
        phase: where the job stands.
        created_s: when it was accepted, seconds since the epoch.
        round: the open round, or the last one.
        model: the global model that the open round starts from; in the end, the final one.
        server_state: the strategy's own tensors; None where it has none.
        frozen: names of the model's tensors that clients do not train, so updates leave them out.
        buffers: names of the model's tensors that are statistics, not weights.
        cohort: who was invited to the open round.
        opened_s: when the round was opened, seconds since the epoch.
        deadline_s: when it must be over.
        invited: every task of the open round is with the broker.
        closed: the last sequence of the log that counts for the open round; None: it still collects.
        failures: failed rounds in a row.
        states: the optimizer state that each client's next task names.
        done: completed rounds.
        last: what the last completed round was announced as; said again after a crash.
        evaluated: the last round that was evaluated.
        accuracy: measured then.
        reason: why the job ended.
        announced: its end is with the broker as an event too.
        schema: version of the message.
    """

    upgrade: ClassVar = "a newer server wrote it: upgrade this program"

    id: str
    job: Job
    phase: Phase = "accepted"
    created_s: float = 0.0
    round: int = 0
    model: BlobRef | None = None
    server_state: BlobRef | None = None
    frozen: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    cohort: tuple[Member, ...] = ()
    opened_s: float = 0.0
    deadline_s: float = 0.0
    invited: bool = False
    closed: int | None = None
    failures: int = 0
    states: dict[str, BlobRef] = {}
    done: int = 0
    last: RoundCompleted | None = None
    evaluated: int = 0
    accuracy: float | None = None
    reason: str = ""
    announced: bool = False
    schema: int = codec.SCHEMA

    @property
    def ended(self) -> bool:
        """Nothing more will happen to the model."""
        return self.phase in ("completed", "failed", "cancelled")

    @property
    def over(self) -> bool:
        """Nothing more is to be done."""
        return self.ended and self.announced


def failed(record: JobRecord, reason: str) -> JobRecord:
    """The record of a job that can't go on."""
    return msgspec.structs.replace(record, phase="failed", cohort=(), reason=reason)
