"""Subscribers without a durable: a log from a start on, or values and their changes."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Generic, TypeVar

from broker.base import Start
from broker.deliveries import Deleted, Delivery, Load, Reader, Value
from broker.mqtt import storage
from broker.mqtt.client import Message
from broker.mqtt.group import DEDUPE_WINDOW_US
from broker.mqtt.storage import MICROSECONDS, Entry, NameFactory
from broker.support.position import Position

T = TypeVar("T")


class _Queue(Reader[T], Generic[T]):
    """An unbounded queue as a reader.

    Attributes:
        receive_all: returns when everything that the broker holds now is in the queue. Set it before `catch_up`.
    """

    receive_all: Callable[[], Awaitable[None]]

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._pushed = self._popped = 0
        self._read = Position()

    async def catch_up(self) -> None:
        await self.receive_all()
        await self._read.wait_for(self._pushed)

    async def __anext__(self) -> T:
        self._read.advance(self._popped)
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        self._popped += 1
        return self._items.popleft()

    def _push(self, item: T) -> None:
        self._pushed += 1
        self._items.append(item)
        self._arrived.set()


class ReplayedEvents(_Queue[Delivery]):
    """The events of a log: the retained ones in the order of their publishers' clocks, then new ones as they come.

    Args:
        topic_filter: filter of the events.
        start: where in the log to start.
        load: reads a payload.
        names: names the events of plain MQTT clients.
    """

    def __init__(self, topic_filter: str, start: Start, load: Load, names: NameFactory) -> None:
        super().__init__()
        self._filter = topic_filter
        self._load = load
        self._names = names
        self._seen: set[str] = set()
        self._latest: dict[tuple[str, str], int] = {}
        self._is_delivering = start != "new"
        self._first_sequence = int(start.timestamp() * MICROSECONDS) if isinstance(start, datetime) else 0

    def on_snapshot(self, payloads: dict[str, bytes]) -> None:
        """Implements `Listener.on_snapshot`."""
        for entry in storage.parse_entries(self._filter, payloads):
            self._add(entry)
        self._is_delivering = True

    def on_message(self, message: Message) -> None:
        """Implements `Listener.on_message`."""
        if not message.payload:
            return
        if entry := storage.parse_entry(self._filter, message.topic, message.payload):
            self._add(entry)
        elif topic := storage.plain_topic(self._filter, message.topic):
            self._add(Entry(message.topic, topic, self._names.next(), message.payload))

    def _add(self, entry: Entry) -> None:
        """Deliver an event, unless it was delivered before, is a copy of another one, or lies before the start."""
        key_and_sequence = f"{entry.key} {entry.name.sequence}"
        if key_and_sequence in self._seen:
            return
        self._seen.add(key_and_sequence)
        identity, name = (entry.topic, entry.name.id), entry.name
        previous = self._latest.get(identity, name.sequence)
        self._latest[identity] = name.sequence
        is_copy = 0 < abs(name.sequence - previous) < DEDUPE_WINDOW_US
        if is_copy or not self._is_delivering or name.sequence < self._first_sequence:
            return
        self._push(
            Delivery(entry.topic, entry.message, self._load, sequence=name.sequence, attempt=1, time_s=name.time_s)
        )


class WatchedValues(_Queue[Value | Deleted]):
    """The values under a filter and their changes. A value that was deleted before the start is left out.

    Args:
        topic_filter: filter of the values.
        names: makes the revisions of deletions.
    """

    def __init__(self, topic_filter: str, names: NameFactory) -> None:
        super().__init__()
        self._filter = topic_filter
        self._names = names
        self._known: dict[str, Value] = {}
        self._fetched: dict[str, int] = {}

    def on_snapshot(self, payloads: dict[str, bytes]) -> None:
        """Implements `Listener.on_snapshot`."""
        changes = (self._decode(key, payload) for key, payload in payloads.items())
        values = [change for change in changes if isinstance(change, Value)]
        self._fetched = {value.topic: value.revision for value in values}
        for topic in [topic for topic in self._known if topic not in self._fetched]:
            self._delete(topic)
        for value in sorted(values, key=lambda value: value.revision):
            self._set(value)

    def on_message(self, message: Message) -> None:
        """Implements `Listener.on_message`."""
        change = self._decode(message.topic, message.payload)
        if isinstance(change, Deleted) and change.topic in self._known:
            self._delete(change.topic)
        # A value older than the fetched one is skipped: the fetched one comes as a message, too.
        elif isinstance(change, Value) and change.revision >= self._fetched.pop(change.topic, 0):
            self._set(change)

    def _decode(self, key: str, payload: bytes) -> Value | Deleted | None:
        topic = storage.plain_topic(self._filter, key)
        return None if topic is None else storage.decode_value(topic, payload)[0]

    def _set(self, value: Value) -> None:
        known = self._known.get(value.topic)
        if known is None or known.revision != value.revision:
            self._known[value.topic] = value
            self._push(value)

    def _delete(self, topic: str) -> None:
        del self._known[topic]
        self._push(Deleted(topic, self._names.next().sequence))
