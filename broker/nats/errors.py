"""Maps the errors of nats-py and JetStream to ours."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec
import nats.errors

from broker import connect_errors
from broker.errors import BrokerError, ConnectFailed, Disconnected, PayloadTooLarge, StorageFull, Unsupported
from broker.url import BrokerUrl, Host

T = TypeVar("T")

_VIOLATION: Final = re.compile(r'permissions violation for (?:publish|subscription) to "([^" ]+)', re.IGNORECASE)


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


class StoreFull(StorageFull):
    """Raised inside the NATS backend when the server or account has no room, not only one stream."""


class WrongRevision(BrokerError):
    """Raised inside the NATS backend when a value has another revision than expected."""


class ConsumerExists(BrokerError):
    """Raised inside the NATS backend when a durable already exists with other settings."""


class SubjectsTaken(BrokerError):
    """Raised inside the NATS backend when another stream already keeps a subject of a new one."""


class NoReplicas(BrokerError):
    """Raised inside the NATS backend when the server has no nodes for the replicas of a stream."""


class NotFound(BrokerError):
    """Raised inside the NATS backend when a stream or consumer does not exist."""


class NoMessage(BrokerError):
    """Raised inside the NATS backend when a stream has no message of a topic."""


class StreamMissing(NotFound):
    """Raised inside the NATS backend when a stream does not exist."""


class NoBatches(BrokerError):
    """Raised inside the NATS backend when a stream, or its server, takes no batches of messages."""


class NobodyAnswers(Disconnected):
    """Raised inside the NATS backend when nobody serves a subject: no stream keeps it, or there is no JetStream."""


class NoAnswer(Disconnected):
    """Raised inside the NATS backend when an answer does not come in time, although the connection is open."""


class NoJetStream(BrokerError):
    """Raised inside the NATS backend when the server, or this account, has no JetStream."""


_NO_NATS: Final = "what answers there is no NATS server: check the port (an MQTT broker's address starts with mqtt://)"
_SILENT: Final = (
    "it accepts connections, but sends no greeting of NATS: it hangs, or is no NATS server (an MQTT broker's address "
    "starts with mqtt://)"
)
CANT_STORE: Final = "look at the broker's disk and its log, then restart it"
"""After an error of the file system, a stream stores nothing until the server is restarted, even if there is room."""

_TAKEN_OR_FULL: Final = 10077
_STORE_FAILED: Final = (10051, 10110)
_NO_JETSTREAM_HERE: Final = 10039

# Error codes from server/errors.json of nats-server 2.15. Its descriptions are not stable, except where noted.
_ERRORS: Final[dict[int, type[BrokerError]]] = {
    10002: StoreFull,  # the account's limit is reached
    10005: NoReplicas,  # too few nodes of the cluster can take the stream
    10008: Disconnected,  # JetStream is temporarily unavailable
    10009: Disconnected,  # the cluster has no leader
    10013: ConsumerExists,
    10014: NotFound,  # the consumer
    10023: StoreFull,  # the server's limit is reached
    10028: StorageFull,  # the account's memory limit is reached
    10037: NoMessage,
    10047: StoreFull,  # the server's storage limit is reached
    10054: PayloadTooLarge,
    10051: StorageFull,  # an error of the file system: the disk is full, or files of the store are gone
    10059: StreamMissing,
    10065: SubjectsTaken,
    10071: WrongRevision,
    10074: NoReplicas,  # the server belongs to no cluster
    10076: NoJetStream,
    _TAKEN_OR_FULL: StorageFull,
    10084: Unsupported,  # a rule of queues, like 10098 to 10101
    10098: Unsupported,
    10099: Unsupported,
    10100: Unsupported,
    10101: Unsupported,
    10105: ConsumerExists,
    10110: StorageFull,  # an error of the file system, while messages were deleted
    10122: StorageFull,  # the stream's limit is reached
    10148: ConsumerExists,
    10158: Disconnected,  # a message with this id is on its way to the replicas
    10164: WrongRevision,
    10167: Disconnected,  # too much is waiting to be stored
    10174: NoBatches,
}


def api_error(topic: str, error: ApiError) -> BrokerError:
    """Return our error for an error of JetStream.

    Args:
        topic: the topic to name in the error.
        error: JetStream's error.
    """
    text = f"{error.description} ({error.code}/{error.err_code})"
    if error.err_code == _NO_JETSTREAM_HERE:
        return NoJetStream("this account has no JetStream: enable it in the server's configuration, see docs/nats.md")
    kind = _ERRORS.get(error.err_code, BrokerError)
    if issubclass(kind, StorageFull):
        # One code has two meanings; only the description distinguishes them.
        is_taken = error.err_code == _TAKEN_OR_FULL and "per subject" in error.description
        text += f"; {CANT_STORE}" if error.err_code in _STORE_FAILED else ""
        return Taken(topic) if is_taken else kind(topic, text)
    return PayloadTooLarge(topic) if kind is PayloadTooLarge else kind(f"{topic}: {text}")


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
def map_connect_errors(
    address: BrokerUrl, host: Host, *, within_s: float, last_error: Callable[[], Exception | None] = lambda: None
) -> Iterator[None]:
    """Map the errors that nats-py raises while connecting to ConnectFailed.

    Args:
        address: the server's address.
        host: the host that is tried.
        within_s: how long an answer may take, in seconds.
        last_error: returns the error that nats-py has passed to its callback; None: there was none.

    Raises:
        ConnectFailed: with the reason, in words for a person.
    """
    try:
        yield
    except nats.errors.NoServersError as exc:
        # Its text names no cause. The connection itself has failed.
        cause = last_error() or exc
        raise ConnectFailed(address.address, connect_errors.explain(cause, address, host, within_s=within_s)) from exc
    except TimeoutError as exc:
        raise ConnectFailed(address.address, _SILENT) from exc
    except (OSError, UnicodeError) as exc:
        raise ConnectFailed(address.address, connect_errors.explain(exc, address, host, within_s=within_s)) from exc
    except nats.errors.Error as exc:
        raise ConnectFailed(address.address, _refusal(str(exc).removeprefix("nats: ").strip("'"), address)) from exc


def _refusal(text: str, address: BrokerUrl) -> str:
    """Return in words for a person what nats-py says of a server that was reached."""
    lowered = text.lower()
    if "authorization violation" in lowered:
        return connect_errors.login(address)
    if "maximum connections exceeded" in lowered:
        return "the server takes no more connections"
    if "secure connection" in lowered or "tls required" in lowered:
        return connect_errors.wants_tls(address)
    return _NO_NATS if "info message" in lowered else text
