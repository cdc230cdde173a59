"""The link to a NATS server."""

import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

import structlog

from broker import reconnect
from broker.errors import Disconnected
from broker.nats.connection import Connection
from broker.url import BrokerUrl

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Link(reconnect.Link[Connection]):
    """See broker.reconnect.Link."""

    async def api(self, topic: str, call: str, request: object, response: type[T]) -> T:
        """See Connection.api; asks until JetStream answers."""
        return await self.retry(lambda connection: connection.api(topic, call, request, response))

    async def send(self, subject: str, payload: bytes) -> None:
        """Send what may as well get lost, such as an acknowledgement: without it, the event just comes again."""
        try:
            await self._connection.send(subject, payload)
        except Disconnected as exc:
            _log.debug("not sent", subject=subject, error=str(exc))


@contextlib.asynccontextmanager
async def opened(address: BrokerUrl, name: str) -> AsyncIterator[Link]:
    """A link that is up when it is entered.

    Raises:
        ConnectFailed: nobody answers there, or refuses us.
    """
    made = Link(lambda: Connection(address, name))
    async with made.running():
        yield made
