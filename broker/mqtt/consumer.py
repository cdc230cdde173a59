"""One member of a durable's group: it claims as many events as it has room for, and gives back what it did not read."""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from broker.deliveries import Delivery, Load
from broker.errors import BrokerError, Disconnected
from broker.families import Keep, family_of
from broker.mqtt import feed, storage
from broker.mqtt.client import Message
from broker.mqtt.group import Group, GroupMessage, GroupSettings
from broker.mqtt.inbound import InboundSession
from broker.mqtt.link import Link
from broker.mqtt.storage import Entry
from broker.support import loggers
from broker.support.tasks import task_group

CLAIMS_AT_ONCE: Final = 32

_ended: Final[set[str]] = set()
"""The members of this process whose connection ended because the store is older: they could not give back what that
store says they have. It comes at once to the members that follow them."""

_log = loggers.get_logger(__name__)


class GroupConsumer(AsyncIterator[Delivery]):
    """The deliveries of one member of a group; use it inside `async with consumer.running()`.

    Args:
        link: the link to the broker.
        durable: name of the group.
        settings: settings of the group.
        load: reads a payload.
        prefetch: most events that this member has at once.

    Attributes:
        inbound: the session that can reply to plain MQTT clients; None: they do not write to these topics.
    """

    def __init__(
        self,
        link: Link,
        durable: str,
        settings: GroupSettings,
        *,
        load: Load,
        prefetch: int,
    ) -> None:
        self.inbound: InboundSession | None = None
        self._link = link
        self._key = storage.group_key(durable)
        self._filter = settings.topic_filter
        self._family = family_of(settings.topic_filter)
        self._prefetch = prefetch
        self._load = load
        self._me = secrets.token_hex(6)
        self._group = Group(self._me, settings, _ended)
        self._loop = asyncio.get_running_loop()
        self._unread: deque[tuple[Entry, int]] = deque()
        self._in_flight: dict[str, int] = {}
        self._stored_s: dict[str, float] = {}  # by entry, on the loop's clock
        self._copies: deque[str] = deque()
        self._changed = asyncio.Event()  # wakes `_claim_events`
        self._arrived = asyncio.Event()  # wakes `__anext__`
        self._claim_slots = asyncio.Semaphore(CLAIMS_AT_ONCE)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be a member of the group during the block.

        Raises:
            Denied: this user may not read or claim these events.
            Disconnected: the broker did not reply in time.
        """
        entries = storage.entries_filter(self._filter)
        async with feed.follow(self._link, (f"{self._key}/#", entries), self):
            try:
                async with task_group() as group:
                    task = group.create_task(self._claim_events(group), name=f"mqtt claims of {self._filter}")
                    yield
                    task.cancel()
                    # The task group waits for claims that are being published; they are given back below.
            finally:
                if self._link.has_ended:
                    _ended.add(self._me)
                for entry, n in self._unread:
                    await self.give_back(entry, n, 0.0)
                for key, n in self._group.pending.items():
                    with contextlib.suppress(BrokerError):
                        await self._publish(key, GroupMessage("free", self._me, n))

    async def __anext__(self) -> Delivery:
        while True:
            while not self._unread:
                self._arrived.clear()
                await self._arrived.wait()
            entry, n = self._unread.popleft()
            if self._group.is_mine(entry.key, n, self._loop.time()):
                delivery = _GroupDelivery(self, entry, n, self._load)
                if (stored_s := self._stored_s.get(entry.key)) is not None:
                    delivery.age_s = self._loop.time() - stored_s
                return delivery

    async def acknowledge(self, entry: Entry, n: int) -> None:
        """Tell the group that an event needs no further delivery; an event of a queue is deleted.

        Args:
            entry: the event.
            n: number of the delivery.
        """
        message = GroupMessage("done", self._me, n)
        self._free_room(entry.key)
        self._group.apply(entry.key, message, self._loop.time())
        try:
            if self._family.keep is Keep.QUEUE:
                await asyncio.gather(*(self._link.publish(key, b"") for key in (entry.key, self._state_key(entry.key))))
            else:
                await self._publish(entry.key, message)
        except Disconnected as exc:
            _log.debug("not acknowledged", topic=entry.topic, error=str(exc))

    async def give_back(self, entry: Entry, n: int, delay_s: float) -> None:
        """Tell the group that any member may have an event.

        Args:
            entry: the event.
            n: number of the delivery.
            delay_s: time until the next delivery, in seconds.
        """
        self._free_room(entry.key)
        await self._try_publish(entry, GroupMessage("free", self._me, n, delay_s))

    async def extend(self, entry: Entry, n: int) -> None:
        """Restart the time until an event is delivered again.

        Args:
            entry: the event.
            n: number of the delivery.
        """
        message = GroupMessage("hold", self._me, n)
        if self._group.is_mine(entry.key, n, self._loop.time()):
            self._group.apply(entry.key, message, self._loop.time())
            await self._try_publish(entry, message)

    def on_snapshot(self, payloads: dict[str, bytes]) -> None:
        """Implements `Listener.on_snapshot`."""
        entries = storage.parse_entries(self._filter, payloads)
        keys = {entry.key for entry in entries}
        self._group.keep_only(keys)
        self._stored_s = {key: stored_s for key, stored_s in self._stored_s.items() if key in keys}
        for key, payload in payloads.items():
            self._apply(key, payload)
        for entry in entries:
            self._add(entry)
        self._changed.set()

    def on_message(self, message: Message) -> None:
        """Implements `Listener.on_message`."""
        if message.topic.startswith(self._key):
            self._apply(message.topic, message.payload)
        elif not message.payload:
            self._group.remove(message.topic)
            self._stored_s.pop(message.topic, None)
        elif entry := storage.parse_entry(self._filter, message.topic, message.payload):
            # The group remembers it. If the broker forgets it, that must be noticed, although we have not written.
            self._link.store.note()
            if message.expires_s is not None:
                # The broker counts the lifetime down, so the rest tells for how long it has had the message.
                self._stored_s[entry.key] = self._loop.time() - (self._family.max_age_s - message.expires_s)
            self._add(entry)
        self._changed.set()

    def _add(self, entry: Entry) -> None:
        if not self._group.add(entry) and self._family.keep is Keep.QUEUE:
            self._copies.append(entry.key)

    def _apply(self, key: str, payload: bytes) -> None:
        """Apply a member's message, if the MQTT message is one."""
        entry_key = key.removeprefix(f"{self._key}/")
        if entry_key == key or not payload:
            return
        try:
            message = msgspec.json.decode(payload, type=GroupMessage)
        except msgspec.DecodeError:
            _log.warning("unreadable claim", topic=key)
            return
        entry = self._group.apply(entry_key, message, self._loop.time())
        if entry is not None:
            self._in_flight[entry.key] = message.n
            self._unread.append((entry, message.n))
            self._arrived.set()

    async def _claim_events(self, group: asyncio.TaskGroup) -> None:
        """Claim free events while there is room, and delete copies."""
        while True:
            while self._copies:
                await self._link.publish(self._copies.popleft(), b"")
            while self._room() and (claim := self._group.claim_next(self._loop.time())):
                group.create_task(self._claim(*claim), name=f"mqtt claim of {claim[0].key}")
            self._changed.clear()
            # A copy may have come during the deletions, before `clear`.
            if not self._copies:
                if self._room():
                    wake_s = self._group.next_free_at_s()
                else:
                    wake_s = min((self._group.free_at_s(key) for key in self._in_flight), default=None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(wake_s):
                        await self._changed.wait()

    async def _claim(self, entry: Entry, n: int) -> None:
        async with self._claim_slots:
            await self._publish(entry.key, GroupMessage("take", self._me, n))

    def _room(self) -> int:
        """Return how many more events this member may claim."""
        now_s = self._loop.time()
        for key, n in list(self._in_flight.items()):
            if not self._group.is_mine(key, n, now_s):
                del self._in_flight[key]
        return self._prefetch - len(self._in_flight) - len(self._group.pending)

    def _free_room(self, key: str) -> None:
        self._in_flight.pop(key, None)
        self._changed.set()

    async def _try_publish(self, entry: Entry, message: GroupMessage) -> None:
        """Publish a message to the group. If that fails, the event is delivered again after the ack wait."""
        try:
            await self._publish(entry.key, message)
        except Disconnected as exc:
            _log.debug("group message not published", what=message.what, topic=entry.topic, error=str(exc))

    async def _publish(self, entry_key: str, message: GroupMessage) -> None:
        payload = msgspec.json.encode(message)
        await self._link.publish(self._state_key(entry_key), payload, expires_s=self._family.max_age_s)

    def _state_key(self, entry_key: str) -> str:
        return f"{self._key}/{entry_key}"


class _GroupDelivery(Delivery):
    """An event that a member has until it acknowledges it, gives it back, or the ack wait is over."""

    def __init__(self, consumer: GroupConsumer, entry: Entry, n: int, load: Load) -> None:
        name = entry.name
        super().__init__(entry.topic, entry.message, load, sequence=name.sequence, attempt=n, time_s=name.time_s)
        self._consumer = consumer
        self._entry = entry

    async def ack(self) -> None:
        await self._consumer.acknowledge(self._entry, self.attempt)

    async def nak(self, delay_s: float = 0.0) -> None:
        await self._consumer.give_back(self._entry, self.attempt, delay_s)

    async def working(self) -> None:
        await self._consumer.extend(self._entry, self.attempt)

    async def answer(self, payload: bytes) -> None:
        if self._consumer.inbound is not None:
            await self._consumer.inbound.answer(self._entry, payload)
