"""Translates the errors of MQTT brokers and of paho into the package's errors."""

import contextlib
import ssl
from collections.abc import Iterator
from typing import Final

from paho.mqtt.client import WebsocketConnectionError
from paho.mqtt.reasoncodes import ReasonCode

from broker.errors import BadUrl, BrokerError, ConnectFailed, Denied, Disconnected, PayloadTooLarge, StorageFull

# Reason codes of MQTT 5, section 2.4; paho gives those of 3.1.1 the same numbers.
_FAILURE: Final = 0x80
_NOT_AUTHORIZED: Final = 0x87
_TOO_LARGE: Final = 0x95
_QUOTA: Final = 0x97
_UNSUPPORTED_VERSION: Final = 0x84
_BAD_LOGIN: Final = (0x86, _NOT_AUTHORIZED, 0x8A)


class OldProtocol(BrokerError):
    """Raised inside the MQTT backend if the broker does not support this version of MQTT."""


class CutOff(Disconnected):
    """Raised inside the MQTT backend if the connection ended while a large message was sent.

    Attributes:
        topic: MQTT topic of the message.
        size: size of the message's payload, in bytes.
    """

    def __init__(self, topic: str, size: int, reason: str) -> None:
        super().__init__(f"{topic}: the connection ended while {size} bytes were sent: {reason}")
        self.topic = topic
        self.size = size


def check(topic: str, reason: ReasonCode, size: int | None = None) -> None:
    """Raise the error that a broker's reply to a request stands for, if it is a failure.

    Args:
        topic: MQTT topic or filter of the request.
        reason: the reply.
        size: size of the published payload in bytes; None: nothing was published.

    Raises:
        Denied: this user may not do that.
        PayloadTooLarge: the broker does not accept a message of this size.
        StorageFull: a quota is exceeded.
        Disconnected: another failure; a retry may succeed.
    """
    if not reason.is_failure:
        return
    match reason.value:
        case code if code == _TOO_LARGE:
            raise PayloadTooLarge(topic) if size is None else PayloadTooLarge(topic, size, None)
        case code if code == _QUOTA:
            raise StorageFull(topic, str(reason))
        case code if code == _NOT_AUTHORIZED or (code == _FAILURE and size is None):
            # MQTT 3.1.1 has only one code for a refused subscription.
            raise Denied(topic, str(reason))
    raise Disconnected(f"{topic}: {reason}")


def check_connected(address: str, reason: ReasonCode) -> None:
    """Raise the error that a broker's reply to a connection request stands for, if it is a failure.

    Args:
        address: the broker's address, for the message.
        reason: the reply.

    Raises:
        ConnectFailed: the broker refuses the connection.
        OldProtocol: the broker does not support this version of MQTT.
    """
    if not reason.is_failure:
        return
    if reason.value == _UNSUPPORTED_VERSION:
        raise OldProtocol(address)
    text = "wrong user or password" if reason.value in _BAD_LOGIN else str(reason)
    raise ConnectFailed(address, text)


@contextlib.contextmanager
def map_connect_errors(address: str) -> Iterator[None]:
    """Translate the errors of connecting.

    Raises:
        ConnectFailed: the block raised an error of the network or of TLS.
    """
    try:
        yield
    except TimeoutError as exc:
        raise ConnectFailed(address, "no answer in time") from exc
    except ssl.SSLError as exc:
        raise ConnectFailed(address, f"TLS: {exc.reason or exc}") from exc
    except (OSError, UnicodeError, WebsocketConnectionError) as exc:
        raise ConnectFailed(address, str(exc) or type(exc).__name__) from exc


@contextlib.contextmanager
def map_file_errors(address: str) -> Iterator[None]:
    """Translate the errors of reading certificate files.

    Raises:
        BadUrl: the block could not read or use a file.
    """
    try:
        yield
    except (OSError, ssl.SSLError) as exc:
        raise BadUrl(f"{address}: can't use its certificate files: {exc}") from exc
