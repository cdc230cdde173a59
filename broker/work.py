"""What a bridge and a worker process on the same machine say to each other, a JSON object per line."""

from typing import Literal

import msgspec

from broker.messages import RoundTask


class Order(msgspec.Struct, frozen=True):
    """What the bridge asks for."""

    task: RoundTask
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
    """

    id: str
    state: Literal["training", "trained", "done", "failed"]
    cold: bool = False
    reason: str = ""
    retryable: bool = True
