"""What brokers raise; what is wrong with a message is in `broker.messages.errors`.

BrokerError
├── BadTopic            a name that no topic may have
├── BadUrl              a broker address that can't be used
├── ConnectFailed       no connection could be opened (refused, unreachable, wrong credentials)
├── ServerFailed        the embedded server can't run: not installed, its folder is in use, it died
├── Disconnected        the connection is gone, or the broker did not answer in time
├── NoSystem            no FedKeeper system has used the broker yet
├── OldStore            the broker holds what version 0.1 of FedKeeper stored
├── ForeignStream       a JetStream stream is in our way and belongs to someone else
├── Denied              the broker forbids this user the operation
├── StorageFull         the broker has no room for the payload
├── PayloadTooLarge     one message is larger than the broker takes
├── Conflict            compare-and-set: someone else moved the value first
├── Unsupported         this broker can't promise what was asked of it
└── CorruptPayload      chunks are missing, or bytes do not have the digest that was announced
"""

from typing import Final

UNREADABLE: Final = (ValueError, RecursionError)
"""What decoders raise for bytes from others: msgspec's and Unicode's errors are ValueErrors, the rest is nesting."""


class BrokerError(Exception):
    """Root of the transport's errors."""


class BadTopic(BrokerError):
    """Raised for an id or topic outside the naming rules."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name!r} is not a usable name: {rule}")
        self.name = name
        self.rule = rule


class BadUrl(BrokerError):
    """Raised for a broker address that can't be used; never shows a password."""


class ConnectFailed(BrokerError):
    """Raised when no connection could be opened."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"can't connect to {address}: {reason}")
        self.address = address
        self.reason = reason


class ServerFailed(BrokerError):
    """Raised when the embedded server can't run; says what to do about it."""


class Disconnected(BrokerError):
    """Raised when the connection is gone or the broker did not answer in time."""


class NoSystem(BrokerError):
    """Raised when a broker that is only to be read has nothing of ours."""

    def __init__(self, address: str, hint: str = "") -> None:
        super().__init__(
            f"no FedKeeper system has used {address} yet{hint}; `fedkeeper up`, `fedkeeper server` or a submitted job "
            "makes it ready"
        )
        self.address = address


class OldStore(BrokerError):
    """Raised for a broker that holds what version 0.1 stored; nothing of it was changed."""

    def __init__(self, address: str, remedy: str) -> None:
        super().__init__(f"{address} holds a store of FedKeeper 0.1, which was left as it is: {remedy}")
        self.address = address
        self.remedy = remedy


class ForeignStream(BrokerError):
    """Raised for a JetStream stream that is in our way and belongs to someone else; it was not changed."""

    def __init__(self, stream: str, subjects: tuple[str, ...], remedy: str) -> None:
        kept = ", ".join(subjects) or "no subjects"
        super().__init__(f"the stream {stream} ({kept}) is not ours to change and was left as it is: {remedy}")
        self.stream = stream
        self.subjects = subjects
        self.remedy = remedy


class Denied(BrokerError):
    """Raised when the broker forbids this user the operation."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"the broker denies {topic}: {reason}")
        self.topic = topic
        self.reason = reason


class StorageFull(BrokerError):
    """Raised when the broker has no room for the payload."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"the broker has no room for {topic}: {reason}")
        self.topic = topic
        self.reason = reason


class PayloadTooLarge(BrokerError):
    """Raised for a message that the broker does not take; `size` and `limit` are None if it did not tell them."""

    def __init__(self, topic: str, size: int | None = None, limit: int | None = None) -> None:
        known = f"{size} bytes in one message, the broker takes {limit}"
        super().__init__(f"{topic}: {'more in one message than the broker takes' if size is None else known}")
        self.topic = topic
        self.size = size
        self.limit = limit


class Conflict(BrokerError):
    """Raised by compare-and-set when someone else moved the value first."""

    def __init__(self, topic: str, expected: int) -> None:
        super().__init__(f"{topic} is no longer at revision {expected}")
        self.topic = topic
        self.expected = expected


class Unsupported(BrokerError):
    """Raised when this broker can't promise what was asked of it."""


class CorruptPayload(BrokerError):
    """Raised when chunks are missing or their bytes do not have the announced digest."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"{topic}: {reason}")
        self.topic = topic
        self.reason = reason
