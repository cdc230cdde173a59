"""Messages between a bridge and a function about one task.

A worker process on the bridge's machine writes `WorkerReady`, or `WorkerFault` and ends. Then it reads one
`InvocationRequest` per line and writes one `Report` per line, and `WorkerReady` again every BEAT_S seconds.

A function on a FaaS platform finds the request in
its trigger, retains its report at `fl.reports.<platform>.<client>`, and also returns its last report to the platform.
"""

from typing import ClassVar, Final, Literal

import msgspec

from broker.messages.round import RoundTask, TaskName
from broker.support import texts

OPENWHISK_ARGUMENT: Final = "order"
"""The argument of an OpenWhisk action that holds the request. Deployed actions of version 0.1 read this key."""

BEAT_S: Final = 5.0
"""Seconds between two signs of life of a worker process."""

Outcome = Literal["accepted", "running", "succeeded", "refused", "restored", "failed", "dead", "expired"]


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """The progress or outcome of one invocation of a client's function.

    Attributes:
        outcome: `accepted` by the platform; `running` (model and data are loaded, training begins); `succeeded` (the
            update is published); `refused` (the platform was unreachable or busy; nothing ran, and the bridge tries
            again); `restored` (the function was missing and was created again); `failed` (it will be invoked again);
            `dead` (given up); `expired` (the task's deadline has passed).
        activation: the platform's id of the run.
        cold: whether the invocation was a cold start; None: not known.
        seconds: time since the bridge took the task, in seconds.
    """

    job: str
    round: int
    client: str
    platform: str
    attempt: int
    outcome: Outcome
    activation: str = ""
    cold: bool | None = None
    reason: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "reason", texts.shortened(self.reason))


class InvocationRequest(msgspec.Struct, frozen=True):
    """A bridge's request to a function to execute a task.

    Attributes:
        task: the task to execute.
    """

    upgrade: ClassVar = "package and deploy the functions with the version of the server"

    task: RoundTask
    attempt: int


class RequestName(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of an invocation request that identify its task. They are the same in every schema."""

    task: TaskName
    attempt: int


class WorkerReady(msgspec.Struct, frozen=True):
    """The first line of a worker process: it can take tasks. It comes again every BEAT_S seconds: the process lives.

    Attributes:
        processor: the kind of processor that it trains with; empty: as said before, or an older version wrote it.
        device: the device that it trains on, as torch names it; empty: as the job says.
    """

    state: Literal["ready"] = "ready"
    processor: str = ""
    device: str = ""


class WorkerFault(msgspec.Struct, frozen=True):
    """The only line of a worker process that can't take tasks because of its site's settings. The process ends.

    Attributes:
        reason: the setting, its value and what to do.
    """

    state: Literal["fault"] = "fault"
    reason: str = ""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function's report about an invocation request.

    Attributes:
        id: the task's id.
        state: `training` (training has begun), `trained` (the function can take the next task), `done` (the broker has
            the update), or `failed`.
        cold: whether this is the first task of this process.
        reason: why the invocation failed.
        retryable: whether another attempt can succeed.
        attempt: the request's attempt.
        activation: the platform's id of the run, as the function knows it; empty: the function does not know it.
        every_s: of `training`: it is reported again after so many seconds while the training goes on; 0: it is not.
        nothing_ran: of `failed`: the site's settings let nothing run, whatever the task is. No attempt is used up.
    """

    id: str
    state: Literal["training", "trained", "done", "failed"]
    cold: bool = False
    reason: str = ""
    retryable: bool = True
    attempt: int = 0
    activation: str = ""
    every_s: float = 0.0
    nothing_ran: bool = False

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "reason", texts.shortened(self.reason))

    @property
    def client(self) -> str:
        """The client that the task is for: the last part of the task's id."""
        return self.id.rpartition(".")[2]
