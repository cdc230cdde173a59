"""What a bridge and a function say to each other about one task.

A worker process on the bridge's machine gets an `InvocationRequest` per line and answers with a `Report` per line. A
function on a FaaS platform finds the request in its trigger, retains its report at `fl.reports.<platform>.<client>`,
and returns the last one to the platform as well.
"""

from typing import ClassVar, Literal

import msgspec

from broker.messages.round import RoundTask, TaskName

Outcome = Literal["accepted", "running", "succeeded", "refused", "restored", "failed", "dead", "expired"]


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one invocation of a client's function.

    Attributes:
        outcome: `accepted` by the platform, `running` (data and model are there, training begins), `succeeded` (the
            update is published), `refused` (the platform was away or busy; nothing ran, and it is asked again),
            `restored` (the function had vanished and was created again), `failed` (it will be invoked again), `dead`
            (given up), `expired` (its time was over).
        activation: the platform's id of the run.
        cold: whether the function had to be started for it; None: not known.
        seconds: since the bridge took the task.
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


class InvocationRequest(msgspec.Struct, frozen=True):
    """What the bridge asks for.

    Attributes:
        task: what to do.
    """

    upgrade: ClassVar = "package and deploy the functions with the version of the server"

    task: RoundTask
    attempt: int


class RequestName(msgspec.Struct, frozen=True, kw_only=True):
    """What names the task of an order of any schema, however little else of it can be read."""

    task: TaskName
    attempt: int


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of it.

    Attributes:
        id: the task's.
        state: `training` has begun; `trained`, so the next task may come; `done`, the update is with the broker; or
            `failed`.
        cold: whether it is the first task of this process.
        reason: why it failed.
        retryable: whether another attempt may have another outcome.
        attempt: the request's.
        activation: the platform's id of the run, as the function knows it; empty: it does not.
    """

    id: str
    state: Literal["training", "trained", "done", "failed"]
    cold: bool = False
    reason: str = ""
    retryable: bool = True
    attempt: int = 0
    activation: str = ""
