"""A link to a NATS server: a connection that is replaced when it is lost, to a store that must stay the same."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

from broker import reconnect
from broker.errors import Denied, Disconnected, StorageFull, StoreChanged
from broker.families import FAMILIES
from broker.nats import names
from broker.nats.connection import Connection
from broker.nats.errors import CANT_STORE, NoAnswer, NobodyAnswers, StreamMissing
from broker.nats.seen import Change, Seen, StreamInfo, StreamState
from broker.support import loggers, memory
from broker.url import BrokerUrl

T = TypeVar("T")

CHECKS: Final = 3
"""A changed store is believed if it looks changed so often: in a cluster, a new leader may still be reading its log."""

CHECK_AGAIN_S: Final = 0.5

IMPATIENT: Final = 0.4
"""Factor of the timeout of a question that is asked while the answer to another one is late."""

UNKNOWN: Final = StreamInfo({}, state=StreamState(last_seq=-1))
"""Stands for a stream whose state this user may not ask for, or that elects its leader in a cluster."""

_log = loggers.get_logger(__name__)


class Link(reconnect.Link[Connection]):
    """A `broker.reconnect.Link` of NATS connections.

    Args:
        address: the server's address.
        name: name of this client in the server's logs.
        seen: what this client has seen of the streams.

    Attributes:
        seen: as in Args.
    """

    def __init__(self, address: BrokerUrl, name: str, seen: Seen) -> None:
        self.seen = seen
        super().__init__(lambda: Connection(address, name, self.seen))

    async def check_store(self, connection: Connection) -> None:
        """Implements `reconnect.Link.check_store`: compare the streams with what we have seen of them."""
        checks = 1
        while (change := await self._change(connection)) is not None:
            if checks == CHECKS:
                raise StoreChanged(self.address.address, change.reason, change.kind)
            checks += 1
            await asyncio.sleep(CHECK_AGAIN_S)

    async def call_api(self, topic: str, call: str, request: object, response: type[T]) -> T:
        """Call JetStream's API; retry until it answers.

        Args:
            topic: the topic to name in errors.
            call: the call without prefix, such as `STREAM.INFO.<stream>`.
            request: the request, to encode as JSON.
            response: type of the response.

        Raises:
            Disconnected: no answer within CALL_S seconds.
            StoreChanged: the topic's stream is missing.
            BrokerError: the error in the answer.
        """
        return await self.retry_on(topic, lambda connection: connection.call_api(topic, call, request, response))

    async def retry_on(self, topic: str, attempt: Callable[[Connection], Awaitable[T]], *, is_write: bool = False) -> T:
        """Call `attempt` as `retry` does, and find out why it gets no answer.

        Args:
            topic: the topic whose stream answers.
            attempt: takes the current connection. It must be safe to run more than once.
            is_write: whether the stream stores a message.

        Raises:
            Disconnected: no attempt succeeded within CALL_S seconds.
            StorageFull: the stream's state can be read, but it stores nothing.
            StoreChanged: the topic's stream is missing.
            BrokerError: any other error of the attempt.
        """
        stream, last_sequence = names.stream_of(self.address, topic), -1

        async def explained(connection: Connection) -> T:
            nonlocal last_sequence
            try:
                return await attempt(connection)
            except StreamMissing as exc:
                raise self._missing(stream) from exc
            except (NobodyAnswers, NoAnswer) as exc:
                state = await _state(connection, stream, IMPATIENT if connection.is_clustered else 1.0)
                if state is None:
                    raise self._missing(stream) from exc
                if is_write and isinstance(exc, NoAnswer) and state.state.last_seq == last_sequence >= 0:
                    # A slow stream would have stored something meanwhile: this one can't.
                    raise StorageFull(topic, f"it answers, but stores nothing; {CANT_STORE}") from exc
                last_sequence = state.state.last_seq if isinstance(exc, NoAnswer) else -1
                raise

        return await self.retry(explained)

    async def _change(self, connection: Connection) -> Change | None:
        """Return how the streams differ from what we have seen of them; None if they do not."""
        streams = self.seen.streams
        states = await asyncio.gather(*(_state(connection, stream) for stream in streams))
        known = {name: state for name, state in zip(streams, states, strict=True) if state is not UNKNOWN}
        return self.seen.change(known)

    def _missing(self, stream: str) -> StoreChanged:
        return StoreChanged(self.address.address, f"its stream {stream} is missing")

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

    A service that starts again knows what it has seen of the streams before (`broker.support.memory`).

    Args:
        address: the server's address.
        name: name of this client in the server's logs.

    Raises:
        ConnectFailed: the server can't be reached, or refuses the connection.
        StoreChanged: the server has another store than before.
    """
    relaxed = [names.stream_name(address, family.name) for family in FAMILIES if family.relaxed]
    seen = memory.remembered((address, name), lambda: Seen(relaxed))
    link = Link(address, name, seen)
    async with link.running():
        await link.retry(link.check_store)
        yield link


async def _state(connection: Connection, stream: str, patience: float = 1.0) -> StreamInfo | None:
    """Return the state of a stream; None if it is missing, and UNKNOWN if this user may not ask.

    It is also UNKNOWN in a cluster where nobody answers. The stream has lost its leader, and elects one that has all
    acknowledged messages, within ten seconds; other streams can be used meanwhile.

    Args:
        connection: the connection to ask on.
        stream: name of the stream.
        patience: factor of the timeout.
    """
    try:
        return await connection.call_api(stream, f"STREAM.INFO.{stream}", {}, StreamInfo, patience=patience)
    except StreamMissing:
        return None
    except Denied:
        return UNKNOWN
    except (NoAnswer, NobodyAnswers):
        if connection.is_clustered:
            return UNKNOWN
        raise
