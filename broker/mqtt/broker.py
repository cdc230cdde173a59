"""The broker on MQTT alone, such as Mosquitto: everything is a retained message. docs/mqtt.md says what that costs."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from broker import chunks
from broker.base import Broker, Deleted, Delivery, Load, Receipt, Start, Value, Will, refuse_overlap
from broker.families import Keep, family_of
from broker.mqtt import feed, inbound, storage, store
from broker.mqtt import link as mqtt_link
from broker.mqtt.consumer import Shared
from broker.mqtt.group import DEDUPE_WINDOW_US, Settings
from broker.mqtt.link import Link
from broker.mqtt.replay import MICRO, Replayed, Watched
from broker.mqtt.storage import Name, Names
from broker.mqtt.values import Values
from broker.url import BrokerUrl

INLINE_BYTES: Final = 4 << 20
DEDUPE_S: Final = DEDUPE_WINDOW_US / MICRO


@contextlib.asynccontextmanager
async def connect(
    address: BrokerUrl, *, name: str, ack_wait_s: float, will: Will | None = None, provision: bool = True
) -> AsyncIterator[Broker]:
    """Connect, and make sure that what the broker retains is ours.

    Args:
        address: of the broker.
        name: who we are.
        ack_wait_s: after how long an unacknowledged delivery is made again.
        will: what to retain for us when we vanish.
        provision: mark the broker as ours if it retains nothing of ours yet.

    Raises:
        ConnectFailed: nobody answers at that address, the credentials are wrong, or it retains nothing.
        NoSystem: nothing of ours is there, and we are not to mark it.
        OldStore: the broker retains what version 0.1 stored.
        Unsupported: what it retains is another version's.
    """
    async with mqtt_link.opened(address, name, will) as link:
        await store.ensure(link, provision=provision)
        yield MqttBroker(link, ack_wait_s)


class MqttBroker(Broker):
    """See Broker. Sequences and revisions are microseconds since the epoch, on the clock of whoever published."""

    def __init__(self, link: Link, ack_wait_s: float) -> None:
        self.inline_limit = min(INLINE_BYTES, link.max_message_bytes)
        self._link = link
        self._ack_wait_s = ack_wait_s
        self._names = Names()
        self._values = Values(link, self._names)
        self._recent: dict[tuple[str, str], Name] = {}

    @contextlib.asynccontextmanager
    async def _replay(
        self,
        topic_filter: str,
        start: Start,
        prefetch: int,  # noqa: ARG002 (MQTT has no credit for a subscription)
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        replayed = Replayed(topic_filter, start, self._load(topic_filter), self._names)
        async with feed.following(self._link, (storage.entries_filter(topic_filter),), replayed):
            yield replayed

    @contextlib.asynccontextmanager
    async def _consume(
        self, topic_filter: str, durable: str, start: Start, prefetch: int
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        settings, load = await self._settings(topic_filter, durable, start), self._load(topic_filter)
        async with inbound.taking_in(self._link, topic_filter, durable, self._names) as inbound_session:
            shared = Shared(self._link, durable, settings, load=load, prefetch=prefetch, answers=inbound_session)
            async with shared.running():
                yield shared

    async def _publish(self, topic: str, message: bytes, dedupe: str | None) -> Receipt:
        family = family_of(topic)
        if family.keep is Keep.FIRST:
            return await self._values.write_once(topic, message)
        if family.keep is Keep.LAST:
            return Receipt(await self._values.put(topic, message, None))
        name = self._names.next(dedupe)
        known = self._remembered(topic, name)
        if dedupe is not None and known is not None:
            return Receipt(known.sequence, stored=False)
        key = storage.entry_key(topic, name)
        # A manifest of chunks is not what the family's events are.
        content_type = "" if chunks.is_manifest(message) else family.content_type
        await self._link.publish(key, storage.escaped(message), expires_s=family.max_age_s, content_type=content_type)
        self._recent[topic, name.id] = name
        return Receipt(name.sequence)

    async def _put(self, topic: str, message: bytes, revision: int | None) -> int:
        return await self._values.put(topic, message, revision)

    async def _get(self, topic: str) -> Value | None:
        return await self._values.get(topic)

    async def _delete(self, topic: str) -> None:
        if family_of(topic).keep is Keep.FIRST:
            await self._values.purge(topic)
        else:
            await self._values.delete(topic)

    async def _snapshot(self, topic_filter: str) -> list[Value]:
        return await self._values.snapshot(topic_filter)

    @contextlib.asynccontextmanager
    async def _watch(self, topic_filter: str) -> AsyncIterator[AsyncIterator[Value | Deleted]]:
        watched = Watched(topic_filter, self._names)
        async with feed.following(self._link, (storage.mqtt(topic_filter),), watched):
            yield watched

    async def _purge(self, topic_filter: str) -> None:
        await self._values.purge(topic_filter)

    def _load(self, topic_filter: str) -> Load:
        return self._fetched if family_of(topic_filter).keep is Keep.FIRST else self._load_payload

    async def _fetched(self, topic: str, index: bytes, at_most: int | None) -> bytes:
        """The payload of a write-once topic, of which only the index came."""
        return await self._load_payload(topic, await self._values.load(topic, index, at_most), at_most)

    def _remembered(self, topic: str, name: Name) -> Name | None:
        """What was published with the same id in the last two minutes, by us."""
        for about in [about for about, one in self._recent.items() if one.time_s < name.time_s - DEDUPE_S]:
            del self._recent[about]
        return self._recent.get((topic, name.id))

    async def _settings(self, topic_filter: str, durable: str, start: Start) -> Settings:
        """A durable's settings; those that it was made with, if it is known."""
        key = storage.group_key(durable)
        found = await self._link.fetch(f"{storage.GROUPS}+")
        known = {topic: msgspec.json.decode(one.payload, type=Settings) for topic, one in found.items()}
        if family_of(topic_filter).keep is Keep.QUEUE:
            refuse_overlap(topic_filter, [one.topic_filter for name, one in known.items() if name != key])
        if key in known:
            settings = msgspec.structs.replace(known[key], topic_filter=topic_filter)
        else:
            settings = Settings(topic_filter, await self._first(topic_filter, start), self._ack_wait_s)
        if known.get(key) != settings:
            await self._link.publish(key, msgspec.json.encode(settings))
        return settings

    async def _first(self, topic_filter: str, start: Start) -> int:
        """Sequence of the first event that concerns a new durable."""
        if start == "first":
            return 0
        if start != "new":
            return int(start.timestamp() * MICRO)
        found = await self._link.fetch(storage.entries_filter(topic_filter))
        parsed = (storage.entry(topic_filter, key, message.payload) for key, message in found.items())
        return max((one.name.sequence for one in parsed if one is not None), default=0) + 1
