"""Translates the errors of MQTT brokers and of paho into the package's errors."""

import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import Final

from paho.mqtt.client import WebsocketConnectionError
from paho.mqtt.reasoncodes import ReasonCode

from broker import connect_errors
from broker.errors import BadUrl, BrokerError, ConnectFailed, Denied, Disconnected, PayloadTooLarge, StorageFull
from broker.url import BrokerUrl, Host

# Reason codes of MQTT 5, section 2.4; paho gives those of 3.1.1 the same numbers.
_FAILURE: Final = 0x80
_NOT_AUTHORIZED: Final = 0x87
_TOO_LARGE: Final = 0x95
_QUOTA: Final = 0x97
_UNSUPPORTED_VERSION: Final = 0x84
_BAD_LOGIN: Final = (0x86, _NOT_AUTHORIZED, 0x8A)

KEEPS_NOTHING: Final = "this broker can't serve FedKeeper: it keeps no retained messages. Use Mosquitto (docs/mqtt.md)"


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


def check_connected(address: BrokerUrl, reason: ReasonCode) -> None:
    """Raise the error that a broker's reply to a connection request stands for, if it is a failure.

    Args:
        address: the broker's address.
        reason: the reply.

    Raises:
        ConnectFailed: the broker refuses the connection.
        OldProtocol: the broker does not support this version of MQTT.
    """
    if not reason.is_failure:
        return
    if reason.value == _UNSUPPORTED_VERSION:
        raise OldProtocol(str(reason))
    text = connect_errors.login(address) if reason.value in _BAD_LOGIN else f"it refuses the connection: {reason}"
    raise ConnectFailed(address.address, text)


@contextlib.contextmanager
def map_connect_errors(address: BrokerUrl, *, within_s: float, is_open: Callable[[], bool]) -> Iterator[None]:
    """Translate the errors of connecting.

    Args:
        address: the broker's address.
        within_s: how long an answer may take, in seconds.
        is_open: returns whether the broker's host has accepted the connection.

    Raises:
        ConnectFailed: the block raised an error of the network or of TLS, or nothing answered in time.
    """
    try:
        yield
    except TimeoutError as exc:
        text = silence(address, within_s) if is_open() else _explain(exc, address, within_s)
        raise ConnectFailed(address.address, text) from exc
    except (OSError, UnicodeError, WebsocketConnectionError) as exc:
        raise ConnectFailed(address.address, _explain(exc, address, within_s)) from exc


def no_mqtt(address: BrokerUrl) -> str:
    """Return what is said if a host ends the connection, or answers something else, before any answer of MQTT."""
    other = "expects TLS (mqtts://)"
    if address.scheme == "mqtts":
        other = "refuses this client certificate" if address.cert_file else "wants a client certificate (&cert_file=)"
    return (
        f"no MQTT answer from there: it is no MQTT broker (a NATS server's address starts with nats://), or it {other}"
    )


def silence(address: BrokerUrl, within_s: float) -> str:
    """Return what is said if a host accepts a connection, and then says nothing.

    Args:
        address: the broker's address.
        within_s: how long it was waited for, in seconds.
    """
    older = "" if address.version == "3.1.1" else ", knows only MQTT 3.1.1 (add ?version=3.1.1)"
    return (
        f"it accepts connections, but gives no MQTT answer within {within_s:g} s: it hangs{older}, or is no MQTT broker"
    )


def _explain(error: Exception, address: BrokerUrl, within_s: float) -> str:
    return connect_errors.explain(error, address, Host(address.host, address.port), within_s=within_s)


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
