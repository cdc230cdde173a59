"""Payloads of any size: what does not fit into one message is cut into chunks, and nobody notices."""

import asyncio
import hashlib
import os

import msgspec
import pytest

from broker import Broker, Value, chunks, families, topics
from broker.errors import CorruptPayload, PayloadTooLarge
from tests.support.values import payload_of

SOON_S = 60.0
INVOCATION = topics.invocation("edge", "client-1")
RECORDS = topics.job_record(topics.ANY)
MODEL = topics.model("job-1", "ab" * 32)
UPDATE = topics.update("job-1", 1, "client-1", 1)
LARGE_BYTES = (5 << 20) + 1


async def read_update(bus: Broker, at_most: int | None = None) -> bytes:
    async with asyncio.timeout(SOON_S), bus.subscribe(topics.round_updates("job-1", 1)) as events:
        return await (await anext(events)).read(at_most=at_most)


@pytest.mark.slow
@pytest.mark.xdist_group("much memory")
async def test_a_value_of_200_mb(bus: Broker) -> None:
    payload = os.urandom(200 << 20)
    revision = await bus.put(MODEL, payload)
    assert await bus.get(MODEL) == Value(MODEL, payload, revision)


async def test_an_event_larger_than_a_message(bus: Broker) -> None:
    payload = os.urandom(LARGE_BYTES)
    first = await bus.publish(UPDATE, payload)
    second = await bus.publish(UPDATE, os.urandom(LARGE_BYTES))
    assert (first.stored, second.stored, second.sequence) == (True, False, first.sequence)
    assert await read_update(bus) == payload


async def test_a_large_value_among_retained_ones(bus: Broker) -> None:
    topic, payload = topics.job_record("job-1"), os.urandom(LARGE_BYTES)
    await bus.put(topic, payload)
    assert (await bus.snapshot(RECORDS))[topic].payload == payload
    async with asyncio.timeout(SOON_S), bus.watch(RECORDS) as values:
        assert payload_of(await anext(values)) == payload


async def test_a_value_whose_chunks_are_missing_does_not_end_the_readers_of_all(bus: Broker) -> None:
    broken, fine = topics.job_record("job-1"), topics.job_record("job-2")
    payload = os.urandom(LARGE_BYTES)
    await bus.put(broken, payload)
    await bus.put(fine, b"fine")
    await bus.purge(topics.chunk(broken, hashlib.sha256(payload).hexdigest(), 2))
    assert set(await bus.snapshot(RECORDS)) == {fine}
    async with asyncio.timeout(SOON_S), bus.watch(RECORDS) as values:
        assert (await anext(values)).topic == fine


async def test_a_small_family_takes_no_large_payload(bus: Broker) -> None:
    large, fine = topics.client("client-1"), topics.client("client-2")
    with pytest.raises(PayloadTooLarge, match=f"{families.SMALL + 1} bytes: more than the {families.SMALL} allowed"):
        await bus.put(large, bytes(families.SMALL + 1))
    with pytest.raises(PayloadTooLarge):
        await bus.publish(topics.progress("job-1", "job", "failed"), bytes((8 << 20) + 1))
    # A writer of another make, who does not know the limits.
    await bus._put(large, bytes(families.SMALL + 1), None)
    await bus._publish(INVOCATION, bytes(families.SMALL + 1), None)
    await bus.put(fine, bytes(families.SMALL))
    assert set(await bus.snapshot("fl.clients.*")) == {fine}
    with pytest.raises(CorruptPayload, match=f"at most {families.SMALL} are taken"):
        await bus.get(large)
    async with asyncio.timeout(SOON_S), bus.subscribe(INVOCATION) as events:
        with pytest.raises(CorruptPayload, match=f"at most {families.SMALL} are taken"):
            await (await anext(events)).read()


async def test_a_manifest_of_many_small_chunks_is_not_followed(bus: Broker) -> None:
    manifest = chunks.Manifest("ab" * 32, 8000, 1)
    await bus._publish(UPDATE, chunks.MAGIC + msgspec.json.encode(manifest), None)
    with pytest.raises(CorruptPayload, match="8000 chunks of 1 bytes"):
        await read_update(bus)


async def test_a_payload_that_looks_like_a_manifest(bus: Broker) -> None:
    payload = await chunks.store(_forget, UPDATE, b"something")
    await bus.publish(UPDATE, payload)
    assert await read_update(bus) == payload


@pytest.mark.parametrize("size", [10, LARGE_BYTES])
async def test_nothing_larger_than_asked_for_is_read(bus: Broker, size: int) -> None:
    await bus.publish(UPDATE, os.urandom(size))
    assert len(await read_update(bus, at_most=size)) == size
    with pytest.raises(CorruptPayload, match=f"at most {size - 1}"):
        await read_update(bus, at_most=size - 1)


async def test_a_chunk_is_missing(bus: Broker) -> None:
    payload = os.urandom(LARGE_BYTES)
    await bus.put(MODEL, payload)
    await bus.purge(_chunk(payload, 2))
    with pytest.raises(CorruptPayload, match="missing"):
        await bus.get(MODEL)


@pytest.mark.parametrize("forged", [b"short", bytes(chunks.CHUNK_BYTES)])
async def test_a_chunk_has_other_bytes(bus: Broker, forged: bytes) -> None:
    payload = os.urandom(LARGE_BYTES)
    await bus.put(MODEL, payload)
    await bus.purge(_chunk(payload, 2))
    await bus.put(_chunk(payload, 2), forged)
    with pytest.raises(CorruptPayload):
        await bus.get(MODEL)


async def test_chunks_go_with_their_payload(bus: Broker) -> None:
    payload = os.urandom(LARGE_BYTES)
    other = topics.update("job-2", 1, "client-1", 1)
    for topic in (UPDATE, other):
        await bus.publish(topic, payload)
    await bus.put(MODEL, payload)
    await bus.purge(topics.job_updates("job-1"))
    await bus.delete(MODEL)
    for topic, is_there in ((UPDATE, False), (other, True), (MODEL, False)):
        chunk = await bus.get(topics.chunk(topic, hashlib.sha256(payload).hexdigest(), 0))
        assert (chunk is not None) is is_there


def _chunk(payload: bytes, index: int) -> str:
    return topics.chunk(MODEL, hashlib.sha256(payload).hexdigest(), index)


async def _forget(_topic: str, _payload: bytes) -> None:
    return
