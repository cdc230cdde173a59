"""What is reported of a request that failed."""

from typing import Final

from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from client_fn.errors import ClientError

REASON_CHARACTERS: Final = 1000
"""What a user's model raises may be of any length; platforms take answers of 1 MB, and people read a line."""


def failed(request: InvocationRequest, exc: BaseException, activation: str = "") -> Report:
    """The report of a request that an error ended; only our own errors know that another attempt is of no use."""
    return Report(
        request.task.id,
        "failed",
        reason=_shown(exc),
        retryable=exc.retryable if isinstance(exc, ClientError) else True,
        attempt=request.attempt,
        activation=activation,
    )


def unreadable(request: RequestName, exc: DecodeError, activation: str = "") -> Report:
    """The report of an order of which little more than its task's name can be read; no attempt would read more."""
    return Report(
        request.task.id, "failed", reason=_shown(exc), retryable=False, attempt=request.attempt, activation=activation
    )


def _shown(exc: BaseException) -> str:
    # Not every text of Python's can be sent: half a surrogate pair can't.
    text = f"{type(exc).__name__}: {exc}".encode(errors="replace").decode()
    return text if len(text) <= REASON_CHARACTERS else f"{text[:REASON_CHARACTERS]}..."
