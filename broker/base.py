"""The interface of every broker: events (at least once, acknowledged) and retained values (one per topic).

A backend implements the methods with a leading underscore. This module splits payloads above the backend's inline
limit into chunks, so callers and backends never see chunks. For a broker without compare-and-set or delayed `nak`,
mqtt/claims.py and mqtt/group.py show how to build them.
"""

import abc
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, overload

from broker import chunks, families, topics
from broker.deliveries import Deleted, Delivery, Reader, Receipt, Value
from broker.errors import CorruptPayload, PayloadTooLarge, Unsupported
from broker.families import Keep
from broker.support import filters

Start = Literal["first", "new"] | datetime
"""Where a subscription begins to read the log: the first event, the next new event, or a time."""

ACK_WAIT_S: Final = 15.0
"""A delivery that is neither acknowledged nor extended by `working` for this long is delivered again. Seconds."""


class Broker(abc.ABC):
    """A connection to a broker, opened by `async with broker.connect(url)`. Many tasks may share it.

    Every call has a time limit and continues after a reconnection. A call that fails raises a BrokerError;
    BadTopic if the topic belongs to no family.

    Attributes:
        inline_limit: payloads above this size are sent in chunks. Bytes.
    """

    inline_limit: int

    @property
    @abc.abstractmethod
    def connected_since_s(self) -> float:
        """When the current connection was opened, or the last one while there is none; seconds, loop time.

        Nothing could be heard before, so silence is counted from then on.
        """

    async def publish(self, topic: str, payload: bytes, *, dedupe: str | None = None) -> Receipt:
        """Publish an event; return once the broker has stored it durably.

        Args:
            topic: a name built by `broker.topics`.
            payload: any bytes, of any size.
            dedupe: id of the event. The broker drops an event whose id it has seen in the last two minutes. This is
                an optimization without guarantee; MQTT ignores it.

        Raises:
            PayloadTooLarge: the payload is larger than those of its family may be.
            StorageFull: the broker has no room.
            Denied: this user may not publish to the topic.
            Disconnected: the broker did not confirm the event in time; it may still have stored it.
        """
        return await self._publish(topic, await self._to_message(topic, payload), dedupe)

    @overload
    def subscribe(
        self, topic_filter: str, *, durable: None = None, start: Start = "first", prefetch: int = 16
    ) -> AbstractAsyncContextManager[Reader[Delivery]]: ...

    @overload
    def subscribe(
        self, topic_filter: str, *, durable: str, start: Start = "first", prefetch: int = 16
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]: ...

    def subscribe(
        self, topic_filter: str, *, durable: str | None = None, start: Start = "first", prefetch: int = 16
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Receive events in the order of the log.

        Args:
            topic_filter: a topic; `*` matches one level, a final `>` matches one or more levels. All its topics must
                belong to one family of `broker.families`.
            durable: name of a group of competing consumers that the broker remembers. Each event goes to one of
                them and is delivered again until one acknowledges it. `start` applies only when the group is
                created. Without a name, the subscriber receives every event and acknowledges none; a restart of the
                broker neither loses nor repeats events.
            start: `first`, `new`, or the time at which the replay begins.
            prefetch: maximum number of unacknowledged deliveries.

        Raises:
            Unsupported: the topic is a queue, and `durable` is missing or `start` is not `first`. On entering:
                another durable already receives the same messages of the queue.
        """
        if families.family_of(topic_filter).keep is Keep.QUEUE:
            if durable is None:
                raise Unsupported(f"{topic_filter}: a queue can't be replayed, it needs a durable name")
            if start != "first":
                raise Unsupported(f"{topic_filter}: a queue is read from its first message on")
        if durable is None:
            return self._replay(topic_filter, start, prefetch)
        return self._consume(topic_filter, durable, start, prefetch)

    async def put(self, topic: str, payload: bytes, *, revision: int | None = None) -> int:
        """Store a value and return its revision.

        If the topic is write-once and already has a value, keep that value and return its revision.

        Args:
            topic: a topic kept as LAST or FIRST.
            payload: any bytes, but not empty.
            revision: for compare-and-set: store the value only if the current one has this revision. 0 means that
                there must be no value.

        Raises:
            Conflict: the current value has another revision.
            PayloadTooLarge: the payload is larger than those of its family may be.
            Unsupported: the topic keeps no values, or the payload is empty.
        """
        _require(topic, Keep.FIRST, Keep.LAST)
        if not payload:
            raise Unsupported(f"{topic}: a value can't be empty")
        return await self._put(topic, await self._to_message(topic, payload), revision)

    async def get(self, topic: str) -> Value | None:
        """Return the retained value, or None if there is none.

        Raises:
            CorruptPayload: the value is larger than those of its family may be, a chunk is missing, or the digest is
                wrong.
            Unsupported: the topic keeps no values.
        """
        _require(topic, Keep.FIRST, Keep.LAST)
        value = await self._get(topic)
        return None if value is None else await self._load_chunks(value)

    async def delete(self, topic: str) -> None:
        """Delete the retained value and its chunks, if there is one.

        Watchers of a LAST topic receive a `Deleted`.

        Raises:
            Unsupported: the topic keeps no values.
        """
        _require(topic, Keep.FIRST, Keep.LAST)
        await self._delete(topic)
        await self._purge(topics.chunks_of(topic))

    async def snapshot(self, topic_filter: str) -> dict[str, Value]:
        """Return the current values of the LAST topics that match a filter, by topic.

        Values whose chunks are missing are logged and left out.

        Raises:
            Unsupported: the filter is not one of LAST topics.
        """
        _require(topic_filter, Keep.LAST)
        values = [await self._load_chunks_or_skip(value) for value in await self._snapshot(topic_filter)]
        return {value.topic: value for value in values if value is not None}

    def watch(self, topic_filter: str) -> AbstractAsyncContextManager[Reader[Value | Deleted]]:
        """Receive the current values of the LAST topics that match a filter, and then every change.

        A slow reader may miss intermediate changes, but always receives the last one. Values whose chunks are missing
        are logged and skipped, as in `snapshot`: the writer of one bad value must not stop the readers of all values.

        Raises:
            Unsupported: the filter is not one of LAST topics.
        """
        _require(topic_filter, Keep.LAST)
        return self._watch_loaded(topic_filter)

    async def purge(self, topic_filter: str) -> None:
        """Delete every event or write-once value that matches a filter, and its chunks."""
        await self._purge(topic_filter)
        await self._purge(topics.chunks_of(topic_filter))

    async def stored_topics(self, topic_filter: str) -> frozenset[str]:
        """Return the write-once topics under a filter that have a payload. The payloads are not fetched.

        Raises:
            Unsupported: the filter is not one of FIRST topics.
        """
        _require(topic_filter, Keep.FIRST)
        return await self._stored_topics(topic_filter)

    async def hold_reserve(self) -> None:  # noqa: B027 (most brokers need none)
        """Take up some room that records, events and requests get when weights have filled the store.

        A server calls it from time to time. Brokers without a limit of their store need none and do nothing.
        """

    @contextlib.asynccontextmanager
    async def _watch_loaded(self, topic_filter: str) -> AsyncIterator[Reader[Value | Deleted]]:
        async with self._watch(topic_filter) as changes:
            yield _LoadedChanges(changes, self._load_chunks_or_skip)

    async def _load_chunks_or_skip(self, value: Value) -> Value | None:
        """Return the value with its complete payload; log and return None if that is corrupt."""
        try:
            return await self._load_chunks(value)
        except CorruptPayload as exc:
            # Functions import this module at every cold start, and hardly ever log.
            from broker.support import loggers

            log = loggers.get_logger(__name__)
            log.warning("a value that can't be read is passed over", topic=value.topic, error=str(exc))
            return None

    async def _load_chunks(self, value: Value) -> Value:
        return replace(value, payload=await self._load_payload(value.topic, value.payload))

    async def _to_message(self, topic: str, payload: bytes) -> bytes:
        """Return the message to send: the payload, or a manifest after storing the chunks."""
        # Every family takes a small payload; the look-up would cost more than the rest.
        if len(payload) > families.SMALL:
            limit = families.family_of(topic).max_payload
            if limit is not None and len(payload) > limit:
                raise PayloadTooLarge(topic, len(payload), limit)
        if len(payload) <= self.inline_limit and not chunks.is_manifest(payload):
            return payload
        chunk_bytes = min(chunks.CHUNK_BYTES, self.inline_limit)
        return await chunks.store(self._put_chunk, topic, payload, chunk_bytes=chunk_bytes)

    async def _load_payload(self, topic: str, message: bytes, at_most: int | None = None) -> bytes:
        """Return the payload of a message: the message itself, or the chunks that it announces."""
        if at_most is None and len(message) <= families.SMALL and not chunks.is_manifest(message):
            return message
        limits = [limit for limit in (at_most, families.family_of(topic).max_payload) if limit is not None]
        least = min(chunks.MIN_CHUNK_BYTES, self.inline_limit)
        return await chunks.load(
            self._get_chunk, topic, message, at_most=min(limits, default=None), least_chunk_bytes=least
        )

    async def _put_chunk(self, topic: str, chunk: bytes) -> None:
        await self._put(topic, chunk, None)

    async def _get_chunk(self, topic: str) -> bytes:
        value = await self._get(topic)
        if value is None:
            raise CorruptPayload(topic, "this chunk is missing")
        return value.payload

    @abc.abstractmethod
    def _replay(self, topic_filter: str, start: Start, prefetch: int) -> AbstractAsyncContextManager[Reader[Delivery]]:
        """Yield the events of a log in order, without a durable: nothing is acknowledged."""

    @abc.abstractmethod
    def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Yield the deliveries to one consumer of a durable. On exit, give back those that were fetched but not read.

        On a queue, call `refuse_overlap` when the durable is created, unless the broker itself refuses (NATS).
        """

    @abc.abstractmethod
    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        """Store a message. If a FIRST topic already has one, drop the new one: `stored` is False."""

    @abc.abstractmethod
    async def _put(self, topic: str, message: bytes, revision: int | None) -> int:
        """Store a value and return its revision; raise Conflict if the current value has another one than `revision`.

        Revision 0 also matches a deleted value (a tombstone). If a FIRST topic has a value, return that one's revision.
        """

    @abc.abstractmethod
    async def _get(self, topic: str) -> Value | None:
        """Return the value of a LAST or FIRST topic; None if there is none, or if it is deleted."""

    @abc.abstractmethod
    async def _delete(self, topic: str) -> None:
        """Delete a value, if there is one. On a LAST topic, watchers receive a `Deleted`."""

    @abc.abstractmethod
    async def _snapshot(self, topic_filter: str) -> list[Value]:
        """Return the values of the LAST topics that match, without the deleted ones."""

    @abc.abstractmethod
    def _watch(self, topic_filter: str) -> AbstractAsyncContextManager[Reader[Value | Deleted]]:
        """Yield the values that exist at the start, then every change. Values deleted before the start are left out."""

    @abc.abstractmethod
    async def _purge(self, topic_filter: str) -> None:
        """Delete every event or FIRST value that matches."""

    @abc.abstractmethod
    async def _stored_topics(self, topic_filter: str) -> frozenset[str]:
        """Return the FIRST topics under a filter that have a payload."""


def refuse_overlap(topic_filter: str, others: Iterable[str]) -> None:
    """Check that no other durable receives the same messages of a queue.

    Args:
        topic_filter: filter of the new durable.
        others: filters of the queue's other durables.

    Raises:
        Unsupported: the new filter overlaps one of the others.
    """
    for other in others:
        if filters.overlap(other, topic_filter):
            raise Unsupported(f"{topic_filter}: another durable takes {other} from the same queue")


class _LoadedChanges(Reader[Value | Deleted]):
    """The changes of a watch, each value with its complete payload.

    This is not an async generator: cancelling `anext` (as `wait_for` does on a timeout) would end a generator.
    """

    def __init__(
        self, changes: Reader[Value | Deleted], load_or_skip: Callable[[Value], Awaitable[Value | None]]
    ) -> None:
        self._changes = changes
        self._load_or_skip = load_or_skip

    async def __anext__(self) -> Value | Deleted:
        while True:
            change = await anext(self._changes)
            if isinstance(change, Deleted):
                return change
            value = await self._load_or_skip(change)
            if value is not None:
                return value

    async def catch_up(self) -> None:
        await self._changes.catch_up()


def _require(topic: str, *keeps: Keep) -> None:
    family = families.family_of(topic)
    if family.keep not in keeps:
        allowed = " or ".join(keep.name for keep in keeps)
        raise Unsupported(f"{topic}: this needs a topic kept as {allowed}, and {family.name} is {family.keep.name}")
