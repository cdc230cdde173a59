"""A Pub/Sub subscription in memory. It delivers every message again until the subscriber acknowledges it."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc


class Refused(Exception):
    """Raised when Pub/Sub refuses a call.

    Attributes:
        code: gRPC status code for the caller.
        reason: text for the caller.
    """

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """A published message.

    Attributes:
        id: id of the message.
        data: data of the message.
        attributes: attributes of the message.
        ordering_key: ordering key; empty for none.
        published: time of publication.
    """

    id: str
    data: bytes
    attributes: dict[str, str] = field(default_factory=dict)
    ordering_key: str = ""
    published: datetime = field(default_factory=lambda: datetime.now(UTC))


class Subscription:
    """Messages for one subscriber.

    Attributes:
        name: full name of the subscription.
        topic: full name of the topic.
        ack_deadline_s: duration of a lease, or time limit of the response to a push; seconds.
        endpoint: URL to push messages to; empty for a subscription that is pulled.
        is_eventarc: whether a push is Eventarc's: a CloudEvent in binary mode, of at most 512 KB.
        retries: whether a failed push is repeated.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        *,
        ack_deadline_s: float = 10.0,
        endpoint: str = "",
        is_eventarc: bool = False,
        retries: bool = True,
    ) -> None:
        self.name = name
        self.topic = topic
        self.ack_deadline_s = ack_deadline_s
        self.endpoint = endpoint
        self.is_eventarc = is_eventarc
        self.retries = retries
        self._waiting: deque[Message] = deque()
        self._leased: dict[str, tuple[Message, asyncio.TimerHandle]] = {}
        self._leases = 0
        self._changed = asyncio.Event()
        self._is_open = True

    def put(self, message: Message) -> None:
        """Add a new or returned message."""
        self._waiting.append(message)
        self._changed.set()

    async def next(self, max_messages: int, lease_s: float | None = None) -> list[tuple[str, Message]]:
        """Wait for a message; return all that are there, each with the id that acknowledges it.

        Args:
            max_messages: largest number of messages.
            lease_s: duration of the lease, in seconds; None for the subscription's own.

        Raises:
            Refused: the subscription was deleted.
        """
        while self._is_open and not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        if not self._is_open:
            raise Refused(grpc.StatusCode.NOT_FOUND, "Subscription does not exist")
        messages = []
        for _ in range(min(max_messages, len(self._waiting))):
            self._leases += 1
            ack_id, message = f"{self.name}:{self._leases}", self._waiting.popleft()
            self._lease(ack_id, message, lease_s or self.ack_deadline_s)
            messages.append((ack_id, message))
        return messages

    def acknowledge(self, ack_id: str) -> None:
        """Remove a message. If its lease has ended, the message still comes again.

        Raises:
            Refused: the id is not from this subscription.
        """
        self._check(ack_id)
        if ack_id in self._leased:
            self._leased.pop(ack_id)[1].cancel()

    def extend(self, ack_id: str, lease_s: float) -> None:
        """Change the lease of a message.

        Args:
            ack_id: id that acknowledges the message.
            lease_s: duration from now, in seconds; 0 returns the message at once.

        Raises:
            Refused: the id is not from this subscription.
        """
        self._check(ack_id)
        if ack_id in self._leased:
            message, timer = self._leased.pop(ack_id)
            timer.cancel()
            if lease_s:
                self._lease(ack_id, message, lease_s)
            else:
                self.put(message)

    def close(self) -> None:
        """End every wait for messages, and every lease."""
        self._is_open = False
        for _, timer in self._leased.values():
            timer.cancel()
        self._changed.set()

    def _lease(self, ack_id: str, message: Message, lease_s: float) -> None:
        timer = asyncio.get_running_loop().call_later(lease_s, lambda: self.put(self._leased.pop(ack_id)[0]))
        self._leased[ack_id] = message, timer

    def _check(self, ack_id: str) -> None:
        if not ack_id.startswith(f"{self.name}:"):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid ack id (ack_id={ack_id})")
