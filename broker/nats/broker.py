"""The broker on NATS JetStream: streams for events and values, direct gets, pull consumers of our own."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import msgspec
from nats.aio.msg import Msg

from broker.base import Broker, Deleted, Delivery, Receipt, Start, Value
from broker.errors import Conflict, Denied, Disconnected
from broker.families import Keep, family_of
from broker.nats import link as nats_link
from broker.nats import names, streams
from broker.nats.connection import REQUEST_S, Connection, new_id
from broker.nats.consumers import Durable, Replay
from broker.nats.deliveries import Replayed, ReplyInbox, Shared, Watched, change_of
from broker.nats.errors import Taken, WrongRevision, decoded
from broker.nats.link import Link
from broker.nats.pull import Feed, Source
from broker.reconnect import CALL_S
from broker.url import BrokerUrl

INLINE_BYTES: Final = 4 << 20
READ_AHEAD: Final = 256

_MSG_ID: Final = "Nats-Msg-Id"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_TOMBSTONE: Final = {"KV-Operation": "DEL"}
_NOT_FOUND: Final = "404"


class PubAck(msgspec.Struct):
    """JetStream's receipt."""

    seq: int
    duplicate: bool = False


class _Purged(msgspec.Struct):
    purged: int = 0


@dataclass(frozen=True, slots=True)
class _Stored:
    """A message as it lies in a stream; an empty payload is the tombstone of a deleted value."""

    payload: bytes
    sequence: int
    message_id: str


@contextlib.asynccontextmanager
async def connect(address: BrokerUrl, *, name: str, ack_wait_s: float, provision: bool) -> AsyncIterator[Broker]:
    """Connect, and make sure that the streams are there.

    Args:
        address: of the server.
        name: who we are.
        ack_wait_s: after how long an unacknowledged delivery is made again.
        provision: create the streams that are missing, and set right those that differ.

    Raises:
        ConnectFailed: nobody answers at that address, or the credentials are wrong.
        Denied: a stream is missing, and this user may not create it.
        ForeignStream: a stream that is in our way belongs to someone else.
        NoSystem: the streams are missing, and we are not to create them.
        OldStore: the streams of version 0.1 are there.
        StorageFull: the server has not the space that a stream reserves.
        Unsupported: the server is too old, or the streams are another version's.
    """
    async with nats_link.opened(address, name) as link:
        await (streams.ensure(link) if provision else streams.expect(link))
        yield NatsBroker(link, ack_wait_s)


class NatsBroker(Broker):
    """See Broker."""

    def __init__(self, link: Link, ack_wait_s: float) -> None:
        self.inline_limit = min(INLINE_BYTES, link.max_message_bytes)
        self._link = link
        self._ack_wait_s = ack_wait_s

    @contextlib.asynccontextmanager
    async def _replay(self, topic_filter: str, start: Start, prefetch: int) -> AsyncIterator[AsyncIterator[Delivery]]:
        async with self._feed(Replay(topic_filter, start), topic_filter, prefetch) as feed:
            yield Replayed(feed, self._load_payload)

    @contextlib.asynccontextmanager
    async def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        inbox = ReplyInbox(self._link) if family_of(topic_filter).keep is Keep.INBOX else None
        overhear = inbox.overhear if inbox else None
        source = Durable(topic_filter, durable, start, self._ack_wait_s, overhear)
        feed = Feed(self._link, source, prefetch=prefetch, name=f"{topic_filter} as {durable}")
        try:
            async with feed.running():
                yield Shared(feed, self._link, self._load_payload, inbox)
        finally:
            for arrival in feed.abandoned():
                await self._link.send(arrival.message.reply, b"-NAK")

    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        if family_of(topic).keep is Keep.INBOX:
            return await self._publish_to_inbox(topic, message, dedupe)
        # Even without `dedupe` there is an id: an acknowledgement may get lost, and then we send again.
        message_id = dedupe or new_id()
        try:
            ack = await self._store(topic, message, {_MSG_ID: message_id})
        except Taken:
            return Receipt(await self._sequence(topic), stored=False)
        return Receipt(ack.seq, stored=not ack.duplicate or dedupe is None)

    async def _publish_to_inbox(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        """Publish where JetStream does not acknowledge: the receipt is to see the message come out again."""
        message_id = dedupe or new_id()
        replay = Replay(topic, "first" if dedupe else "new")
        async with self._feed(replay, topic, READ_AHEAD) as feed:
            while (known := await feed.next_pending()) is not None:
                if message_id_of(known.message) == dedupe:
                    return Receipt(known.sequence, stored=False)
            return await self._link.retry(functools.partial(_confirmed, feed, topic, message, message_id))

    async def _put(self, topic: str, message: bytes, revision: int | None) -> int:
        message_id, expected = new_id(), revision
        while True:
            headers = {_MSG_ID: message_id} | ({} if expected is None else {_EXPECTED: str(expected)})
            try:
                return (await self._store(topic, message, headers)).seq
            except Taken:
                return await self._sequence(topic)
            except WrongRevision as exc:
                found = await self._last(topic)
                if found is not None and found.message_id == message_id:
                    return found.sequence  # it had been stored, and the acknowledgement got lost
                # A tombstone is no value, so 0 stands for it too.
                if found is None or found.payload or revision != 0 or found.sequence == expected:
                    raise Conflict(topic, revision or 0) from exc
                expected = found.sequence

    async def _get(self, topic: str) -> Value | None:
        found = await self._last(topic)
        return Value(topic, found.payload, found.sequence) if found is not None and found.payload else None

    async def _delete(self, topic: str) -> None:
        if family_of(topic).keep is Keep.FIRST:
            await self._purge(topic)
        elif await self._get(topic) is not None:
            await self._store(topic, b"", {_MSG_ID: new_id(), **_TOMBSTONE})

    async def _snapshot(self, topic_filter: str) -> list[Value]:
        found: dict[str, Value | Deleted] = {}
        try:
            async with asyncio.timeout(CALL_S), self._feed(Replay(topic_filter), topic_filter, READ_AHEAD) as feed:
                while (arrival := await feed.next_pending()) is not None:
                    found[arrival.message.subject] = change_of(arrival)
        except TimeoutError as exc:
            raise Disconnected(f"{topic_filter}: not all values came within {CALL_S} s") from exc
        return [value for value in found.values() if isinstance(value, Value)]

    @contextlib.asynccontextmanager
    async def _watch(self, topic_filter: str) -> AsyncIterator[AsyncIterator[Value | Deleted]]:
        async with self._feed(Replay(topic_filter), topic_filter, READ_AHEAD) as feed:
            yield Watched(feed)

    def _feed(self, source: Source, name: str, prefetch: int) -> AbstractAsyncContextManager[Feed]:
        return Feed(self._link, source, prefetch=prefetch, name=name).running()

    async def _purge(self, topic_filter: str) -> None:
        stream = names.stream_of(self._link.address, topic_filter)
        await self._link.api(topic_filter, f"STREAM.PURGE.{stream}", {"filter": topic_filter}, _Purged)

    async def _store(self, topic: str, message: bytes, headers: dict[str, str]) -> PubAck:
        async def attempt(connection: Connection) -> PubAck:
            return decoded(topic, (await connection.request(topic, message, headers)).data, PubAck)

        return await self._link.retry(attempt)

    async def _last(self, topic: str) -> _Stored | None:
        """The last message under a topic, by direct get: no consumer, and readable by subject permissions."""
        stream = names.stream_of(self._link.address, topic)
        subject = names.api_subject(self._link.address, f"DIRECT.GET.{stream}.{topic}")

        async def attempt(connection: Connection) -> Msg:
            async with connection.large_in:
                return await connection.request(subject, b"")

        answer = await self._link.retry(attempt)
        headers = answer.headers or {}
        if headers.get("Status") == _NOT_FOUND and "Nats-Sequence" not in headers:
            return None
        return _Stored(answer.data, int(headers["Nats-Sequence"]), message_id_of(answer))

    async def _sequence(self, topic: str) -> int:
        """The number of the message under a write-once topic; 0 if we may not read it, or it is gone by now."""
        try:
            found = await self._last(topic)
        except Denied:
            return 0
        return 0 if found is None else found.sequence


def message_id_of(message: Msg) -> str:
    """The id that its publisher gave a message; empty if there is none."""
    return (message.headers or {}).get(_MSG_ID, "")


async def _confirmed(feed: Feed, topic: str, message: bytes, message_id: str, connection: Connection) -> Receipt:
    await connection.deliver(topic, message, {_MSG_ID: message_id})
    try:
        async with asyncio.timeout(REQUEST_S):
            while message_id_of((arrival := await feed.next()).message) != message_id:
                pass
    except TimeoutError as exc:
        raise Disconnected(f"{topic}: the message was not seen to be stored within {REQUEST_S} s") from exc
    return Receipt(arrival.sequence)
