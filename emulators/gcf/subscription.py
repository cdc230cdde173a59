"""A Pub/Sub subscription in memory: every message comes again until it is acknowledged."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc


class Refused(Exception):
    """Raised for a call that Pub/Sub refuses; `code` and `reason` are what the caller sees."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """What was published."""

    id: str
    data: bytes
    attributes: dict[str, str] = field(default_factory=dict)
    ordering_key: str = ""
    published: datetime = field(default_factory=lambda: datetime.now(UTC))


class Subscription:
    """Messages on their way to one subscriber.

    Attributes:
        name: full name.
        topic: full name of its topic.
        ack_deadline_s: how long a message is leased to who got it; for a push, how long the answer may take.
        endpoint: where messages are pushed to; empty: they are pulled.
        is_eventarc: pushed as Eventarc does, as CloudEvents in binary mode and 512 KB at the most.
        retries: whether a push that failed is repeated.
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
        """Add a message, new or given back."""
        self._waiting.append(message)
        self._changed.set()

    async def next(self, most: int, lease_s: float | None = None) -> list[tuple[str, Message]]:
        """Up to so many messages, each with the id to acknowledge it by; waits for the first.

        Raises:
            Refused: the subscription is deleted meanwhile.
        """
        while self._is_open and not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        if not self._is_open:
            raise Refused(grpc.StatusCode.NOT_FOUND, "Subscription does not exist")
        return [self._lease(lease_s or self.ack_deadline_s) for _ in range(min(most, len(self._waiting)))]

    def acknowledge(self, ack_id: str) -> None:
        """Forget a message; one whose lease has run out meanwhile comes again nevertheless."""
        self._known(ack_id)
        if ack_id in self._leased:
            self._leased.pop(ack_id)[1].cancel()

    def extend(self, ack_id: str, lease_s: float) -> None:
        """Lease a message for longer, or give it back at once (0)."""
        self._known(ack_id)
        if ack_id in self._leased:
            message, timer = self._leased.pop(ack_id)
            timer.cancel()
            if lease_s:
                self._hold(ack_id, message, lease_s)
            else:
                self.put(message)

    def close(self) -> None:
        """End every wait for messages."""
        self._is_open = False
        for _, timer in self._leased.values():
            timer.cancel()
        self._changed.set()

    def _lease(self, lease_s: float) -> tuple[str, Message]:
        self._leases += 1
        ack_id, message = f"{self.name}:{self._leases}", self._waiting.popleft()
        self._hold(ack_id, message, lease_s)
        return ack_id, message

    def _hold(self, ack_id: str, message: Message, lease_s: float) -> None:
        timer = asyncio.get_running_loop().call_later(lease_s, self._expire, ack_id)
        self._leased[ack_id] = message, timer

    def _expire(self, ack_id: str) -> None:
        self.put(self._leased.pop(ack_id)[0])

    def _known(self, ack_id: str) -> None:
        if not ack_id.startswith(f"{self.name}:"):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid ack id (ack_id={ack_id})")
