"""Maps the errors of nats-py and JetStream to ours."""

import contextlib
import re
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec
import nats.errors

from broker.errors import BrokerError, ConnectFailed, Disconnected, PayloadTooLarge, StorageFull, Unsupported

T = TypeVar("T")

_VIOLATION: Final = re.compile(r'permissions violation for (?:publish|subscription) to "([^" ]+)', re.IGNORECASE)

# Error codes from server/errors.json of nats-server 2.15. Its descriptions are not stable, except where noted.
_FULL: Final = {
    10002: "the account's limit is reached",
    10023: "the server's limit is reached",
    10028: "the account's memory limit is reached",
    10047: "the server's storage limit is reached",
    10122: "the stream's limit is reached",
}
_BUSY: Final = {
    10008: "JetStream is temporarily unavailable",
    10009: "the cluster has no leader",
    10167: "too much is waiting to be stored",
}
_TAKEN_OR_FULL: Final = 10077
_WRONG_REVISION: Final = (10071, 10164)
_TOO_LARGE: Final = 10054
_CONSUMER_EXISTS: Final = (10148, 10105, 10013)
_QUEUE_RULES: Final = (10084, 10098, 10099, 10100, 10101)
_NO_JETSTREAM: Final = (10039, 10076)
_NOT_FOUND: Final = (10014, 10059)
_SUBJECTS_TAKEN: Final = 10065


class ApiError(msgspec.Struct, frozen=True):
    """The error in a JetStream response.

    Attributes:
        code: HTTP-like status.
        err_code: JetStream's own error code.
        description: text for a person.
    """

    code: int = 0
    err_code: int = 0
    description: str = ""


class Taken(BrokerError):
    """Raised inside the NATS backend when a write-once topic already has a payload."""


class WrongRevision(BrokerError):
    """Raised inside the NATS backend when a value has another revision than expected."""


class ConsumerExists(BrokerError):
    """Raised inside the NATS backend when a durable already exists with other settings."""


class SubjectsTaken(BrokerError):
    """Raised inside the NATS backend when another stream already keeps a subject of a new one."""


class NotFound(BrokerError):
    """Raised inside the NATS backend when a stream or consumer does not exist."""


def api_error(topic: str, error: ApiError) -> BrokerError:
    """Return our error for an error of JetStream.

    Args:
        topic: the topic to name in the error.
        error: JetStream's error.
    """
    text = f"{error.description} ({error.code}/{error.err_code})"
    match error.err_code:
        # One code has two meanings; only the description distinguishes them.
        case code if code == _TAKEN_OR_FULL and "per subject" in error.description:
            return Taken(topic)
        case code if code == _TAKEN_OR_FULL or code in _FULL:
            return StorageFull(topic, text)
        case code if code in _BUSY:
            return Disconnected(f"{topic}: {text}")
        case code if code in _WRONG_REVISION:
            return WrongRevision(topic)
        case code if code in _CONSUMER_EXISTS:
            return ConsumerExists(topic)
        case code if code in _NOT_FOUND:
            return NotFound(f"{topic}: {text}")
        case code if code == _SUBJECTS_TAKEN:
            return SubjectsTaken(f"{topic}: {text}")
        case code if code == _TOO_LARGE:
            return PayloadTooLarge(topic)
        case code if code in _QUEUE_RULES or code in _NO_JETSTREAM:
            return Unsupported(f"{topic}: {text}")
    return BrokerError(f"{topic}: {text}")


def decode(topic: str, data: bytes, response: type[T]) -> T:
    """Decode an answer of JetStream.

    Args:
        topic: the topic to name in errors.
        data: the answer, in JSON.
        response: type of the answer.

    Raises:
        BrokerError: the error in the answer; Disconnected if the answer is not from JetStream.
    """
    try:
        error = msgspec.json.decode(data, type=_MaybeError).error
        if error is None:
            return msgspec.json.decode(data, type=response)
    except msgspec.DecodeError as exc:
        raise Disconnected(f"{topic}: an answer that is not JetStream's: {exc}") from exc
    raise api_error(topic, error)


class _MaybeError(msgspec.Struct):
    error: ApiError | None = None


def denied_subject(error: Exception) -> str | None:
    """Return the subject of a permission violation, in lower case; None for other errors."""
    match = _VIOLATION.search(str(error))
    return match.group(1).lower() if match else None


@contextlib.contextmanager
def map_errors(subject: str) -> Iterator[None]:
    """Map the errors that nats-py raises on an open connection to ours.

    Raises:
        Disconnected: the connection is lost, or a call timed out.
        PayloadTooLarge: the payload is larger than the server accepts.
        Unsupported: the subject or a header is not valid in NATS.
    """
    try:
        yield
    except nats.errors.MaxPayloadError as exc:
        raise PayloadTooLarge(subject) from exc
    except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as exc:
        raise Unsupported(f"{subject}: {exc}") from exc
    except (nats.errors.Error, OSError) as exc:
        raise Disconnected(f"{subject}: {exc or type(exc).__name__}") from exc


@contextlib.contextmanager
def map_connect_errors(address: str) -> Iterator[None]:
    """Map the errors that nats-py raises while connecting to ConnectFailed.

    Raises:
        ConnectFailed: with the reason, in words for a person.
    """
    try:
        yield
    except TimeoutError as exc:
        raise ConnectFailed(address, "no answer in time") from exc
    except (nats.errors.Error, OSError, UnicodeError) as exc:
        reason = str(exc).removeprefix("nats: ").strip("'")
        if "authorization violation" in reason.lower():
            reason = "wrong user or password"
        elif "maximum connections exceeded" in reason.lower():
            reason = "the server takes no more connections"
        raise ConnectFailed(address, reason) from exc
