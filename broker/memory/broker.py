"""A broker inside the process, with the guarantees of the real ones, for tests and one-process systems.

All connections to `memory://NAME` share one broker. It loses its data when the last connection closes.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from broker import families
from broker.base import Broker, Start, refuse_overlap
from broker.deliveries import Deleted, Delivery, Load, Reader, Receipt, Value
from broker.errors import Unsupported
from broker.families import FAMILIES, Family, Keep
from broker.memory.log import Consumer, Log, Stored
from broker.support.position import Position

T = TypeVar("T")

INLINE_BYTES: Final = 4 << 20
"""The same limit as on NATS, so that the same payloads are split into chunks."""


@dataclass
class _Hub:
    """The state that all connections to one name share.

    Attributes:
        loop: the event loop of all connections.
        logs: the log of each family, by the family's name.
        consumers: the durables, by family and name.
        waiters: the events to set when a family's log changes, by the family's name.
        connections: number of open connections.
        subscriber_ids: numbers for new subscribers.
        clock_offset_s: wall-clock time minus the time of the event loop, in seconds.
    """

    loop: asyncio.AbstractEventLoop
    logs: dict[str, Log] = field(default_factory=lambda: {family.name: Log(family) for family in FAMILIES})
    consumers: dict[tuple[str, str], Consumer] = field(default_factory=dict)
    waiters: dict[str, set[asyncio.Event]] = field(default_factory=lambda: {family.name: set() for family in FAMILIES})
    connections: int = 0
    subscriber_ids: Iterator[int] = field(default_factory=itertools.count)
    clock_offset_s: float = field(init=False)

    def __post_init__(self) -> None:
        # Derived from the loop's clock, wall-clock times never run backwards.
        self.clock_offset_s = time.time() - self.loop.time()

    def now_s(self) -> float:
        """Return the wall-clock time, in seconds since the epoch."""
        return self.clock_offset_s + self.loop.time()

    async def log(self, topic: str) -> Log:
        """Return the log of a topic's family."""
        # Calls of a real broker let other tasks run; so does this one.
        await asyncio.sleep(0)
        return self.logs[families.family_of(topic).name]

    def wake(self, family: Family) -> None:
        """Wake all tasks that wait for a change of a family's log or consumers."""
        for waiter in self.waiters[family.name]:
            waiter.set()

    async def wait(self, family: Family, until_s: float | None) -> None:
        """Wait for the next `wake` of a family, or until a time (wall clock, seconds)."""
        waiter = asyncio.Event()
        self.waiters[family.name].add(waiter)
        try:
            async with asyncio.timeout_at(None if until_s is None else until_s - self.clock_offset_s):
                await waiter.wait()
        except TimeoutError:
            return
        finally:
            self.waiters[family.name].discard(waiter)


_HUBS: Final[dict[str, _Hub]] = {}


@contextlib.asynccontextmanager
async def connect(name: str, *, ack_wait_s: float) -> AsyncIterator[Broker]:
    """Connect to the broker of that name; create it for the first connection.

    Args:
        name: name of the broker.
        ack_wait_s: time in seconds after which an unacknowledged delivery is made again.

    Raises:
        Unsupported: the broker belongs to another event loop.
    """
    loop = asyncio.get_running_loop()
    hub = _HUBS.setdefault(name, _Hub(loop))
    if hub.loop is not loop:
        raise Unsupported(f"memory://{name} belongs to another event loop; use a real broker between threads")
    hub.connections += 1
    try:
        yield MemoryBroker(hub, ack_wait_s)
    finally:
        hub.connections -= 1
        if not hub.connections:
            del _HUBS[name]


class MemoryBroker(Broker):
    """One connection to a broker in this process."""

    inline_limit = INLINE_BYTES

    def __init__(self, hub: _Hub, ack_wait_s: float) -> None:
        self._hub = hub
        self._ack_wait_s = ack_wait_s
        self._connected_since_s = hub.loop.time()

    @property
    def connected_since_s(self) -> float:
        """Implements `Broker.connected_since_s`."""
        return self._connected_since_s

    @contextlib.asynccontextmanager
    async def _replay(
        self,
        topic_filter: str,
        start: Start,
        prefetch: int,  # noqa: ARG002 (nothing is fetched)
    ) -> AsyncIterator[Reader[Delivery]]:
        log = await self._hub.log(topic_filter)

        def to_delivery(stored: Stored) -> Delivery:
            return Delivery(
                stored.topic,
                stored.payload or b"",
                self._load_payload,
                sequence=stored.sequence,
                attempt=1,
                time_s=stored.time_s,
            )

        yield _LogReader(self._hub, log, topic_filter, _cursor(log, start), to_delivery)

    @contextlib.asynccontextmanager
    async def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        log = await self._hub.log(topic_filter)
        consumer = self._hub.consumers.get((log.family.name, durable))
        if consumer is None:
            if log.family.keep is Keep.QUEUE:
                others = [each for (family, _), each in self._hub.consumers.items() if family == log.family.name]
                refuse_overlap(topic_filter, [other.topic_filter for other in others])
            consumer = Consumer(log, topic_filter, _cursor(log, start))
            self._hub.consumers[log.family.name, durable] = consumer
        consumer.topic_filter = topic_filter
        yield _DurableDeliveries(self._hub, consumer, self._load_payload, self._ack_wait_s, prefetch)

    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        log = await self._hub.log(topic)
        receipt = log.append(topic, message, self._hub.now_s(), dedupe)
        self._hub.wake(log.family)
        return receipt

    async def _put(self, topic: str, message: bytes, revision: int | None) -> int:
        log = await self._hub.log(topic)
        new_revision = log.put(topic, message, self._hub.now_s(), revision)
        self._hub.wake(log.family)
        return new_revision

    async def _get(self, topic: str) -> Value | None:
        stored = (await self._hub.log(topic)).value(topic)
        if stored is None or stored.payload is None:
            return None
        return Value(topic, stored.payload, stored.sequence, stored.time_s)

    async def _delete(self, topic: str) -> None:
        log = await self._hub.log(topic)
        if log.family.keep is Keep.FIRST:
            log.purge(topic)
        elif await self._get(topic) is not None:
            log.put(topic, None, self._hub.now_s(), None)
            self._hub.wake(log.family)

    async def _snapshot(self, topic_filter: str) -> list[Value]:
        log = await self._hub.log(topic_filter)
        return [
            Value(stored.topic, stored.payload, stored.sequence, stored.time_s)
            for stored in log.values(topic_filter)
            if stored.payload is not None
        ]

    @contextlib.asynccontextmanager
    async def _watch(self, topic_filter: str) -> AsyncIterator[Reader[Value | Deleted]]:
        yield _LogReader(self._hub, await self._hub.log(topic_filter), topic_filter, 0, _to_change)

    async def _stored_topics(self, topic_filter: str) -> frozenset[str]:
        return frozenset(stored.topic for stored in (await self._hub.log(topic_filter)).values(topic_filter))

    async def _purge(self, topic_filter: str) -> None:
        (await self._hub.log(topic_filter)).purge(topic_filter)


class _AckableDelivery(Delivery):
    """A delivery to a subscriber of a durable."""

    def __init__(self, deliveries: "_DurableDeliveries", stored: Stored, attempt: int, load: Load) -> None:
        super().__init__(
            stored.topic,
            stored.payload or b"",
            load,
            sequence=stored.sequence,
            attempt=attempt,
            time_s=stored.time_s,
        )
        self._deliveries = deliveries

    async def ack(self) -> None:
        self._deliveries.consumer.ack(self.sequence)
        self._deliveries.wake()

    async def nak(self, delay_s: float = 0.0) -> None:
        self._deliveries.consumer.nak(self.sequence, self._deliveries.hub.now_s() + delay_s)
        self._deliveries.wake()

    async def working(self) -> None:
        self._deliveries.consumer.extend(self.sequence, self._deliveries.hub.now_s() + self._deliveries.ack_wait_s)


class _DurableDeliveries(AsyncIterator[Delivery]):
    """The deliveries to one subscriber of a durable."""

    def __init__(self, hub: _Hub, consumer: Consumer, load: Load, ack_wait_s: float, prefetch: int) -> None:
        self.hub, self.consumer, self.ack_wait_s = hub, consumer, ack_wait_s
        self._load = load
        self._prefetch = prefetch
        self._subscriber = next(hub.subscriber_ids)

    def wake(self) -> None:
        self.hub.wake(self.consumer.log.family)

    async def __anext__(self) -> Delivery:
        await asyncio.sleep(0)
        while True:
            now_s = self.hub.now_s()
            due_times_s = self.consumer.due_times_s(self._subscriber, now_s)
            due_s: float | None
            if len(due_times_s) >= self._prefetch:
                due_s = min(due_times_s)
            elif message := self.consumer.take(self._subscriber, now_s, self.ack_wait_s):
                return _AckableDelivery(self, *message, self._load)
            else:
                due_s = self.consumer.next_due_s()
            await self.hub.wait(self.consumer.log.family, due_s)


class _LogReader(Reader[T]):
    """Reads a log from a position on, without end.

    Args:
        hub: the shared state.
        log: the log to read.
        topic_filter: filter for the topics.
        cursor: sequence of the last message to skip; 0 for none.
        convert: makes an item from a message.
    """

    def __init__(self, hub: _Hub, log: Log, topic_filter: str, cursor: int, convert: Callable[[Stored], T]) -> None:
        self._hub = hub
        self._log = log
        self._filter = topic_filter
        self._cursor = cursor
        self._convert = convert
        self._start = log.last_sequence
        self._read = Position(cursor)

    async def catch_up(self) -> None:
        await self._read.wait_for(self._log.last_sequence)

    async def __anext__(self) -> T:
        self._read.advance(self._cursor)
        await asyncio.sleep(0)
        while True:
            for message in self._log.after(self._cursor, self._filter):
                # A value that was deleted before the reader started is not reported.
                if message.payload is not None or message.sequence > self._start:
                    self._cursor = message.sequence
                    return self._convert(message)
            self._cursor = self._log.last_sequence
            self._read.advance(self._cursor)
            await self._hub.wait(self._log.family, None)


def _cursor(log: Log, start: Start) -> int:
    """Return the sequence of the last message before the start of a subscription."""
    match start:
        case "first":
            return 0
        case "new":
            return log.last_sequence
        case _:
            return log.before(start.timestamp())


def _to_change(stored: Stored) -> Value | Deleted:
    if stored.payload is None:
        return Deleted(stored.topic, stored.sequence)
    return Value(stored.topic, stored.payload, stored.sequence, stored.time_s)
