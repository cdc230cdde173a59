"""What a broker hands out: deliveries, values, receipts, and readers of a log."""

import abc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

Load = Callable[[str, bytes, int | None], Awaitable[bytes]]
"""Takes a topic, a message and the largest payload to accept (bytes, or None); returns the payload of the message."""


@dataclass(frozen=True, slots=True)
class Will:
    """A value that the broker publishes and retains when our connection ends unexpectedly (MQTT only).

    Attributes:
        topic: a topic kept as LAST.
        payload: the value.
    """

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker's confirmation that it has stored a payload durably.

    Attributes:
        sequence: position in the log; 0 if the broker does not number its messages.
        stored: False if the broker dropped this copy, because a write-once topic already has a payload or because
            it has already seen the same `dedupe` id.
    """

    sequence: int
    stored: bool = True


@dataclass(frozen=True, slots=True)
class Value:
    """A retained value.

    Attributes:
        topic: the topic that holds the value.
        payload: the complete payload; never empty.
        revision: number of the last write, for compare-and-set.
        time_s: when the broker stored it, in seconds since the epoch on the broker's clock; None: it does not say.
    """

    topic: str
    payload: bytes
    revision: int
    time_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Deleted:
    """The deletion of a retained value, as `watch` yields it.

    Attributes:
        topic: the topic that held the value.
        revision: number of the deletion.
    """

    topic: str
    revision: int


class Delivery:
    """One event, delivered to one subscriber.

    `ack`, `nak` and `working` do nothing for a subscriber without a durable name.

    Attributes:
        topic: the topic of the event.
        sequence: position in the log, increasing; 0 if the broker does not number its messages.
        attempt: 1 for the first delivery, higher for each redelivery.
        time_s: when the broker stored the event. Seconds since the epoch.
        age_s: for how long the broker had held the event when it delivered it, if the broker itself says so (MQTT 5);
            None: it does not. Seconds.
    """

    age_s: float | None = None

    def __init__(self, topic: str, message: bytes, load: Load, *, sequence: int, attempt: int, time_s: float) -> None:
        self.topic = topic
        self.sequence = sequence
        self.attempt = attempt
        self.time_s = time_s
        self._message = message
        self._load = load

    async def read(self, *, at_most: int | None = None) -> bytes:
        """Return the payload; fetch and check its chunks if it has any.

        Args:
            at_most: largest payload to accept, in bytes. A larger one is refused before any chunk is fetched.

        Raises:
            CorruptPayload: the payload is larger than `at_most` or than its family's payloads may be, a chunk is
                missing, or the digest is wrong.
        """
        return await self._load(self.topic, self._message, at_most)

    async def ack(self) -> None:
        """Acknowledge the event, so that it is not delivered again.

        An acknowledgement can get lost, so consumers must be idempotent.
        """

    async def nak(self, delay_s: float = 0.0) -> None:
        """Give the event back, for redelivery to any consumer of the group after `delay_s` seconds."""

    async def working(self) -> None:
        """Restart the acknowledgement timeout, because the work on the event continues."""

    async def answer(self, payload: bytes) -> None:
        """Send a reply to the publisher of the event, if it waits for one (topics kept as INBOX only)."""


class Reader(AsyncIterator[T], abc.ABC, Generic[T]):
    """Reads a log in order, without end: what `watch` and `subscribe` without a durable return."""

    @abc.abstractmethod
    async def catch_up(self) -> None:
        """Return when everything that the broker held at the time of the call has been read.

        "Read" means that the reader was asked for the next item afterwards. So somebody must iterate meanwhile.
        The wait lasts as long as that, and while the broker is out of reach.
        """
