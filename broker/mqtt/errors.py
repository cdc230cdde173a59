"""What MQTT brokers and paho complain about, in the package's own terms."""

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
    """Raised inside the MQTT backend by a broker that does not speak MQTT 5."""


class CutOff(Disconnected):
    """Raised inside the MQTT backend when the connection ended while a message of some size was under way."""

    def __init__(self, topic: str, size: int, reason: str) -> None:
        super().__init__(f"{topic}: the connection ended while {size} bytes were sent: {reason}")
        self.topic = topic
        self.size = size


def check(topic: str, reason: ReasonCode, size: int | None = None) -> None:
    """Raise what a broker's answer means.

    Args:
        topic: what was asked about.
        reason: the answer.
        size: bytes of what was published, if anything was.

    Raises:
        Denied: we may not do that.
        PayloadTooLarge: the broker takes no such message.
        StorageFull: a quota is exceeded.
        Disconnected: trying again may help.
    """
    if not reason.is_failure:
        return
    match reason.value:
        case code if code == _TOO_LARGE:
            raise PayloadTooLarge(topic) if size is None else PayloadTooLarge(topic, size, None)
        case code if code == _QUOTA:
            raise StorageFull(topic, str(reason))
        case code if code == _NOT_AUTHORIZED or (code == _FAILURE and size is None):
            # MQTT 3.1.1 has one code for every subscription that is refused.
            raise Denied(topic, str(reason))
    raise Disconnected(f"{topic}: {reason}")


def check_connected(address: str, reason: ReasonCode) -> None:
    """Raise what a broker's answer to a connection means.

    Raises:
        ConnectFailed: it refuses us.
        OldProtocol: it wants an older version of MQTT.
    """
    if not reason.is_failure:
        return
    if reason.value == _UNSUPPORTED_VERSION:
        raise OldProtocol(address)
    text = "wrong user or password" if reason.value in _BAD_LOGIN else str(reason)
    raise ConnectFailed(address, text)


@contextlib.contextmanager
def mapped_connect(address: str) -> Iterator[None]:
    """Turn whatever connecting raises into ConnectFailed."""
    try:
        yield
    except TimeoutError as exc:
        raise ConnectFailed(address, "no answer in time") from exc
    except ssl.SSLError as exc:
        raise ConnectFailed(address, f"TLS: {exc.reason or exc}") from exc
    except (OSError, UnicodeError, WebsocketConnectionError) as exc:
        raise ConnectFailed(address, str(exc) or type(exc).__name__) from exc


@contextlib.contextmanager
def mapped_files(address: str) -> Iterator[None]:
    """Turn whatever reading certificates raises into BadUrl."""
    try:
        yield
    except (OSError, ssl.SSLError) as exc:
        raise BadUrl(f"{address}: can't use its certificate files: {exc}") from exc
