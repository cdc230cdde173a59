"""What subscribers without a durable name get: the log from a place on, or values as they are and as they change."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, Generic, TypeVar

from broker.base import Deleted, Delivery, Load, Start, Value
from broker.mqtt import storage
from broker.mqtt.client import Message
from broker.mqtt.group import DEDUPE_WINDOW_US
from broker.mqtt.storage import Entry, Names

T = TypeVar("T")

MICRO: Final = 1_000_000


class _Backlog(AsyncIterator[T], Generic[T]):
    """What came and was not looked at yet."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self._arrived = asyncio.Event()

    async def __anext__(self) -> T:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def _lay(self, one: T) -> None:
        self._waiting.append(one)
        self._arrived.set()


class Replayed(_Backlog[Delivery]):
    """A log: what lies there, by the clocks of those who published it, and then whatever comes, as it comes."""

    def __init__(self, topic_filter: str, start: Start, load: Load, names: Names) -> None:
        super().__init__()
        self._filter = topic_filter
        self._load = load
        self._names = names
        self._seen: set[str] = set()
        self._ids: dict[tuple[str, str], int] = {}
        self._is_news = start != "new"
        self._since = int(start.timestamp() * MICRO) if isinstance(start, datetime) else 0

    def synced(self, found: dict[str, Message]) -> None:
        """See Listener."""
        parsed = [storage.entry(self._filter, key, message.payload) for key, message in found.items()]
        for entry in sorted((one for one in parsed if one is not None), key=lambda one: (one.name.sequence, one.key)):
            self._take(entry)
        self._is_news = True

    def heard(self, message: Message) -> None:
        """See Listener."""
        if not message.payload:
            return
        if entry := storage.entry(self._filter, message.topic, message.payload):
            self._take(entry)
        elif topic := storage.bare(self._filter, message.topic):
            self._take(Entry(message.topic, topic, self._names.next(), message.payload))

    def _take(self, entry: Entry) -> None:
        known = f"{entry.key} {entry.name.sequence}"
        if known in self._seen:
            return
        self._seen.add(known)
        if self._is_copy(entry) or not self._is_news or entry.name.sequence < self._since:
            return
        name = entry.name
        self._lay(
            Delivery(entry.topic, entry.message, self._load, sequence=name.sequence, attempt=1, time_s=name.time_s)
        )

    def _is_copy(self, entry: Entry) -> bool:
        about = (entry.topic, entry.name.id)
        first = self._ids.setdefault(about, entry.name.sequence)
        self._ids[about] = entry.name.sequence
        return 0 < abs(entry.name.sequence - first) < DEDUPE_WINDOW_US


class Watched(_Backlog[Value | Deleted]):
    """Values as they are and as they change; those that were deleted before are no news."""

    def __init__(self, topic_filter: str, names: Names) -> None:
        super().__init__()
        self._filter = topic_filter
        self._names = names
        self._known: dict[str, Value] = {}
        self._fetched: dict[str, int] = {}

    def synced(self, found: dict[str, Message]) -> None:
        """See Listener."""
        changes = (self._change(message) for message in found.values())
        values = [change for change in changes if isinstance(change, Value)]
        self._fetched = {value.topic: value.revision for value in values}
        for topic in [topic for topic in self._known if topic not in self._fetched]:
            self._delete(topic)
        for value in sorted(values, key=lambda value: value.revision):
            self._take(value)

    def heard(self, message: Message) -> None:
        """See Listener."""
        change = self._change(message)
        if isinstance(change, Deleted) and change.topic in self._known:
            self._delete(change.topic)
        # Otherwise what was fetched is newer than this, and comes in its turn.
        elif isinstance(change, Value) and change.revision >= self._fetched.pop(change.topic, 0):
            self._take(change)

    def _change(self, message: Message) -> Value | Deleted | None:
        topic = storage.bare(self._filter, message.topic)
        return None if topic is None else storage.unframed(topic, message.payload)[0]

    def _take(self, value: Value) -> None:
        known = self._known.get(value.topic)
        if known is None or known.revision != value.revision:
            self._known[value.topic] = value
            self._lay(value)

    def _delete(self, topic: str) -> None:
        del self._known[topic]
        self._lay(Deleted(topic, self._names.next().sequence))
