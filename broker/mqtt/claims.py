"""A lock for writing one value: the first claim, in the broker's order, wins.

MQTT has no compare-and-set, but one broker shows all subscribers the messages of a topic in the same order. A writer
subscribes to a topic of claims, checks that the value is unchanged and unclaimed, and only then publishes its claim.
The first claim that it receives is the winner's, and all writers agree on it. This holds if the winner starts to write
within half of the lease. A slower winner gives up, and a claim that is unused for a whole lease is cleared.
"""

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from broker.errors import Disconnected
from broker.mqtt.client import Message
from broker.mqtt.link import Connection
from broker.mqtt.storage import CLAIMS


@dataclass(frozen=True, slots=True)
class Lease:
    """The time limits of a claim.

    Attributes:
        lasts_s: an unused claim is cleared after this time, in seconds.
        own_s: how long to respect a claim that we made on a lost connection, in seconds: another writer's claim may
            have come before it. 0: clear it at once.
    """

    lasts_s: float
    own_s: float


COMPARE_AND_SET_LEASE: Final = Lease(4.0, 2.0)
"""For a compare-and-set of a value, which is small."""

_SHORTEST_S: Final = 8.0
_LONGEST_S: Final = 60.0
_BYTES_PER_S: Final = 40_000


def write_once_lease(size: int) -> Lease:
    """Return the limits for a write-once payload of `size` bytes: up to a minute, which a slow line may take.

    A claim of a writer that has crashed, or that a crashed broker remembers, makes the next writer of the same payload
    wait for this time. After a lost connection, our own claim is cleared at once: two writers of one payload, of which
    one loses its connection meanwhile, are so rare that waiting each time is not worth it.
    """
    return Lease(min(_SHORTEST_S + size / _BYTES_PER_S, _LONGEST_S), 0.0)


class Status(enum.Enum):
    """The status of a claim while the lock is acquired."""

    IDLE = "no claim has come yet"
    WAITING = "another writer's claim came first"
    CLAIMED = "our claim came first"
    LOST = "another writer's claim came first, and it has finished"


class Event(enum.Enum):
    """A message on the topic of claims."""

    OURS = "our claim"
    OTHERS = "another writer's claim"
    CLEARED = "the claim was cleared"


TRANSITIONS: Final[dict[Status, dict[Event, Status]]] = {
    Status.IDLE: {Event.OURS: Status.CLAIMED, Event.OTHERS: Status.WAITING, Event.CLEARED: Status.IDLE},
    Status.WAITING: {Event.OURS: Status.WAITING, Event.OTHERS: Status.WAITING, Event.CLEARED: Status.LOST},
    Status.CLAIMED: {},
    Status.LOST: {},
}
"""The last two are final."""


class ClaimLock:
    """A lock on one value; `open_lock` makes it. Call `read`, `acquire`, `write` and `release`, in this order.

    Args:
        connection: the connection to the broker.
        claim: the topic of claims, below `CLAIMS`.
        subject: MQTT topic of the value.
        me: name of this writer; the same in every retry.
        lease: the time limits.
    """

    def __init__(self, connection: Connection, claim: str, subject: str, me: str, lease: Lease) -> None:
        self.topic = CLAIMS + claim
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self._connection = connection
        self._subject = subject
        self._me = me.encode()
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._holder = b""
        self._write_before_s: float | None = None

    async def read(self) -> bytes:
        """Return the message under the subject; empty: there is none."""
        payloads = await self._connection.fetch(self.topic, self._subject)
        self._holder = payloads.get(self.topic, b"")
        return payloads.get(self._subject, b"")

    async def acquire(self) -> bool:
        """Claim the lock. False: another writer had it, and has finished.

        Raises:
            Disconnected: another writer did not use its claim in time. The claim is cleared, so a retry may succeed.
        """
        if self._holder == self._me and not self._lease.own_s:
            await self.release()
            self._holder = b""
        status, patience_s = Status.IDLE, self._lease.lasts_s
        if not self._holder:
            await self._connection.publish(self.topic, self._me)
            self._write_before_s = self._loop.time() + self._lease.lasts_s / 2
        else:
            status = Status.WAITING
            if self._holder == self._me:
                patience_s = self._lease.own_s
        while TRANSITIONS[status]:
            status = TRANSITIONS[status][await self._next_event(patience_s)]
        if status is Status.LOST and self._write_before_s is not None:
            await self.release()  # our own claim came second, and would be retained
        return status is Status.CLAIMED

    async def write(self, topic: str, payload: bytes, *, expires_s: float = 0.0) -> None:
        """Publish a retained message while holding the lock.

        Args:
            topic: MQTT topic.
            payload: the message.
            expires_s: lifetime of the message in seconds (MQTT 5 only); 0: unlimited.

        Raises:
            Disconnected: half of the lease has passed, so another writer may have cleared our claim.
        """
        if self._write_before_s is None or self._loop.time() > self._write_before_s:
            raise Disconnected(f"{topic}: it took too long to write")
        await self._connection.publish(topic, payload, expires_s=expires_s)

    async def release(self) -> None:
        """Clear the claim."""
        await self._connection.publish(self.topic, b"")

    async def _next_event(self, patience_s: float) -> Event:
        try:
            async with asyncio.timeout(patience_s):
                payload = (await self.messages.get()).payload
        except TimeoutError as exc:
            await self.release()
            raise Disconnected(f"{self._subject}: its claim was not used; it is cleared") from exc
        if not payload:
            return Event.CLEARED
        return Event.OURS if payload == self._me else Event.OTHERS


@asynccontextmanager
async def open_lock(
    connection: Connection, claim: str, subject: str, me: str, lease: Lease
) -> AsyncIterator[ClaimLock]:
    """Make a lock that receives the claims of all writers during the block.

    Args:
        connection: the connection to the broker.
        claim: the topic of claims, below `CLAIMS`.
        subject: MQTT topic of the value.
        me: name of this writer; the same in every retry.
        lease: the time limits.

    Raises:
        Denied: this user may not read claims.
        Disconnected: the connection ended, or the broker did not reply in time.
    """
    lock = ClaimLock(connection, claim, subject, me, lease)
    async with connection.listen((lock.topic,), lock.messages.put_nowait):
        yield lock
