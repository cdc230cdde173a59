"""A link to a NATS server: a connection that is replaced when it is lost."""

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
    """A `broker.reconnect.Link` of NATS connections."""

    async def call_api(self, topic: str, call: str, request: object, response: type[T]) -> T:
        """Call JetStream's API; retry until it answers.

        Args:
            topic: the topic to name in errors.
            call: the call without prefix, such as `STREAM.INFO.<stream>`.
            request: the request, to encode as JSON.
            response: type of the response.

        Raises:
            Disconnected: no answer within CALL_S seconds.
            BrokerError: the error in the answer.
        """
        return await self.retry(lambda connection: connection.call_api(topic, call, request, response))

    async def send(self, subject: str, payload: bytes) -> None:
        """Send a message without retry; if the connection is lost, only log it.

        This is for acknowledgements: if one gets lost, the event is delivered again.

        Args:
            subject: subject of the message.
            payload: payload of the message.

        Raises:
            PayloadTooLarge: the payload is larger than the server accepts.
        """
        try:
            await self._connection.send(subject, payload)
        except Disconnected as exc:
            _log.debug("not sent", subject=subject, error=str(exc))


@contextlib.asynccontextmanager
async def open_link(address: BrokerUrl, name: str) -> AsyncIterator[Link]:
    """Open a link and wait for its first connection.

    Args:
        address: the server's address.
        name: name of this client in the server's logs.

    Raises:
        ConnectFailed: the server can't be reached, or refuses the connection.
    """
    link = Link(lambda: Connection(address, name))
    async with link.running():
        yield link
