"""A broker inside the process, with the promises of the real ones: for tests, and for one-process systems.

`memory://NAME` is one broker for all who hold that name; it forgets everything when the last of them is gone.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from broker import families
from broker.base import Broker, Deleted, Delivery, Load, Receipt, Start, Value, refuse_overlap
from broker.errors import Unsupported
from broker.families import FAMILIES, Family, Keep
from broker.memory.log import Consumer, Log, Stored

T = TypeVar("T")

INLINE_BYTES: Final = 4 << 20
"""As on a real broker, so that the same payloads take the way through chunks."""


@dataclass
class _Hub:
    """What all brokers of one name share."""

    loop: asyncio.AbstractEventLoop
    logs: dict[str, Log] = field(default_factory=lambda: {family.name: Log(family) for family in FAMILIES})
    consumers: dict[tuple[str, str], Consumer] = field(default_factory=dict)
    sleepers: dict[str, set[asyncio.Event]] = field(default_factory=lambda: {f.name: set() for f in FAMILIES})
    holders: int = 0
    names: Iterator[int] = field(default_factory=itertools.count)
    epoch_s: float = field(init=False)

    def __post_init__(self) -> None:
        # Wall-clock times that never run backwards, and differ from the loop's clock by a constant.
        self.epoch_s = time.time() - self.loop.time()

    def now_s(self) -> float:
        return self.epoch_s + self.loop.time()

    async def log(self, topic: str) -> Log:
        # A real broker's answer takes a moment in which others have their turn; so does this one's.
        await asyncio.sleep(0)
        return self.logs[families.family_of(topic).name]

    def wake(self, family: Family) -> None:
        for sleeper in self.sleepers[family.name]:
            sleeper.set()

    async def sleep(self, family: Family, until_s: float | None) -> None:
        """Until something happens in a family, or a time has come."""
        awake = asyncio.Event()
        self.sleepers[family.name].add(awake)
        try:
            async with asyncio.timeout_at(None if until_s is None else until_s - self.epoch_s):
                await awake.wait()
        except TimeoutError:
            return
        finally:
            self.sleepers[family.name].discard(awake)


_HUBS: Final[dict[str, _Hub]] = {}


@contextlib.asynccontextmanager
async def connect(name: str, *, ack_wait_s: float) -> AsyncIterator[Broker]:
    """Hold the broker of that name, making it if nobody holds it yet.

    Raises:
        Unsupported: it belongs to another event loop.
    """
    loop = asyncio.get_running_loop()
    hub = _HUBS.setdefault(name, _Hub(loop))
    if hub.loop is not loop:
        raise Unsupported(f"memory://{name} belongs to another event loop; use a real broker between threads")
    hub.holders += 1
    try:
        yield MemoryBroker(hub, ack_wait_s)
    finally:
        hub.holders -= 1
        if not hub.holders:
            del _HUBS[name]


class MemoryBroker(Broker):
    """One holder's view of a broker in this process."""

    inline_limit = INLINE_BYTES

    def __init__(self, hub: _Hub, ack_wait_s: float) -> None:
        self._hub = hub
        self._ack_wait_s = ack_wait_s

    @contextlib.asynccontextmanager
    async def _replay(
        self,
        topic_filter: str,
        start: Start,
        prefetch: int,  # noqa: ARG002 (nothing is fetched)
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        log = await self._hub.log(topic_filter)
        yield _Tail(self._hub, log, topic_filter, self._first(log, start), self._replayed)

    @contextlib.asynccontextmanager
    async def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        consumer = self._consumer(await self._hub.log(topic_filter), durable, topic_filter, start)
        yield _Shared(self._hub, consumer, self._load_payload, self._ack_wait_s, prefetch)

    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        log = await self._hub.log(topic)
        receipt = log.append(topic, message, self._hub.now_s(), dedupe)
        self._hub.wake(log.family)
        return receipt

    async def _put(self, topic: str, message: bytes, revision: int | None) -> int:
        log = await self._hub.log(topic)
        stored = log.put(topic, message, self._hub.now_s(), revision)
        self._hub.wake(log.family)
        return stored

    async def _get(self, topic: str) -> Value | None:
        found = (await self._hub.log(topic)).value(topic)
        return None if found is None or found.payload is None else Value(topic, found.payload, found.sequence)

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
            Value(one.topic, one.payload, one.sequence) for one in log.values(topic_filter) if one.payload is not None
        ]

    @contextlib.asynccontextmanager
    async def _watch(self, topic_filter: str) -> AsyncIterator[AsyncIterator[Value | Deleted]]:
        yield _Tail(self._hub, await self._hub.log(topic_filter), topic_filter, 0, _change)

    async def _purge(self, topic_filter: str) -> None:
        (await self._hub.log(topic_filter)).purge(topic_filter)

    def _replayed(self, stored: Stored) -> Delivery:
        return Delivery(
            stored.topic,
            stored.payload or b"",
            self._load_payload,
            sequence=stored.sequence,
            attempt=1,
            time_s=stored.time_s,
        )

    def _first(self, log: Log, start: Start) -> int:
        match start:
            case "first":
                return 0
            case "new":
                return log.last_sequence
            case _:
                return log.before(start.timestamp())

    def _consumer(self, log: Log, durable: str, topic_filter: str, start: Start) -> Consumer:
        found = self._hub.consumers.get((log.family.name, durable))
        if found is not None:
            found.topic_filter = topic_filter
            return found
        if log.family.keep is Keep.QUEUE:
            queue = [c.topic_filter for (family, _), c in self._hub.consumers.items() if family == log.family.name]
            refuse_overlap(topic_filter, queue)
        made = Consumer(log, topic_filter, self._first(log, start))
        self._hub.consumers[log.family.name, durable] = made
        return made


class _Taken(Delivery):
    """A message that a subscriber of a durable holds."""

    def __init__(self, shared: "_Shared", stored: Stored, attempt: int, load: Load) -> None:
        super().__init__(
            stored.topic,
            stored.payload or b"",
            load,
            sequence=stored.sequence,
            attempt=attempt,
            time_s=stored.time_s,
        )
        self._shared = shared

    async def ack(self) -> None:
        self._shared.consumer.ack(self.sequence)
        self._shared.wake()

    async def nak(self, delay_s: float = 0.0) -> None:
        self._shared.consumer.nak(self.sequence, self._shared.hub.now_s() + delay_s)
        self._shared.wake()

    async def working(self) -> None:
        self._shared.consumer.extend(self.sequence, self._shared.hub.now_s() + self._shared.ack_wait_s)


class _Shared(AsyncIterator[Delivery]):
    """One subscriber of a durable."""

    def __init__(self, hub: _Hub, consumer: Consumer, load: Load, ack_wait_s: float, prefetch: int) -> None:
        self.hub, self.consumer, self.ack_wait_s = hub, consumer, ack_wait_s
        self._load = load
        self._prefetch = prefetch
        self._name = next(hub.names)

    def wake(self) -> None:
        self.hub.wake(self.consumer.log.family)

    async def __anext__(self) -> Delivery:
        await asyncio.sleep(0)
        while True:
            now_s = self.hub.now_s()
            held = self.consumer.held(self._name, now_s)
            due_s: float | None
            if len(held) >= self._prefetch:
                due_s = min(held)
            elif taken := self.consumer.take(self._name, now_s, self.ack_wait_s):
                return _Taken(self, *taken, self._load)
            else:
                due_s = self.consumer.next_due_s()
            await self.hub.sleep(self.consumer.log.family, due_s)


class _Tail(AsyncIterator[T]):
    """A log from a place on, for ever."""

    def __init__(self, hub: _Hub, log: Log, topic_filter: str, cursor: int, show: Callable[[Stored], T]) -> None:
        self._hub, self._log, self._filter, self._cursor, self._show = hub, log, topic_filter, cursor, show
        self._began = log.last_sequence

    async def __anext__(self) -> T:
        await asyncio.sleep(0)
        while (found := self._next()) is None:
            self._cursor = self._log.last_sequence
            await self._hub.sleep(self._log.family, None)
        self._cursor = found.sequence
        return self._show(found)

    def _next(self) -> Stored | None:
        """The next message; values that had been deleted before the beginning are no news."""
        return next((m for m in self._log.after(self._cursor, self._filter) if not self._is_old_news(m)), None)

    def _is_old_news(self, message: Stored) -> bool:
        return message.payload is None and message.sequence <= self._began


def _change(stored: Stored) -> Value | Deleted:
    if stored.payload is None:
        return Deleted(stored.topic, stored.sequence)
    return Value(stored.topic, stored.payload, stored.sequence)
