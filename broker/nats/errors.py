"""What nats-py and JetStream complain about, in the package's own terms."""

import contextlib
import re
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec
import nats.errors

from broker.errors import BrokerError, ConnectFailed, Disconnected, PayloadTooLarge, StorageFull, Unsupported

T = TypeVar("T")

_VIOLATION: Final = re.compile(r'permissions violation for (?:publish|subscription) to "([^" ]+)', re.IGNORECASE)

# Codes of server/errors.json in nats-server 2.15. Its own descriptions are not stable, except where noted.
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
    """The error in a JetStream response."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Busy(Disconnected):
    """Raised inside the NATS backend when trying again a little later helps."""


class Taken(BrokerError):
    """Raised inside the NATS backend when a write-once topic has a payload already."""


class WrongRevision(BrokerError):
    """Raised inside the NATS backend when compare-and-set found another revision."""


class ConsumerExists(BrokerError):
    """Raised inside the NATS backend when a durable exists with other settings."""


class SubjectsTaken(BrokerError):
    """Raised inside the NATS backend when another stream keeps a stream's subjects."""


class NotFound(BrokerError):
    """Raised inside the NATS backend when there is no such stream or consumer."""


def api_error(topic: str, error: ApiError) -> BrokerError:
    """What a JetStream error about a topic means."""
    text = f"{error.description} ({error.code}/{error.err_code})"
    match error.err_code:
        # One code for both, and only the description tells them apart.
        case code if code == _TAKEN_OR_FULL and "per subject" in error.description:
            return Taken(topic)
        case code if code == _TAKEN_OR_FULL or code in _FULL:
            return StorageFull(topic, text)
        case code if code in _BUSY:
            return Busy(f"{topic}: {text}")
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


def decoded(topic: str, data: bytes, response: type[T]) -> T:
    """A JetStream answer.

    Raises:
        BrokerError: it says that something is wrong, or is no answer of JetStream's.
    """
    try:
        error = msgspec.json.decode(data, type=_MaybeError).error
        if error is None:
            return msgspec.json.decode(data, type=response)
    except msgspec.DecodeError as exc:
        raise Busy(f"{topic}: an answer that is not JetStream's: {exc}") from exc
    raise api_error(topic, error)


class _MaybeError(msgspec.Struct):
    error: ApiError | None = None


def denied_subject(error: Exception) -> str | None:
    """The subject, in lower case, that a permission violation is about; None if it is no such thing."""
    found = _VIOLATION.search(str(error))
    return found.group(1).lower() if found else None


@contextlib.contextmanager
def mapped(what: str) -> Iterator[None]:
    """Turn whatever nats-py raises while the connection is in use into our errors."""
    try:
        yield
    except nats.errors.MaxPayloadError as exc:
        raise PayloadTooLarge(what) from exc
    except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as exc:
        raise Unsupported(f"{what}: {exc}") from exc
    except (nats.errors.Error, OSError) as exc:
        raise Disconnected(f"{what}: {exc or type(exc).__name__}") from exc


@contextlib.contextmanager
def mapped_connect(address: str, complaints: list[str]) -> Iterator[None]:
    """Turn whatever nats-py raises while connecting into ConnectFailed, with the reason that it keeps to itself."""
    try:
        yield
    except TimeoutError as exc:
        raise ConnectFailed(address, "no answer in time") from exc
    except (nats.errors.Error, OSError, UnicodeError) as exc:
        raise ConnectFailed(address, _reason(complaints[-1] if complaints else str(exc))) from exc


def _reason(complaint: str) -> str:
    """What to tell a person."""
    text = complaint.removeprefix("nats: ").strip("'")
    if "authorization violation" in text.lower():
        return "wrong user or password"
    if "maximum connections exceeded" in text.lower():
        return "the server takes no more connections"
    return text
