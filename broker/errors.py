"""The errors of brokers; `broker.messages.errors` has those of messages.

BrokerError
├── BadTopic            an id or topic breaks the naming rules
├── BadUrl              a broker URL is not valid
├── ConnectFailed       no connection could be opened (refused, unreachable, wrong credentials)
├── ServerFailed        the embedded server can't run: not installed, or it ended
│   └── StoreInUse      another server uses its folder
├── Disconnected        the connection is lost, or the broker did not answer in time
│   └── StoreChanged    after a reconnection, the broker's store is not the one that we knew
├── NoSystem            no FedKeeper system has used the broker yet
├── OldStore            the broker holds a store of FedKeeper 0.1
├── ForeignStream       a JetStream stream of another program conflicts with ours
├── Denied              the broker does not permit this user the operation
├── StorageFull         the broker has no room for the payload
├── PayloadTooLarge     a payload is larger than its topic or the broker accepts
├── Conflict            compare-and-set: the value has another revision
├── Unsupported         this broker can't provide the requested guarantee
└── CorruptPayload      chunks are missing, or the digest is wrong
"""

from typing import Literal


class BrokerError(Exception):
    """Base class of all errors of brokers."""


class BadTopic(BrokerError):
    """Raised for an id or topic that breaks the naming rules.

    Attributes:
        name: the id or topic.
        rule: the rule that it breaks.
    """

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name!r} is not a usable name: {rule}")
        self.name = name
        self.rule = rule


class BadUrl(BrokerError):
    """Raised for a broker URL that is not valid; the message never contains the password."""


class ConnectFailed(BrokerError):
    """Raised when no connection could be opened.

    Attributes:
        address: of the broker, without credentials.
        reason: why, for a person.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"can't connect to {address}: {reason}")
        self.address = address
        self.reason = reason


class ServerFailed(BrokerError):
    """Raised when the embedded server can't run; the message says how to fix it."""


class StoreInUse(ServerFailed):
    """Raised when another embedded server uses the folder."""


class Disconnected(BrokerError):
    """Raised when the connection is lost or the broker did not answer in time."""


class StoreChanged(Disconnected):
    """Raised when the broker's store is older than what we have seen, was emptied, or is another one.

    It ends the connection: whoever used it starts again from what is in the store, as after a crash.

    Attributes:
        address: of the broker, without credentials.
        reason: what has changed, for a person.
        kind: whether it is the same store in an earlier state, the same one without its content, or another one.
    """

    def __init__(self, address: str, reason: str, kind: Literal["older", "emptied", "another"] = "older") -> None:
        super().__init__(f"the store of {address} is not the one from before: {reason}")
        self.address = address
        self.reason = reason
        self.kind = kind


class NoSystem(BrokerError):
    """Raised when a read-only connection finds no FedKeeper system on the broker.

    Attributes:
        address: of the broker, without credentials.
    """

    def __init__(self, address: str, hint: str = "") -> None:
        super().__init__(
            f"no FedKeeper system has used {address} yet{hint}; `fedkeeper up`, `fedkeeper server` or a submitted job "
            "makes it ready"
        )
        self.address = address


class OldStore(BrokerError):
    """Raised when the broker holds a store of version 0.1; the store is unchanged.

    Attributes:
        address: of the broker, without credentials.
        remedy: what the operator can do.
    """

    def __init__(self, address: str, remedy: str) -> None:
        super().__init__(f"{address} holds a store of FedKeeper 0.1, which was left as it is: {remedy}")
        self.address = address
        self.remedy = remedy


class ForeignStream(BrokerError):
    """Raised when a JetStream stream of another program conflicts with ours; the stream is unchanged.

    Attributes:
        stream: name of the stream.
        subjects: the subjects that it keeps.
        remedy: what the operator can do.
    """

    def __init__(self, stream: str, subjects: tuple[str, ...], remedy: str) -> None:
        kept = ", ".join(subjects) or "no subjects"
        super().__init__(f"the stream {stream} ({kept}) is not ours to change and was left as it is: {remedy}")
        self.stream = stream
        self.subjects = subjects
        self.remedy = remedy


class Denied(BrokerError):
    """Raised when the broker does not permit this user the operation.

    Attributes:
        topic: the topic or subject of the operation.
        reason: the broker's own words.
    """

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"the broker denies {topic}: {reason}")
        self.topic = topic
        self.reason = reason


class StorageFull(BrokerError):
    """Raised when the broker has no room for the payload.

    Attributes:
        topic: the topic of the payload.
        reason: which limit is reached.
    """

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"the broker has no room for {topic}: {reason}")
        self.topic = topic
        self.reason = reason


class PayloadTooLarge(BrokerError):
    """Raised for a payload that is larger than its topic allows, or a message that is larger than the broker accepts.

    Attributes:
        topic: the topic of the payload.
        size: size of the payload or message in bytes; None if unknown.
        limit: largest size that is accepted, in bytes; None if unknown.
    """

    def __init__(self, topic: str, size: int | None = None, limit: int | None = None) -> None:
        what = "the message" if size is None else f"{size} bytes"
        allowed = "more than the broker accepts in one message" if limit is None else f"more than the {limit} allowed"
        super().__init__(f"{topic}: {what}: {allowed}")
        self.topic = topic
        self.size = size
        self.limit = limit


class Conflict(BrokerError):
    """Raised by compare-and-set when the value has another revision.

    Attributes:
        topic: the topic of the value.
        expected: the revision that the caller expected.
    """

    def __init__(self, topic: str, expected: int) -> None:
        super().__init__(f"{topic} is no longer at revision {expected}")
        self.topic = topic
        self.expected = expected


class Unsupported(BrokerError):
    """Raised when this broker can't provide the requested guarantee."""


class CorruptPayload(BrokerError):
    """Raised when chunks are missing or the digest is wrong.

    Attributes:
        topic: the topic of the payload.
        reason: what is wrong, for a person.
    """

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"{topic}: {reason}")
        self.topic = topic
        self.reason = reason
