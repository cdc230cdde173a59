"""What a broker does: events (at least once, acknowledged) and retained values (the last one per topic).

Backends override the methods with a leading underscore. Payloads above the backend's inline limit are cut
into chunks here, so neither a caller nor a backend has to think of them.
"""

import abc
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from broker import chunks, families, topics
from broker.errors import CorruptPayload, Unsupported
from broker.families import Keep

Start = Literal["first", "new"] | datetime
"""Where a subscription without a durable name begins to read the log."""

Load = Callable[[str, bytes, int | None], Awaitable[bytes]]
"""Topic, message, at most how many bytes: the payload that the message is or stands for."""

ACK_WAIT_S: Final = 15.0
"""A delivery that is neither acknowledged nor reported as `working` for so long is delivered again."""


@dataclass(frozen=True, slots=True)
class Will:
    """A value that the broker retains for us when our connection ends without a goodbye, where it can (MQTT)."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker has the payload durably.

    Attributes:
        sequence: its place in the log; 0 where the broker does not number its messages.
        stored: False if a write-once topic held a payload already (or the same `dedupe` was seen), and this
            copy was dropped.
    """

    sequence: int
    stored: bool = True


@dataclass(frozen=True, slots=True)
class Value:
    """A retained value."""

    topic: str
    payload: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """A retained value was deleted; what `watch` yields then."""

    topic: str
    revision: int


class Delivery:
    """One event on its way to one subscriber; one without a durable name has nothing to acknowledge.

    Attributes:
        topic: the topic it was published to.
        sequence: its place in the log, increasing; 0 where the broker does not number its messages.
        attempt: 1 on the first delivery, more when it was delivered before.
        time_s: when the broker stored it, seconds since the epoch.
    """

    def __init__(self, topic: str, message: bytes, load: Load, *, sequence: int, attempt: int, time_s: float) -> None:
        self.topic = topic
        self.sequence = sequence
        self.attempt = attempt
        self.time_s = time_s
        self._message = message
        self._load = load

    async def read(self, *, at_most: int | None = None) -> bytes:
        """The payload, put together and checked if it came in chunks.

        Args:
            at_most: refuse a payload that has (or announces) more bytes, before anything is fetched for it.

        Raises:
            CorruptPayload: it is larger than that, chunks are missing, or the bytes do not have the announced
                digest.
        """
        return await self._load(self.topic, self._message, at_most)

    async def ack(self) -> None:
        """Done: do not deliver it again. Acks are not durable: a consumer must be idempotent all the same."""

    async def nak(self, delay_s: float = 0.0) -> None:
        """Not done: deliver it again, to any consumer of the group, not before the delay is over."""

    async def working(self) -> None:
        """Still at it: start the time until redelivery anew."""

    async def answer(self, payload: bytes) -> None:
        """Reply to whoever asked, if the broker knows of someone (topics kept as INBOX only)."""


class Broker(abc.ABC):
    """A connection to a broker, opened by `async with broker.connect(url)`, usable by many tasks at once.

    Every call is bounded in time and survives a reconnection; what can't be done raises a BrokerError.
    """

    inline_limit: int
    """Larger payloads are sent in chunks. Bytes."""

    async def publish(self, topic: str, payload: bytes, *, dedupe: str | None = None) -> Receipt:
        """Publish an event; returns when the broker has it durably.

        Args:
            topic: a name built by `broker.topics`.
            payload: any bytes, of any size.
            dedupe: events with an id that the broker saw in the last two minutes are dropped; a courtesy and
                not a promise (MQTT has no such thing).

        Raises:
            StorageFull: the broker has no room.
            Denied: this user may not publish there.
            Disconnected: the broker did not take it in time; it may have it all the same.
        """
        return await self._publish(topic, await self._inline(topic, payload), dedupe)

    def subscribe(
        self, topic_filter: str, *, durable: str | None = None, start: Start = "first", prefetch: int = 16
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Receive events in the order of the log.

        Args:
            topic_filter: a topic; `*` stands for one level, a last `>` for all further ones. It must lie within
                one family of `broker.topics`.
            durable: name of a group of competing consumers that the broker remembers. Every event goes to
                one of them and is delivered again until one acknowledges it; `start` is for the group's first
                time only. Without a name the subscriber is alone, sees every event and has nothing to
                acknowledge; a broker's restart neither loses nor repeats events for it.
            start: `first`, `new`, or the time from which on to replay.
            prefetch: how many un-acknowledged deliveries to hold at once, at the most.

        Raises:
            Unsupported: a queue is to be replayed, or to be read from elsewhere than its first message on; on entering,
                another durable takes the same messages of a queue.
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
        """Retain a value and return its revision.

        On a write-once topic that has a value already, that value stays, and its revision is returned.

        Args:
            topic: a topic kept as LAST or FIRST.
            payload: not empty.
            revision: compare-and-set: only if this is the value's revision now (0: only if there is none).

        Raises:
            Conflict: the value is at another revision.
            Unsupported: the topic keeps no values, or the payload is empty.
        """
        _require(topic, Keep.FIRST, Keep.LAST)
        if not payload:
            raise Unsupported(f"{topic}: a value can't be empty")
        return await self._put(topic, await self._inline(topic, payload), revision)

    async def get(self, topic: str) -> Value | None:
        """The retained value, or None.

        Raises:
            CorruptPayload: its chunks are missing, or do not have the announced digest.
            Unsupported: the topic keeps no values.
        """
        _require(topic, Keep.FIRST, Keep.LAST)
        found = await self._get(topic)
        return None if found is None else await self._whole(found)

    async def delete(self, topic: str) -> None:
        """Forget a retained value and its chunks, if there is one; watchers of a LAST topic see it go."""
        _require(topic, Keep.FIRST, Keep.LAST)
        await self._delete(topic)
        await self._purge(topics.chunks_of(topic))

    async def snapshot(self, topic_filter: str) -> dict[str, Value]:
        """The values under a filter of LAST topics as they are now, by topic; deleted ones are left out."""
        _require(topic_filter, Keep.LAST)
        found = [await self._whole_or_none(value) for value in await self._snapshot(topic_filter)]
        return {value.topic: value for value in found if value is not None}

    def watch(self, topic_filter: str) -> AbstractAsyncContextManager[AsyncIterator[Value | Deleted]]:
        """The values under a filter of LAST topics, each as it is now and then whenever it changes.

        Someone who is slower than the changes sees the last of them. A value whose chunks are missing is logged and
        passed over, here as in a snapshot: whoever may write one value must not end the readers of all.
        """
        _require(topic_filter, Keep.LAST)
        return self._watched(topic_filter)

    async def purge(self, topic_filter: str) -> None:
        """Forget every event or write-once value under a filter, and its chunks."""
        await self._purge(topic_filter)
        await self._purge(topics.chunks_of(topic_filter))

    @contextlib.asynccontextmanager
    async def _watched(self, topic_filter: str) -> AsyncIterator[AsyncIterator[Value | Deleted]]:
        async with self._watch(topic_filter) as values:
            yield _Wholes(values, self._whole_or_none)

    async def _whole_or_none(self, value: Value) -> Value | None:
        try:
            return await self._whole(value)
        except CorruptPayload as exc:
            # Functions import this module at every cold start, and hardly ever log.
            import structlog

            log = structlog.get_logger(__name__)
            log.warning("a value that can't be read is passed over", topic=value.topic, error=str(exc))
            return None

    async def _whole(self, value: Value) -> Value:
        return Value(value.topic, await self._assembled(value.topic, value.payload), value.revision)

    async def _inline(self, topic: str, payload: bytes) -> bytes:
        """What to send as the message itself: the payload, or the manifest of chunks stored before it."""
        if len(payload) <= self.inline_limit and not chunks.is_manifest(payload):
            return payload
        chunk_bytes = min(chunks.CHUNK_BYTES, self.inline_limit)
        return await chunks.store(self._put_chunk, topic, payload, chunk_bytes=chunk_bytes)

    async def _assembled(self, topic: str, message: bytes, at_most: int | None = None) -> bytes:
        return await chunks.load(self._get_chunk, topic, message, at_most=at_most)

    async def _put_chunk(self, topic: str, payload: bytes) -> None:
        await self._put(topic, payload, None)

    async def _get_chunk(self, topic: str) -> bytes:
        found = await self._get(topic)
        if found is None:
            raise CorruptPayload(topic, "this chunk is missing")
        return found.payload

    @abc.abstractmethod
    def _replay(
        self, topic_filter: str, start: Start, prefetch: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]: ...

    @abc.abstractmethod
    def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]: ...

    @abc.abstractmethod
    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt: ...

    @abc.abstractmethod
    async def _put(self, topic: str, message: bytes, revision: int | None) -> int: ...

    @abc.abstractmethod
    async def _get(self, topic: str) -> Value | None: ...

    @abc.abstractmethod
    async def _delete(self, topic: str) -> None: ...

    @abc.abstractmethod
    async def _snapshot(self, topic_filter: str) -> list[Value]: ...

    @abc.abstractmethod
    def _watch(self, topic_filter: str) -> AbstractAsyncContextManager[AsyncIterator[Value | Deleted]]: ...

    @abc.abstractmethod
    async def _purge(self, topic_filter: str) -> None: ...


class _Wholes(AsyncIterator[Value | Deleted]):
    """Values with their chunks put together.

    No generator: that would be finished for good when a `wait_for` around its `anext` runs out of time.
    """

    def __init__(
        self, values: AsyncIterator[Value | Deleted], whole: Callable[[Value], Awaitable[Value | None]]
    ) -> None:
        self._values = values
        self._whole = whole

    async def __anext__(self) -> Value | Deleted:
        while True:
            change = await anext(self._values)
            if isinstance(change, Deleted):
                return change
            value = await self._whole(change)
            if value is not None:
                return value


def _require(topic: str, *keeps: Keep) -> None:
    family = families.family_of(topic)
    if family.keep not in keeps:
        allowed = " or ".join(keep.name for keep in keeps)
        raise Unsupported(f"{topic}: this needs a topic kept as {allowed}, and {family.name} is {family.keep.name}")


def refuse_overlap(topic_filter: str, others: Iterable[str]) -> None:
    """Check that no other durable takes the same messages of a queue.

    Args:
        topic_filter: what a new durable is to take.
        others: what the queue's other durables take.

    Raises:
        Unsupported: one of them takes a part of it.
    """
    for other in others:
        if topics.overlap(other, topic_filter):
            raise Unsupported(f"{topic_filter}: another durable takes {other} from the same queue")
