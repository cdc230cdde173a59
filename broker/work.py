"""What a bridge and a function say to each other about one task.

A worker process on the bridge's machine gets an `Order` per line and answers with a `Report` per line. A function on a
FaaS platform finds the order in its trigger, retains its report at `fl.reports.<platform>.<client>`, and returns the
last one to the platform as well.
"""

from typing import Literal

import msgspec

from broker.errors import UNREADABLE, DecodeError
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
        attempt: the order's.
        activation: the platform's id of the run, as the function knows it; empty: it does not.
    """

    id: str
    state: Literal["training", "trained", "done", "failed"]
    cold: bool = False
    reason: str = ""
    retryable: bool = True
    attempt: int = 0
    activation: str = ""


def order(payload: bytes) -> Order:
    """Decode an order.

    Raises:
        DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(payload, type=Order)
    except UNREADABLE as exc:
        raise DecodeError(f"not an order: {exc}") from exc


def report(payload: bytes) -> Report:
    """Decode a report.

    Raises:
        DecodeError: it is none.
    """
    try:
        return msgspec.json.decode(payload, type=Report)
    except UNREADABLE as exc:
        raise DecodeError(f"not a report: {exc}") from exc
