"""What the function needs of a broker, and a parcel's blobs in place of one."""

from collections.abc import Mapping
from typing import Protocol

from broker.base import Receipt, Value


class Exchange(Protocol):
    """Where a task's model comes from and its update goes; every `broker.Broker` is one."""

    async def get(self, topic: str) -> Value | None:
        """The value retained under a topic, or None."""

    async def put(self, topic: str, payload: bytes) -> int:
        """Retain a value and return its revision."""

    async def publish(self, topic: str, payload: bytes) -> Receipt:
        """Publish an event; returns when it is safe."""


class Blobs:
    """An exchange in memory, for a function that has no route to the broker.

    Attributes:
        written: what the function published or retained, by topic; the first payload of a topic stays.
    """

    def __init__(self, given: Mapping[str, bytes]) -> None:
        self.written: dict[str, bytes] = {}
        self._given = given

    async def get(self, topic: str) -> Value | None:
        """See Exchange: what was given under that topic."""
        found = self._given.get(topic)
        return None if found is None else Value(topic, found, 1)

    async def put(self, topic: str, payload: bytes) -> int:
        """See Exchange."""
        self.written.setdefault(topic, payload)
        return 1

    async def publish(self, topic: str, payload: bytes) -> Receipt:
        """See Exchange."""
        stored = topic not in self.written
        await self.put(topic, payload)
        return Receipt(0, stored=stored)
