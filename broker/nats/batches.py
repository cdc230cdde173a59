"""Sends small messages of a stream together, those that are published at the same time: a group commit.

While some are on their way, the messages that come gather for the next batch. JetStream syncs and acknowledges a large
batch once (https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md, atomic batches), so 200
messages cost 4 syncs of the disk and not 200. For a small batch the server needs more than for single messages, which
are then sent one after the other, and their acknowledgements are awaited together.

A large batch is stored whole or not at all. What is not acknowledged here, for whatever reason, is published alone
then, again and again if need be: only that tells whose fault it was. Ids make this safe if it was stored after all.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from broker.errors import BrokerError
from broker.families import Keep, family_of
from broker.nats import names
from broker.nats.connection import Connection, new_id
from broker.nats.errors import NoBatches, decode
from broker.nats.link import Link
from broker.support import loggers
from broker.support.tasks import task_group

MOST: Final = 256
"""Messages that are sent at once; the server takes 1,000 in a batch."""

LEAST: Final = 8
"""With fewer messages a batch costs more than each alone. It syncs the disk 4 times, and costs nats-server 1.7 ms of a
core, because it has a store of its own until it is committed; a message costs 0.12 ms and a sync."""

SMALL_BYTES: Final = 16 << 10
"""A larger message goes alone."""

KEEPS: Final = (Keep.LOG, Keep.QUEUE)
"""Whose streams take batches. A batch to write-once topics would fail whole if one of them were taken."""

API_LEVEL: Final = 2
"""JetStream's API level that brought atomic batches: nats-server 2.12."""

_log = loggers.get_logger(__name__)


class PubAck(msgspec.Struct):
    """JetStream's confirmation of a message, or of a batch.

    Attributes:
        seq: position in the stream; of a batch, that of its last message.
        duplicate: whether the stream already had a message with the same id.
        count: number of messages in the batch; 0: it was none.
    """

    seq: int
    duplicate: bool = False
    count: int = 0


@dataclass(eq=False, slots=True)
class _Message:
    """A message that waits; `ack` becomes None if it has to go alone."""

    topic: str
    payload: bytes
    headers: dict[str, str]
    ack: "asyncio.Future[PubAck | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batches:
    """Stores messages in batches. Use it as `async with open_batches(link) as batches`.

    Args:
        link: the link to the server.
        group: sends the batches.
    """

    def __init__(self, link: Link, group: asyncio.TaskGroup) -> None:
        self._link = link
        self._group = group
        self._queues: dict[str, deque[_Message]] = {}
        self._unable: set[str] = set()

    def take(self, topic: str, payload: bytes) -> bool:
        """Return whether a message may be stored together with others.

        Args:
            topic: its topic.
            payload: its payload.
        """
        return len(payload) <= SMALL_BYTES and family_of(topic).keep in KEEPS

    async def store(self, topic: str, payload: bytes, headers: dict[str, str]) -> PubAck | None:
        """Store a message together with those that are published at the same time.

        Args:
            topic: its topic.
            payload: its payload.
            headers: its headers; its id is among them.

        Returns:
            The acknowledgement; None: the message must be published alone. It may have been stored nevertheless.
        """
        stream = names.stream_of(self._link.address, topic)
        message, queue = _Message(topic, payload, headers), self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = deque()
            self._group.create_task(self._send_all(stream, queue), name=f"batches of {stream}")
        queue.append(message)
        return await message.ack

    async def _send_all(self, stream: str, queue: deque[_Message]) -> None:
        """Send what waits, batch by batch, until nothing does."""
        sent = list[_Message]()
        try:
            while queue:
                taken = [queue.popleft() for _ in range(min(MOST, len(queue)))]
                # A publisher that was cancelled meanwhile has no message any more.
                sent = [message for message in taken if not message.ack.done()]
                acks = await self._acks(stream, sent) if sent else ()
                for message, ack in zip(sent, acks, strict=True):
                    if not message.ack.done():
                        message.ack.set_result(ack)
        finally:
            del self._queues[stream]
            for message in (*sent, *queue):
                message.ack.cancel()

    async def _acks(self, stream: str, messages: Sequence[_Message]) -> Sequence[PubAck | None]:
        """Send messages, and return the acknowledgement of each; None: it has to go alone."""
        is_batch = len(messages) >= LEAST and stream not in self._unable
        if not self._link.is_connected:
            return [None] * len(messages)
        try:
            connection = await self._link.connection()
            acks = await (_send_batch if is_batch else _send_each)(connection, messages)
        except NoBatches as exc:
            _log.debug("no batches", stream=stream, error=str(exc))
            self._unable.add(stream)
        except BrokerError as exc:
            _log.debug("these messages go alone", stream=stream, messages=len(messages), error=str(exc))
        else:
            self._link.seen.note(stream, max((ack.seq for ack in acks if ack is not None), default=0))
            return acks
        return [None] * len(messages)


@contextlib.asynccontextmanager
async def open_batches(link: Link) -> AsyncIterator[Batches]:
    """Send batches until the end of the block.

    Args:
        link: the link to the server.
    """
    async with task_group() as group:
        yield Batches(link, group)


async def _send_each(connection: Connection, messages: Sequence[_Message]) -> Sequence[PubAck | None]:
    """Send messages one after the other, and return their acknowledgements. None: a message has none.

    Raises:
        BrokerError: nobody knows which of them were stored.
    """
    requests = [(message.topic, message.payload, message.headers) for message in messages]
    answers = zip(messages, await connection.request_all(requests), strict=True)
    return [None if answer is None else _ack(message.topic, answer.data) for message, answer in answers]


def _ack(topic: str, data: bytes) -> PubAck | None:
    """Return an acknowledgement; None: the answer is an error, or says that nobody answers."""
    try:
        return decode(topic, data, PubAck)
    except BrokerError:
        return None


async def _send_batch(connection: Connection, messages: Sequence[_Message]) -> Sequence[PubAck]:
    """Send messages as an atomic batch, and return their acknowledgements.

    Raises:
        NoBatches: the stream, or the server, takes no batches.
        BrokerError: the batch was not stored, or nobody knows whether it was.
    """
    batch_id, last = new_id(), messages[-1]
    for number, message in enumerate(messages[:-1], start=1):
        await connection.send(message.topic, message.payload, headers=message.headers | _headers(batch_id, number))
    headers = last.headers | _headers(batch_id, len(messages)) | {"Nats-Batch-Commit": "1"}
    ack = decode(last.topic, (await connection.request(last.topic, last.payload, headers)).data, PubAck)
    if ack.count != len(messages):
        # An older server has taken each message for a single one.
        raise NoBatches(f"{last.topic}: the server has confirmed one message and no batch")
    first = ack.seq - len(messages) + 1
    return [PubAck(first + place) for place in range(len(messages))]


def _headers(batch_id: str, number: int) -> dict[str, str]:
    return {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
