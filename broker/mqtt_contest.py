"""One of many who want to write where only one may: who claims it first, in the broker's order, does.

MQTT has no compare-and-set, but one broker shows all subscribers what is published to a topic in the same order. So
whoever wants to move a value subscribes to a topic of claims, looks whether the value is still where it was and
whether anybody has claimed it, and only then claims it; the first claim that it sees is the winner's, for everyone.
It holds as long as the winner writes within LEASE_S; who is slower gives up, and a claim older than that is cleared.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from broker.errors import Disconnected
from broker.mqtt_client import Message
from broker.mqtt_link import Connection
from broker.mqtt_topics import CLAIMS

LEASE_S: Final = 10.0
"""How long a winner's move is waited for."""


class Contest:
    """A contest that we hear; see `heard`."""

    def __init__(self, connection: Connection, claim: str, subject: str) -> None:
        self._connection = connection
        self._claim = CLAIMS + claim
        self._subject = subject
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._until_s = 0.0
        self._claimed = False

    async def state(self) -> bytes:
        """What lies at the subject now; empty if nothing does."""
        found = await self._connection.fetch(self._claim, self._subject)
        self._claimed = self._claim in found
        return found[self._subject].payload if self._subject in found else b""

    async def won(self, me: str) -> bool:
        """Claim it, after a look at the state: True if we are the one; else somebody else was, and is done.

        Raises:
            Disconnected: the winner did not move it in time; the claim is cleared, so try again.
        """
        if not self._claimed:
            await self._connection.publish(self._claim, me.encode())
            self._until_s = self._loop.time() + LEASE_S / 2
        while True:
            payload = await self._next()
            if payload == me.encode() and not self._claimed:
                return True
            if not payload and self._claimed:
                if self._until_s:
                    await self.over()  # ours would lie there for good
                return False
            self._claimed = self._claimed or bool(payload)

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
        try:
            async with asyncio.timeout(LEASE_S):
                return (await self._queue.get()).payload
        except TimeoutError as exc:
            await self.over()
            raise Disconnected(f"{self._subject}: its claim was not used; it is cleared") from exc

    def _heard(self, message: Message) -> None:
        self._queue.put_nowait(message)


@asynccontextmanager
async def heard(connection: Connection, claim: str, subject: str) -> AsyncIterator[Contest]:
    """Take part in a contest.

    Args:
        connection: to the broker.
        claim: what to claim, as an MQTT topic.
        subject: MQTT topic of what the winner will write.
    """
    contest = Contest(connection, claim, subject)
    async with connection.hearing((contest._claim,), contest._heard):
        yield contest
