"""Values and write-once payloads: what is retained, who may write it, and how it is found and forgotten."""

import asyncio
import functools
from typing import Final

import msgspec

from broker.base import Receipt, Value
from broker.errors import Conflict, CorruptPayload
from broker.families import Keep, family_of
from broker.mqtt import claims, storage
from broker.mqtt.claims import MOVE, STORE
from broker.mqtt.link import Connection, Link
from broker.mqtt.storage import Entry, Index, Name, Names
from broker.support.tasks import task_group

PURGES_AT_ONCE: Final = 32


class Values:
    """Everything that is kept as LAST or FIRST.

    Args:
        link: to the broker.
        names: makes revisions.
    """

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names

    async def put(self, topic: str, message: bytes, revision: int | None) -> int:
        """See Broker.put."""
        if family_of(topic).keep is Keep.FIRST:
            receipt = await self.write_once(topic, message)
            if not receipt.stored and revision is not None and revision != receipt.sequence:
                raise Conflict(topic, revision)
            return receipt.sequence
        if revision is not None:
            name = self._names.next(after=revision)
            return await self._link.retry(functools.partial(self._moved, topic, message, revision, name))
        found = await self.get(topic)
        name = self._names.next(after=0 if found is None else found.revision)
        await self._link.publish(storage.mqtt(topic), storage.framed(name, message))
        return name.sequence

    async def get(self, topic: str) -> Value | None:
        """See Broker.get."""
        key = storage.mqtt(topic)
        if family_of(topic).keep is Keep.LAST:
            found = await self._link.fetch(key)
            value = storage.unframed(topic, found[key].payload)[0] if key in found else None
            return value if isinstance(value, Value) else None
        index_key = storage.index_key(topic)
        found = await self._link.fetch(index_key, key)
        entry = storage.entry(topic, index_key, found[index_key].payload) if index_key in found else None
        if entry is None or key not in found:
            return None
        return Value(topic, storage.unescaped(found[key].payload), entry.name.sequence)

    async def load(self, topic: str, index: bytes, at_most: int | None) -> bytes:
        """The message that an index announces, fetched only if it has no more bytes than that.

        Raises:
            CorruptPayload: it has, or it is gone.
        """
        size = msgspec.json.decode(index, type=Index).bytes
        if at_most is not None and size > at_most:
            raise CorruptPayload(topic, f"it has {size} bytes, at most {at_most} are taken")
        key = storage.mqtt(topic)
        found = await self._link.fetch(key)
        if key not in found:
            raise CorruptPayload(topic, "it is gone")
        return storage.unescaped(found[key].payload)

    async def snapshot(self, topic_filter: str) -> list[Value]:
        """See Broker.snapshot."""
        found = await self._link.fetch(storage.mqtt(topic_filter))
        named = ((storage.bare(topic_filter, key), message.payload) for key, message in found.items())
        values = (storage.unframed(topic, payload)[0] for topic, payload in named if topic is not None)
        return [value for value in values if isinstance(value, Value)]

    async def delete(self, topic: str) -> None:
        """Forget a LAST value."""
        if await self.get(topic) is not None:
            await self._link.publish(storage.mqtt(topic), b"")

    async def purge(self, topic_filter: str) -> None:
        """Forget all events or write-once payloads under a filter."""
        found = await self._link.fetch(storage.entries_filter(topic_filter))
        parsed = (storage.entry(topic_filter, key, message.payload) for key, message in found.items())
        gate = asyncio.Semaphore(PURGES_AT_ONCE)

        async def forget(entry: Entry) -> None:
            async with gate:
                # The payload first: what has no index can't be found any more.
                if family_of(entry.topic).keep is Keep.FIRST:
                    await self._link.publish(storage.mqtt(entry.topic), b"")
                await self._link.publish(entry.key, b"")

        async with task_group() as group:
            for entry in parsed:
                if entry is not None:
                    group.create_task(forget(entry), name=f"purge {entry.topic}")

    async def write_once(self, topic: str, message: bytes) -> Receipt:
        """Store a payload unless there is one under that topic."""
        name = self._names.next()
        index = Index(name.sequence, name.id, len(message))
        return await self._link.retry(functools.partial(self._first, topic, message, index))

    async def _first(self, topic: str, message: bytes, index: Index, connection: Connection) -> Receipt:
        key, index_key = storage.mqtt(topic), storage.index_key(topic)
        family = family_of(topic)
        max_age_s = family.max_age_s
        known = await _indexed(connection, topic)
        if known is not None:
            return Receipt(known.sequence, stored=known.id == index.id)
        encoded = msgspec.json.encode(index)
        if family.by_digest:
            # Whoever writes it writes the same.
            await connection.publish(key, storage.escaped(message), expires_s=max_age_s)
            await connection.publish(index_key, encoded, expires_s=max_age_s)
            return Receipt(index.sequence)
        async with claims.heard(connection, key, index_key, index.id, STORE) as contest:
            if not await contest.state() and await contest.won():
                await contest.write(key, storage.escaped(message), expires_s=max_age_s)
                await contest.write(index_key, encoded, expires_s=max_age_s)
                await contest.over()
                return Receipt(index.sequence)
        known = await _indexed(connection, topic)
        return Receipt(0 if known is None else known.sequence, stored=False)

    async def _moved(self, topic: str, message: bytes, revision: int, name: Name, connection: Connection) -> int:
        key = storage.mqtt(topic)
        async with claims.heard(connection, f"{key}/{revision}", key, name.id, MOVE) as contest:
            now = await contest.state()
            value, writer = storage.unframed(topic, now)
            if writer == name.id:
                return name.sequence  # it had been stored, and the acknowledgement got lost
            if (value.revision if now else 0) != revision:
                raise Conflict(topic, revision)
            if not await contest.won():
                raise Conflict(topic, revision)
            await contest.write(key, storage.framed(name, message))
            await contest.over()
        return name.sequence


async def _indexed(connection: Connection, topic: str) -> Name | None:
    key = storage.index_key(topic)
    found = await connection.fetch(key)
    entry = storage.entry(topic, key, found[key].payload) if key in found else None
    return None if entry is None else entry.name
