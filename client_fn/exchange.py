"""The part of a broker that the function uses, and an in-memory replacement for it."""

from collections.abc import Mapping
from typing import Protocol

from broker.deliveries import Receipt, Value


class Exchange(Protocol):
    """Where the function reads its model and writes its update. Every `broker.base.Broker` implements it."""

    async def get(self, topic: str) -> Value | None:
        """Return the value retained at a topic, or None."""

    async def put(self, topic: str, payload: bytes) -> int:
        """Retain a value and return its revision.

        Args:
            topic: where to retain it.
            payload: the value, not empty.
        """

    async def publish(self, topic: str, payload: bytes) -> Receipt:
        """Publish an event and return when the broker has stored it.

        Args:
            topic: where to publish it.
            payload: the event.
        """


class InMemoryExchange:
    """An exchange for a function that has no route to the broker.

    Args:
        inputs: payloads that `get` returns, by topic.

    Attributes:
        outputs: what the function put or published, by topic. The first payload of a topic stays.
    """

    def __init__(self, inputs: Mapping[str, bytes]) -> None:
        self.outputs: dict[str, bytes] = {}
        self._inputs = inputs

    async def get(self, topic: str) -> Value | None:
        """Implements `Exchange.get`: returns the input of that topic."""
        payload = self._inputs.get(topic)
        return None if payload is None else Value(topic, payload, 1)

    async def put(self, topic: str, payload: bytes) -> int:
        """Implements `Exchange.put`."""
        self.outputs.setdefault(topic, payload)
        return 1

    async def publish(self, topic: str, payload: bytes) -> Receipt:
        """Implements `Exchange.publish`."""
        stored = topic not in self.outputs
        await self.put(topic, payload)
        return Receipt(0, stored=stored)
