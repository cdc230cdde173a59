"""One of many who want to write where only one may: who claims it first, in the broker's order, does.

MQTT has no compare-and-set, but one broker shows all subscribers what is published to a topic in the same order. So
whoever wants to move a value subscribes to a topic of claims, looks whether the value is still where it was and
whether anybody has claimed it, and only then claims it; the first claim that it sees is the winner's, for everyone.
It holds as long as the winner begins to write within half a lease; who is slower gives up, and a claim that was not
used for a whole one is cleared.
"""

import asyncio
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
    """How much time there is.

    Attributes:
        lasts_s: after that, a claim that was not used is cleared.
        own_s: how long a claim of our own is respected that we made on a connection that is lost: somebody else may
            have claimed it before us.
    """

    lasts_s: float
    own_s: float


MOVE: Final = Lease(4.0, 2.0)
"""Values are small."""

STORE: Final = Lease(60.0, 0.0)
"""An update may have to go through a slow line. That two write the same one at the same time, and one of them loses
its connection then, is not worth a wait after every lost connection."""


class ClaimLock:
    """A contest that we hear; see `heard`."""

    def __init__(self, connection: Connection, claim: str, subject: str, me: str, lease: Lease) -> None:
        self._connection = connection
        self._claim = CLAIMS + claim
        self._subject = subject
        self._me = me.encode()
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._until_s = 0.0
        self._held_by = b""

    async def state(self) -> bytes:
        """What lies at the subject now; empty if nothing does."""
        found = await self._connection.fetch(self._claim, self._subject)
        self._held_by = found[self._claim].payload if self._claim in found else b""
        return found[self._subject].payload if self._subject in found else b""

    async def won(self) -> bool:
        """Claim it, after a look at the state: True if we are the one; else somebody else was, and is done.

        Raises:
            Disconnected: the winner did not move it in time; the claim is cleared, so try again.
        """
        if self._held_by == self._me and not self._lease.own_s:
            await self.over()
            self._held_by = b""
        if not self._held_by:
            await self._connection.publish(self._claim, self._me)
            self._until_s = self._loop.time() + self._lease.lasts_s / 2
        while True:
            payload = await self._next()
            if payload == self._me and not self._held_by:
                return True
            if not payload and self._held_by:
                if self._until_s:
                    await self.over()  # ours would lie there for good
                return False
            self._held_by = self._held_by or payload

    async def write(self, topic: str, payload: bytes, *, expires_s: float = 0.0) -> None:
        """As the winner, write.

        Raises:
            Disconnected: somebody else may have taken over by now.
        """
        if self._loop.time() > self._until_s:
            raise Disconnected(f"{topic}: it took too long to write")
        await self._connection.publish(topic, payload, expires_s=expires_s)

    async def over(self) -> None:
        """As the winner, clear the claim."""
        await self._connection.publish(self._claim, b"")

    async def _next(self) -> bytes:
        patience_s = self._lease.own_s if self._held_by == self._me else self._lease.lasts_s
        try:
            async with asyncio.timeout(patience_s):
                return (await self._queue.get()).payload
        except TimeoutError as exc:
            await self.over()
            raise Disconnected(f"{self._subject}: its claim was not used; it is cleared") from exc

    def _heard(self, message: Message) -> None:
        self._queue.put_nowait(message)


@asynccontextmanager
async def heard(connection: Connection, claim: str, subject: str, me: str, lease: Lease) -> AsyncIterator[ClaimLock]:
    """Take part in a contest.

    Args:
        connection: to the broker.
        claim: what to claim, as an MQTT topic.
        subject: MQTT topic of what the winner will write.
        me: tells us from the others; the same when we try again.
        lease: how much time there is.
    """
    contest = ClaimLock(connection, claim, subject, me, lease)
    async with connection.hearing((contest._claim,), contest._heard):
        yield contest
