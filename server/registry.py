"""The client register, as the broker's retained values show it (paper, section 3.1)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from broker import topics
from broker.base import Broker, Deleted, Value
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.register import ClientRecord
from server.following import following

log = structlog.get_logger(__name__)


class Registry:
    """Every registered client, kept up to date. Use it as `async with opened(broker) as registry`.

    Attributes:
        version: counts the changes.
    """

    def __init__(self) -> None:
        self.version = 0
        self._clients: dict[str, ClientRecord] = {}
        self._changed = asyncio.Event()

    @property
    def clients(self) -> list[ClientRecord]:
        """The register as it is now."""
        return list(self._clients.values())

    async def changed(self, since: int) -> int:
        """Return the version as soon as it is another than `since`."""
        while self.version == since:
            await self._changed.wait()
        return self.version

    def note(self, value: Value | Deleted) -> None:
        """Take over a value of the register; an unreadable one is logged and left out."""
        self._clients.pop(value.topic, None)
        if isinstance(value, Value):
            self._add(value.topic, value.payload)
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _add(self, topic: str, payload: bytes) -> None:
        try:
            self._clients[topic] = codec.decode(ClientRecord, payload)
        except DecodeError as exc:
            log.warning("unreadable entry of the client register", topic=topic, error=str(exc))


@contextlib.asynccontextmanager
async def opened(broker: Broker) -> AsyncIterator[Registry]:
    """The register, complete from the start and kept up to date until the end."""
    registry = Registry()
    async with following(broker, topics.client(topics.ANY), registry.note):
        yield registry
