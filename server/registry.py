"""The client register, read from the broker's retained values (paper, section 3.1)."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable

from broker import topics
from broker.base import Broker
from broker.deliveries import Deleted, Value
from broker.messages import codec, origin
from broker.messages.errors import DecodeError
from broker.messages.register import ClientRecord
from broker.support import loggers
from server.following import Versioned, follow

log = loggers.get_logger(__name__)


class Registry(Versioned):
    """The registered clients. `open_registry` keeps them up to date.

    Args:
        clock: seconds on a clock that never jumps.

    Attributes:
        version: number of changes so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._clients: dict[str, ClientRecord] = {}

    @property
    def clients(self) -> list[ClientRecord]:
        """All registered clients."""
        return list(self._clients.values())

    def note(self, value: Value | Deleted) -> None:
        """Apply a change of the register. An unreadable entry is logged and left out."""
        self._clients.pop(value.topic, None)
        if isinstance(value, Value):
            try:
                client = codec.decode(ClientRecord, value.payload)
                origin.check_topic(value.topic, topics.client, client.id)
                self._clients[value.topic] = client
            except DecodeError as exc:
                log.warning("unreadable entry of the client register", topic=value.topic, error=str(exc))
        self.mark_changed()


@contextlib.asynccontextmanager
async def open_registry(broker: Broker) -> AsyncIterator[Registry]:
    """Open the register: complete when the context starts, up to date until it ends."""
    registry = Registry()
    async with follow(broker, topics.client(topics.ANY), registry):
        yield registry
