"""The broker on NATS JetStream: streams for events and values, direct gets for values, our own pull consumers."""

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from broker.base import Broker, Start
from broker.deliveries import Deleted, Delivery, Reader, Receipt, Value
from broker.errors import Conflict, Denied, Disconnected
from broker.families import Keep, family_of, is_of_weights
from broker.nats import names, streams
from broker.nats.batches import Batches, PubAck, open_batches
from broker.nats.connection import REQUEST_S, Connection, new_id
from broker.nats.consumers import Durable, Replay
from broker.nats.deliveries import DurableDeliveries, ReplayDeliveries, ReplyInbox, ValueChanges, to_change
from broker.nats.errors import NoAnswer, StoreFull, Taken, WrongRevision, decode
from broker.nats.link import Link, open_link
from broker.nats.pull import Feed, Source
from broker.nats.reserve import Reserve
from broker.nats.stored import MSG_ID, StoredMessages, message_id_of
from broker.reconnect import CALL_S
from broker.url import BrokerUrl

INLINE_BYTES: Final = 4 << 20
READ_AHEAD: Final = 256
"""Prefetch of snapshots, watches and the check of dedupe ids."""

STORES_AT_ONCE: Final = 256
"""Concurrent writes of one connection. A stream takes only so many that wait (`max_buffered_msgs`)."""

MOST_PATIENCE: Final = 4.0
"""Largest factor of the timeout of a write that is tried again."""

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_TOMBSTONE: Final = {"KV-Operation": "DEL"}


class _Purged(msgspec.Struct):
    purged: int = 0


class _Subjects(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _SubjectsPage(msgspec.Struct):
    state: _Subjects
    total: int = 0


@contextlib.asynccontextmanager
async def connect(address: BrokerUrl, *, name: str, ack_wait_s: float, provision: bool) -> AsyncIterator[Broker]:
    """Connect, and create or check the streams.

    Args:
        address: the server's address.
        name: name of this client in the server's logs.
        ack_wait_s: time in seconds after which an unacknowledged delivery is made again.
        provision: create missing streams and correct changed ones, instead of only checking them.

    Raises:
        ConnectFailed: the server can't be reached, the credentials are wrong, or there is no JetStream.
        Denied: a stream is missing, and this user may not create it.
        ForeignStream: a stream of another program conflicts with ours.
        NoSystem: the streams are missing, and `provision` is False.
        OldStore: the server has the streams of version 0.1.
        StorageFull: the server has less space than a stream reserves.
        Unsupported: the server is too old, or another version made the streams.
    """
    async with open_link(address, name) as link:
        await (streams.ensure(link) if provision else streams.expect(link))
        async with open_batches(link) as batches:
            yield NatsBroker(link, batches, ack_wait_s)


class NatsBroker(Broker):
    """Implements `Broker` on JetStream."""

    def __init__(self, link: Link, batches: Batches, ack_wait_s: float) -> None:
        self.inline_limit = min(INLINE_BYTES, link.max_message_bytes)
        self._link = link
        self._batches = batches
        self._stored = StoredMessages(link)
        self._ack_wait_s = ack_wait_s
        self._reserve = Reserve(link)
        self._stores = asyncio.Semaphore(STORES_AT_ONCE)

    @property
    def connected_since_s(self) -> float:
        """Implements `Broker.connected_since_s`."""
        return self._link.connected_since_s

    @contextlib.asynccontextmanager
    async def _replay(self, topic_filter: str, start: Start, prefetch: int) -> AsyncIterator[Reader[Delivery]]:
        replay = Replay(topic_filter, start)
        async with self._feed(replay, topic_filter, prefetch) as feed:
            last_sequence = functools.partial(self._stored.last_sequence, topic_filter)
            yield ReplayDeliveries(feed, replay.begin, last_sequence, self._load_payload)

    @contextlib.asynccontextmanager
    async def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        inbox = ReplyInbox(self._link) if family_of(topic_filter).keep is Keep.INBOX else None
        on_request = inbox.on_request if inbox else None
        source = Durable(topic_filter, durable, start, self._ack_wait_s, on_request)
        feed = Feed(self._link, source, prefetch=prefetch, name=f"{topic_filter} as {durable}")
        try:
            async with feed.running():
                yield DurableDeliveries(feed, self._link, self._load_payload, inbox)
        finally:
            for arrival in feed.drain():
                await self._link.send(arrival.message.reply, b"-NAK")

    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        if family_of(topic).keep is Keep.INBOX:
            return await self._publish_to_inbox(topic, message, dedupe)
        # Without `dedupe` an id is necessary too: if an acknowledgement gets lost, we send the message again.
        message_id = dedupe or new_id()
        try:
            ack = await self._store(topic, message, {MSG_ID: message_id})
        except Taken:
            return Receipt(await self._sequence(topic), stored=False)
        return Receipt(ack.seq, stored=not ack.duplicate or dedupe is None)

    async def _publish_to_inbox(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        """Publish to a stream without acknowledgements; a replay shows when the message is stored."""
        message_id = dedupe or new_id()
        replay = Replay(topic, "first" if dedupe else "new")
        async with self._feed(replay, topic, READ_AHEAD) as feed:
            while (earlier := await feed.next_pending()) is not None:
                if message_id_of(earlier.message) == dedupe:
                    return Receipt(earlier.sequence, stored=False)

            async def attempt(connection: Connection) -> Receipt:
                await connection.send_and_confirm(topic, message, {MSG_ID: message_id})
                try:
                    async with asyncio.timeout(REQUEST_S):
                        while message_id_of((arrival := await feed.next()).message) != message_id:
                            pass
                except TimeoutError as exc:
                    raise NoAnswer(f"{topic}: the message was not seen to be stored within {REQUEST_S} s") from exc
                return Receipt(arrival.sequence)

            return await self._link.retry_on(topic, attempt, is_write=True)

    async def _put(self, topic: str, message: bytes, revision: int | None) -> int:
        message_id, expected = new_id(), revision
        while True:
            headers = {MSG_ID: message_id} | ({} if expected is None else {_EXPECTED: str(expected)})
            try:
                return (await self._store(topic, message, headers)).seq
            except Taken:
                return await self._sequence(topic)
            except WrongRevision as exc:
                current = await self._stored.last(topic)
                if current is not None and current.message_id == message_id:
                    # Lost acknowledgement: an earlier try stored our message.
                    return current.sequence
                if current is None or not current.is_tombstone or revision != 0 or current.sequence == expected:
                    # Conflict: another client changed the value.
                    raise Conflict(topic, revision or 0) from exc
                # Tombstone: the value is deleted, which revision 0 allows. Overwrite the tombstone.
                expected = current.sequence

    async def _get(self, topic: str) -> Value | None:
        stored = await self._stored.last(topic)
        if stored is None or stored.is_tombstone:
            return None
        return Value(topic, stored.payload, stored.sequence, stored.time_s)

    async def _delete(self, topic: str) -> None:
        if family_of(topic).keep is Keep.FIRST:
            await self._purge(topic)
        elif await self._get(topic) is not None:
            await self._store(topic, b"", {MSG_ID: new_id(), **_TOMBSTONE})

    async def _snapshot(self, topic_filter: str) -> list[Value]:
        changes: dict[str, Value | Deleted] = {}
        newest, sequence = await self._stored.newest_sequence(topic_filter), 0
        try:
            async with asyncio.timeout(CALL_S), self._feed(Replay(topic_filter), topic_filter, READ_AHEAD) as feed:
                while (arrival := await (feed.next() if sequence < newest else feed.next_pending())) is not None:
                    changes[arrival.message.subject], sequence = to_change(arrival), arrival.sequence
        except TimeoutError as exc:
            raise Disconnected(f"{topic_filter}: not all values came within {CALL_S} s") from exc
        return [value for value in changes.values() if isinstance(value, Value)]

    @contextlib.asynccontextmanager
    async def _watch(self, topic_filter: str) -> AsyncIterator[Reader[Value | Deleted]]:
        replay = Replay(topic_filter)
        async with self._feed(replay, topic_filter, READ_AHEAD) as feed:
            yield ValueChanges(feed, replay.begin, functools.partial(self._stored.last_sequence, topic_filter))

    def _feed(self, source: Source, name: str, prefetch: int) -> AbstractAsyncContextManager[Feed]:
        return Feed(self._link, source, prefetch=prefetch, name=name).running()

    async def _stored_topics(self, topic_filter: str) -> frozenset[str]:
        stream, found = names.stream_of(self._link.address, topic_filter), set[str]()
        while True:
            # A page has up to 100,000 subjects.
            request = {"subjects_filter": topic_filter, "offset": len(found)}
            info = await self._link.call_api(topic_filter, f"STREAM.INFO.{stream}", request, _SubjectsPage)
            page = info.state.subjects or {}
            found.update(page)
            if not page or len(found) >= info.total:
                return frozenset(found)

    async def _purge(self, topic_filter: str) -> None:
        stream = names.stream_of(self._link.address, topic_filter)
        await self._link.call_api(topic_filter, f"STREAM.PURGE.{stream}", {"filter": topic_filter}, _Purged)

    async def hold_reserve(self) -> None:
        """Implements `Broker.hold_reserve`."""
        await self._reserve.fill()

    async def _store(self, topic: str, message: bytes, headers: dict[str, str]) -> PubAck:
        together = self._batches.take(topic, message)
        if together and (ack := await self._batches.store(topic, message, headers)) is not None:
            return ack
        return await self._store_alone(topic, message, headers)

    async def _store_alone(self, topic: str, message: bytes, headers: dict[str, str]) -> PubAck:
        are_weights, tries = is_of_weights(topic), itertools.count()

        async def attempt(connection: Connection) -> PubAck:
            if are_weights:
                await self._reserve.refuse_if_in_use(connection, topic)
            # The write may wait behind many others, and a repetition waits behind even more.
            patience = min(2.0 ** next(tries), MOST_PATIENCE)
            async with self._stores:
                answer = await connection.request(topic, message, headers, patience=patience)
            ack = decode(topic, answer.data, PubAck)
            self._link.seen.note(names.stream_of(self._link.address, topic), ack.seq)
            return ack

        while True:
            try:
                return await self._link.retry_on(topic, attempt, is_write=True)
            except StoreFull:
                if are_weights or not await self._reserve.free_a_part():
                    raise

    async def _sequence(self, topic: str) -> int:
        """Return the sequence of the message of a write-once topic; 0 if it is deleted or not readable for us."""
        try:
            return await self._stored.last_sequence(topic)
        except Denied:
            return 0
