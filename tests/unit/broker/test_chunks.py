import asyncio
import hashlib
import os
from collections.abc import Callable

import msgspec
import pytest

from broker import chunks
from broker.errors import CorruptPayload, Disconnected

TOPIC = "fl.models.job-1.ab"


class Store(dict[str, bytes]):
    """Chunks in a dict; write-once, as on a broker."""

    def __init__(self) -> None:
        super().__init__()
        self.concurrent = self.most_concurrent = self.loads = 0

    async def store(self, topic: str, chunk: bytes) -> None:
        self.setdefault(topic, chunk)
        await self._count()

    async def load(self, topic: str) -> bytes:
        self.loads += 1
        await self._count()
        if topic not in self:
            raise CorruptPayload(topic, "this chunk is missing")
        return self[topic]

    async def _count(self) -> None:
        self.concurrent += 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent)
        await asyncio.sleep(0)
        self.concurrent -= 1


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.mark.parametrize("size", [1, chunks.CHUNK_BYTES, chunks.CHUNK_BYTES + 1, 20 * chunks.CHUNK_BYTES])
async def test_a_stored_payload_can_be_loaded(store: Store, size: int) -> None:
    payload = os.urandom(size)
    message = await chunks.store(store.store, TOPIC, payload)
    assert len(store) == -(-size // chunks.CHUNK_BYTES)
    assert await chunks.load(store.load, TOPIC, message) == payload


async def test_concurrent_requests_are_limited(store: Store) -> None:
    message = await chunks.store(store.store, TOPIC, bytes(20 * chunks.CHUNK_BYTES))
    assert store.most_concurrent == chunks.STORES_AT_ONCE
    store.most_concurrent = 0
    await chunks.load(store.load, TOPIC, message, least_chunk_bytes=300)
    assert store.most_concurrent == chunks.LOADS_AT_ONCE


async def test_chunks_have_the_requested_size(store: Store) -> None:
    message = await chunks.store(store.store, TOPIC, bytes(1000), chunk_bytes=300)
    assert [len(chunk) for chunk in store.values()] == [300, 300, 300, 100]
    assert await chunks.load(store.load, TOPIC, message, least_chunk_bytes=300) == bytes(1000)


async def test_a_message_without_manifest_is_the_payload(store: Store) -> None:
    assert await chunks.load(store.load, TOPIC, b"payload", at_most=7) == b"payload"
    with pytest.raises(CorruptPayload, match="7 bytes, at most 6"):
        await chunks.load(store.load, TOPIC, b"payload", at_most=6)


async def test_a_payload_that_is_too_large_is_refused_before_a_chunk_is_loaded(store: Store) -> None:
    message = await chunks.store(store.store, TOPIC, bytes(1000), chunk_bytes=300)
    store.clear()
    with pytest.raises(CorruptPayload, match="1000 bytes, at most 999"):
        await chunks.load(store.load, TOPIC, message, at_most=999)


async def test_a_missing_chunk_raises_a_single_error(store: Store) -> None:
    message = await chunks.store(store.store, TOPIC, bytes(1000), chunk_bytes=300)
    store.clear()
    with pytest.raises(CorruptPayload, match="missing"):
        await chunks.load(store.load, TOPIC, message, least_chunk_bytes=300)


@pytest.mark.parametrize(
    "damage", [lambda chunk: chunk[:-1], lambda chunk: chunk + b"x", lambda chunk: b"x" + chunk[1:]]
)
async def test_a_damaged_chunk_is_detected(store: Store, damage: Callable[[bytes], bytes]) -> None:
    message = await chunks.store(store.store, TOPIC, bytes(1000), chunk_bytes=300)
    second = list(store)[1]
    store[second] = damage(store[second])
    with pytest.raises(CorruptPayload):
        await chunks.load(store.load, TOPIC, message, least_chunk_bytes=300)


async def test_swapped_chunks_are_detected(store: Store) -> None:
    message = await chunks.store(store.store, TOPIC, os.urandom(900), chunk_bytes=300)
    first, second, _ = store
    store[first], store[second] = store[second], store[first]
    with pytest.raises(CorruptPayload, match="digest"):
        await chunks.load(store.load, TOPIC, message, least_chunk_bytes=300)


async def test_an_error_of_the_broker_is_raised_unchanged() -> None:
    async def fail(*_: object) -> bytes:
        raise Disconnected("gone")

    with pytest.raises(Disconnected, match="gone"):
        await chunks.store(fail, TOPIC, bytes(5 * chunks.CHUNK_BYTES))  # type: ignore[arg-type]
    with pytest.raises(Disconnected, match="gone"):
        await chunks.load(fail, TOPIC, manifest(size=5 * chunks.CHUNK_BYTES))


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0},
        {"size": -1},
        {"size": chunks.MAX_BYTES + 1},
        {"size": 1 << 33, "chunk_bytes": 1},  # billions of chunks
        {"chunk_bytes": 0},
        {"sha256": "fl.models.>"},
        {"sha256": "AB" * 32},
        {"more": 1},
    ],
)
async def test_a_hostile_manifest_is_refused(store: Store, fields: dict[str, object]) -> None:
    with pytest.raises(CorruptPayload):
        await chunks.load(store.load, TOPIC, manifest(**fields))


async def test_a_manifest_of_small_chunks_is_refused_before_one_is_loaded(store: Store) -> None:
    message = await chunks.store(store.store, TOPIC, bytes(8000), chunk_bytes=1)
    store.clear()
    with pytest.raises(CorruptPayload, match="8000 chunks of 1 bytes, at least 65536"):
        await chunks.load(store.load, TOPIC, message)


async def test_one_chunk_may_be_small(store: Store) -> None:
    message = await chunks.store(store.store, TOPIC, b"payload", chunk_bytes=7)
    assert await chunks.load(store.load, TOPIC, message) == b"payload"


async def test_chunks_that_are_not_there_are_not_all_asked_for(store: Store) -> None:
    with pytest.raises(CorruptPayload, match="missing"):
        await chunks.load(store.load, TOPIC, manifest(size=1 << 30))
    assert store.loads <= chunks.LOADS_AT_ONCE


@pytest.mark.parametrize("end", [b"", b"{", b"[]", b"\xff"])
async def test_an_unreadable_manifest_is_refused(store: Store, end: bytes) -> None:
    with pytest.raises(CorruptPayload, match="unreadable"):
        await chunks.load(store.load, TOPIC, manifest()[:10] + end)


def manifest(**fields: object) -> bytes:
    whole = {"sha256": hashlib.sha256(b"").hexdigest(), "size": 10, "chunk_bytes": chunks.CHUNK_BYTES} | fields
    return chunks.MAGIC + msgspec.json.encode(whole)
