"""Values and write-once payloads on MQTT: reading, writing, compare-and-set and deleting."""

import asyncio
import functools
from collections.abc import Iterable
from typing import Final

import msgspec

from broker.deliveries import Receipt, Value
from broker.errors import Conflict, CorruptPayload
from broker.families import Keep, family_of
from broker.mqtt import claims, storage
from broker.mqtt.claims import COMPARE_AND_SET_LEASE
from broker.mqtt.link import Connection, Link
from broker.mqtt.storage import Index, Name, NameFactory
from broker.support.tasks import task_group

PURGES_AT_ONCE: Final = 32

_LATE_TRIES: Final = 10
_LATE_PAUSE_S: Final = 0.1
"""How often a payload is asked for whose index is there, if the broker shows retained messages late."""


class Values:
    """The messages of topics that are kept as LAST or FIRST.

    Args:
        link: the link to the broker.
        names: makes the revisions.
    """

    def __init__(self, link: Link, names: NameFactory) -> None:
        self._link = link
        self._names = names

    async def put(self, topic: str, message: bytes, revision: int | None) -> int:
        """Implements `Broker.put`, for an inline message.

        Raises:
            Conflict: the value has another revision.
        """
        if family_of(topic).keep is Keep.FIRST:
            receipt = await self.write_once(topic, message)
            if not receipt.stored and revision is not None and revision != receipt.sequence:
                raise Conflict(topic, revision)
            return receipt.sequence
        if revision is not None:
            name = self._names.next(after=revision)
            sequence = await self._link.retry(functools.partial(self._compare_and_set, topic, message, revision, name))
            self._link.store.note_last(storage.mqtt_topic(topic), sequence)
            return sequence
        value = await self.get(topic)
        name = self._names.next(after=0 if value is None else value.revision)
        await self._link.publish(storage.mqtt_topic(topic), storage.encode_value(name, message))
        return name.sequence

    async def get(self, topic: str) -> Value | None:
        """Implements `Broker.get`, for an inline message."""
        key = storage.mqtt_topic(topic)
        if family_of(topic).keep is Keep.LAST:
            value, _ = storage.decode_value(topic, (await self._link.fetch(key)).get(key, b""))
            return value if isinstance(value, Value) else None
        index_key = storage.index_key(topic)
        payloads = await self._link.fetch(index_key, key)
        index = storage.parse_entry(topic, index_key, payloads.get(index_key, b""))
        if index is None or key not in payloads:
            return None
        return Value(topic, storage.unescape(payloads[key]), index.name.sequence)

    async def load(self, topic: str, index: bytes, at_most: int | None) -> bytes:
        """Fetch the message that an index describes.

        Args:
            topic: topic of the message.
            index: the index, encoded.
            at_most: largest accepted size, in bytes; None: unlimited. A larger message is not fetched.

        Raises:
            CorruptPayload: the message is too large, or was deleted.
        """
        size = msgspec.json.decode(index, type=Index).bytes
        if at_most is not None and size > at_most:
            raise CorruptPayload(topic, f"it has {size} bytes, at most {at_most} are taken")
        key = storage.mqtt_topic(topic)
        for _ in range(_LATE_TRIES if self._link.is_late else 1):
            payloads = await self._link.fetch(key)
            if key in payloads:
                return storage.unescape(payloads[key])
            await asyncio.sleep(_LATE_PAUSE_S)
        raise CorruptPayload(topic, "it is gone")

    async def snapshot(self, topic_filter: str) -> list[Value]:
        """Implements `Broker.snapshot`, for inline messages."""
        payloads = await self._link.fetch(storage.mqtt_topic(topic_filter))
        topics = ((storage.plain_topic(topic_filter, key), payload) for key, payload in payloads.items())
        values = (storage.decode_value(topic, payload)[0] for topic, payload in topics if topic is not None)
        return [value for value in values if isinstance(value, Value)]

    async def delete(self, topic: str) -> None:
        """Delete the value of a LAST topic, if there is one."""
        if await self.get(topic) is not None:
            await self._link.publish(storage.mqtt_topic(topic), b"")

    async def stored_topics(self, topic_filter: str) -> frozenset[str]:
        """Return the write-once topics under a filter that have a payload, as their indexes say."""
        payloads = await self._link.fetch(storage.entries_filter(topic_filter))
        return frozenset(entry.topic for entry in storage.parse_entries(topic_filter, payloads))

    async def purge(self, topic_filter: str) -> None:
        """Delete all events or write-once payloads under a filter, also what a killed writer has left of a payload."""
        payloads = await self._link.fetch(storage.entries_filter(topic_filter))
        entries = storage.parse_entries(topic_filter, payloads)
        if family_of(topic_filter).keep is not Keep.FIRST:
            await self._clear(entry.key for entry in entries)
            return
        # The payload before its index: the rest of an interrupted purge must be found by `stored_topics`.
        await self._clear(storage.mqtt_topic(entry.topic) for entry in entries)
        await self._clear(entry.key for entry in entries)
        # A writer that was killed leaves its claim, and perhaps a payload without an index.
        key = storage.mqtt_topic(topic_filter)
        await self._clear(await self._link.fetch(key, storage.CLAIMS + key))

    async def _clear(self, keys: Iterable[str]) -> None:
        """Delete retained messages."""
        gate = asyncio.Semaphore(PURGES_AT_ONCE)

        async def clear(key: str) -> None:
            async with gate:
                await self._link.publish(key, b"")

        async with task_group() as group:
            for key in keys:
                group.create_task(clear(key), name=f"purge {key}")

    async def write_once(self, topic: str, message: bytes) -> Receipt:
        """Store a message, unless the topic already has one.

        Args:
            topic: a FIRST topic.
            message: the message.
        """
        name = self._names.next()
        index = Index(name.sequence, name.id, len(message))
        return await self._link.retry(functools.partial(self._write_first, topic, message, index))

    async def _write_first(self, topic: str, message: bytes, index: Index, connection: Connection) -> Receipt:
        key, index_key = storage.mqtt_topic(topic), storage.index_key(topic)
        family = family_of(topic)
        max_age_s = family.max_age_s
        stored = await _stored_name(connection, topic)
        if stored is not None:
            return Receipt(stored.sequence, stored=stored.id == index.id)
        encoded = msgspec.json.encode(index)
        if family.by_digest:
            # All writers write the same payload, so no lock is needed.
            await connection.publish(key, storage.escape(message), expires_s=max_age_s)
            await connection.publish(index_key, encoded, expires_s=max_age_s)
            return Receipt(index.sequence)
        lease = claims.write_once_lease(len(message))
        async with claims.open_lock(connection, key, index_key, index.id, lease) as lock:
            if not await lock.read() and await lock.acquire():
                await lock.write(key, storage.escape(message), expires_s=max_age_s)
                await lock.write(index_key, encoded, expires_s=max_age_s)
                await lock.release()
                return Receipt(index.sequence)
        stored = await _stored_name(connection, topic)
        return Receipt(0 if stored is None else stored.sequence, stored=False)

    async def _compare_and_set(
        self, topic: str, message: bytes, revision: int, name: Name, connection: Connection
    ) -> int:
        key = storage.mqtt_topic(topic)
        async with claims.open_lock(connection, f"{key}/{revision}", key, name.id, COMPARE_AND_SET_LEASE) as lock:
            value, writer = storage.decode_value(topic, await lock.read())
            if writer == name.id:
                return name.sequence  # an earlier try stored it, but its acknowledgement was lost
            if value.revision != revision:
                raise Conflict(topic, revision)
            if not await lock.acquire():
                raise Conflict(topic, revision)
            await lock.write(key, storage.encode_value(name, message))
            await lock.release()
        return name.sequence


async def _stored_name(connection: Connection, topic: str) -> Name | None:
    """Return the name of the write-once payload of a topic, or None if there is none."""
    key = storage.index_key(topic)
    entry = storage.parse_entry(topic, key, (await connection.fetch(key)).get(key, b""))
    return None if entry is None else entry.name
