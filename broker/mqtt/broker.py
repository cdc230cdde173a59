"""The broker on MQTT alone, such as Mosquitto: everything is a retained message. docs/mqtt.md describes the limits."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from broker import chunks
from broker.base import Broker, Start, refuse_overlap
from broker.deliveries import Deleted, Delivery, Reader, Receipt, Value, Will
from broker.families import Keep, family_of
from broker.mqtt import feed, inbound, mark, storage
from broker.mqtt import link as mqtt_link
from broker.mqtt.consumer import GroupConsumer
from broker.mqtt.group import DEDUPE_WINDOW_US, GroupSettings
from broker.mqtt.link import Link
from broker.mqtt.replay import ReplayedEvents, WatchedValues
from broker.mqtt.storage import MICROSECONDS, Name, NameFactory
from broker.mqtt.values import Values
from broker.url import BrokerUrl

INLINE_BYTES: Final = 4 << 20
DEDUPE_S: Final = DEDUPE_WINDOW_US / MICROSECONDS


@contextlib.asynccontextmanager
async def connect(
    address: BrokerUrl, *, name: str, ack_wait_s: float, will: Will | None = None, provision: bool = True
) -> AsyncIterator[Broker]:
    """Connect during the block, and check that the broker's retained messages are of this version.

    Args:
        address: the broker's address.
        name: name of this program.
        ack_wait_s: time until an unacknowledged event is delivered again, in seconds.
        will: value that the broker retains for us if the connection ends without a disconnect.
        provision: whether to mark a broker that retains nothing of ours.

    Raises:
        ConnectFailed: there is no broker at the address, it refuses the connection, or it retains no messages.
        NoSystem: the broker has no mark, and `provision` is False.
        OldStore: the broker retains messages of version 0.1.
        Unsupported: the broker retains messages of another version.
    """
    async with mqtt_link.open_link(address, name, will) as link:
        link.store.mark = await mark.ensure(link, provision=provision)
        async with link.counting():
            yield MqttBroker(link, ack_wait_s)


class MqttBroker(Broker):
    """Implements `Broker`. Sequences and revisions are microseconds since the epoch on the publisher's clock."""

    def __init__(self, link: Link, ack_wait_s: float) -> None:
        self.inline_limit = min(INLINE_BYTES, link.max_message_bytes)
        self._link = link
        self._ack_wait_s = ack_wait_s
        self._names = NameFactory()
        self._values = Values(link, self._names)
        self._recent: dict[tuple[str, str], Name] = {}

    @property
    def connected_since_s(self) -> float:
        """Implements `Broker.connected_since_s`."""
        return self._link.connected_since_s

    @contextlib.asynccontextmanager
    async def _replay(
        self,
        topic_filter: str,
        start: Start,
        prefetch: int,  # noqa: ARG002 (an MQTT subscription has no flow control)
    ) -> AsyncIterator[Reader[Delivery]]:
        events = ReplayedEvents(topic_filter, start, self._read_payload, self._names)
        async with feed.follow(self._link, (storage.entries_filter(topic_filter),), events) as following:
            events.receive_all = following.receive_all
            yield events

    @contextlib.asynccontextmanager
    async def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        settings = await self._group_settings(topic_filter, durable, start)
        consumer = GroupConsumer(self._link, durable, settings, load=self._read_payload, prefetch=prefetch)
        # The consumer listens before the session makes events of what has waited in it.
        async with (
            consumer.running(),
            inbound.open_session(self._link, topic_filter, durable, self._names) as consumer.inbound,
        ):
            yield consumer

    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        family = family_of(topic)
        if family.keep is Keep.FIRST:
            return await self._values.write_once(topic, message)
        if family.keep is Keep.LAST:
            return Receipt(await self._values.put(topic, message, None))
        name = self._names.next(dedupe)
        for old in [key for key, recent in self._recent.items() if recent.time_s < name.time_s - DEDUPE_S]:
            del self._recent[old]
        known = self._recent.get((topic, name.id))
        if dedupe is not None and known is not None:
            return Receipt(known.sequence, stored=False)
        key = storage.entry_key(topic, name)
        # A manifest of chunks does not have the content type of the family's events.
        content_type = "" if chunks.is_manifest(message) else family.content_type
        await self._link.publish(key, storage.escape(message), expires_s=family.max_age_s, content_type=content_type)
        self._recent[topic, name.id] = name
        if family.keep is Keep.LOG:
            self._link.store.note_last(key)
        return Receipt(name.sequence)

    async def _put(self, topic: str, message: bytes, revision: int | None) -> int:
        return await self._values.put(topic, message, revision)

    async def _get(self, topic: str) -> Value | None:
        return await self._values.get(topic)

    async def _delete(self, topic: str) -> None:
        self._link.store.forget_last()
        if family_of(topic).keep is Keep.FIRST:
            await self._values.purge(topic)
        else:
            await self._values.delete(topic)

    async def _snapshot(self, topic_filter: str) -> list[Value]:
        return await self._values.snapshot(topic_filter)

    @contextlib.asynccontextmanager
    async def _watch(self, topic_filter: str) -> AsyncIterator[Reader[Value | Deleted]]:
        values = WatchedValues(topic_filter, self._names)
        async with feed.follow(self._link, (storage.mqtt_topic(topic_filter),), values) as following:
            values.receive_all = following.receive_all
            yield values

    async def _stored_topics(self, topic_filter: str) -> frozenset[str]:
        return await self._values.stored_topics(topic_filter)

    async def _purge(self, topic_filter: str) -> None:
        self._link.store.forget_last()
        await self._values.purge(topic_filter)

    async def _read_payload(self, topic: str, message: bytes, at_most: int | None) -> bytes:
        """Implements `Load`. The message of a write-once topic is only the index; its payload is fetched here."""
        if family_of(topic).keep is Keep.FIRST:
            message = await self._values.load(topic, message, at_most)
        return await self._load_payload(topic, message, at_most)

    async def _group_settings(self, topic_filter: str, durable: str, start: Start) -> GroupSettings:
        """Return a durable's retained settings, or retain new ones."""
        key = storage.group_key(durable)
        payloads = await self._link.fetch(f"{storage.GROUPS}+")
        known = {topic: msgspec.json.decode(payload, type=GroupSettings) for topic, payload in payloads.items()}
        if family_of(topic_filter).keep is Keep.QUEUE:
            refuse_overlap(topic_filter, [other.topic_filter for name, other in known.items() if name != key])
        if key in known:
            settings = msgspec.structs.replace(known[key], topic_filter=topic_filter)
        else:
            settings = GroupSettings(topic_filter, await self._first_sequence(topic_filter, start), self._ack_wait_s)
        if known.get(key) != settings:
            await self._link.publish(key, msgspec.json.encode(settings))
        return settings

    async def _first_sequence(self, topic_filter: str, start: Start) -> int:
        """Return the sequence of the first event that a new durable reads."""
        if start == "first":
            return 0
        if start != "new":
            return int(start.timestamp() * MICROSECONDS)
        payloads = await self._link.fetch(storage.entries_filter(topic_filter))
        entries = storage.parse_entries(topic_filter, payloads)
        return entries[-1].name.sequence + 1 if entries else 1
