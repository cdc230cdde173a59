"""Builds the report of a request that failed."""

from typing import Final

from broker.errors import BadTopic, BadUrl, BrokerError, Denied, PayloadTooLarge, Unsupported
from broker.messages.errors import DecodeError, MessageError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from client_fn.errors import ClientError

REASON_CHARACTERS: Final = 1000
"""User code may raise errors of any length, platforms take responses of 1 MB, and people read one line."""

RETRYABLE: Final[dict[type[Exception], bool]] = {
    BrokerError: True,  # it is away, has no room now, or has lost what a later attempt may find
    BadTopic: False,
    BadUrl: False,
    Denied: False,
    PayloadTooLarge: False,
    Unsupported: False,
    MessageError: False,  # the same bytes decode no better the next time
}
"""Whether another attempt may succeed after an error of the broker or of a message; the nearest class counts. A
`ClientError` says it itself. Any other error is one of ours, and might have to do with the moment."""


def failure_report(request: InvocationRequest, exc: Exception, activation: str = "", *, reveal: bool) -> Report:
    """Return the report of a request that an error ended.

    Args:
        request: the request that failed.
        exc: the error.
        activation: the platform's id of the run.
        reveal: include texts of the user's code, which may hold data.
    """
    return Report(
        request.task.id,
        "failed",
        reason=_reason(exc, exc.message(reveal=reveal) if isinstance(exc, ClientError) else str(exc)),
        retryable=is_retryable(exc),
        attempt=request.attempt,
        activation=activation,
        nothing_ran=isinstance(exc, ClientError) and exc.is_of_site,
    )


def is_retryable(exc: Exception) -> bool:
    """Return whether another attempt at the same task may succeed after an error."""
    if isinstance(exc, ClientError):
        return exc.retryable
    return next((RETRYABLE[kind] for kind in type(exc).__mro__ if kind in RETRYABLE), True)


def unreadable_report(request: RequestName, exc: DecodeError, activation: str = "") -> Report:
    """Return the report of a request that can't be decoded. It is final: a retry would not decode either.

    Args:
        request: the task's name and the attempt, the only readable part.
        exc: why decoding failed.
        activation: the platform's id of the run.
    """
    return Report(
        request.task.id,
        "failed",
        reason=_reason(exc, str(exc)),
        retryable=False,
        attempt=request.attempt,
        activation=activation,
    )


def _reason(exc: Exception, message: str) -> str:
    # A Python string may hold a lone surrogate, which UTF-8 can't encode.
    text = f"{type(exc).__name__}: {message}".encode(errors="replace").decode()
    return text if len(text) <= REASON_CHARACTERS else f"{text[:REASON_CHARACTERS]}..."
