"""Retained values: the last one per topic, with compare-and-set; or the first one for good."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker import Broker, Value, topics
from broker.deliveries import Deleted
from broker.errors import BadTopic, Conflict, Unsupported
from tests.support.values import payload_of

SOON_S = 60.0
RECORD = topics.job_record("job-1")
MODEL = topics.model("job-1", "ab" * 32)


async def following(values: AsyncIterator[Value | Deleted]) -> Value | Deleted:
    return await asyncio.wait_for(anext(values), SOON_S)


async def test_the_last_value_stays(bus: Broker) -> None:
    assert await bus.get(RECORD) is None
    first = await bus.put(RECORD, b"1")
    second = await bus.put(RECORD, b"2")
    assert second > first
    assert await bus.get(RECORD) == Value(RECORD, b"2", second)


async def test_a_write_once_value_stays_as_it_is(bus: Broker) -> None:
    first = await bus.put(MODEL, b"model")
    assert await bus.put(MODEL, b"other") == first
    assert await bus.get(MODEL) == Value(MODEL, b"model", first)
    with pytest.raises(Conflict):
        await bus.put(MODEL, b"other", revision=0)


@pytest.mark.parametrize("topic", [RECORD, MODEL])
async def test_a_deleted_value_is_gone_and_can_be_put_again(bus: Broker, topic: str) -> None:
    await bus.delete(topic)
    await bus.put(topic, b"old")
    await bus.delete(topic)
    assert await bus.get(topic) is None
    await bus.delete(topic)
    revision = await bus.put(topic, b"new", revision=0)
    assert await bus.get(topic) == Value(topic, b"new", revision)


async def test_compare_and_set_wants_the_current_revision(bus: Broker) -> None:
    revision = await bus.put(RECORD, b"1", revision=0)
    with pytest.raises(Conflict) as conflict:
        await bus.put(RECORD, b"2", revision=0)
    assert (conflict.value.topic, conflict.value.expected) == (RECORD, 0)
    moved = await bus.put(RECORD, b"2", revision=revision)
    with pytest.raises(Conflict):
        await bus.put(RECORD, b"3", revision=revision)
    assert await bus.get(RECORD) == Value(RECORD, b"2", moved)


@pytest.mark.parametrize("deleted", [False, True])
async def test_of_twenty_concurrent_compare_and_sets_one_succeeds(bus: Broker, *, deleted: bool) -> None:
    revision = await bus.put(RECORD, b"start")
    if deleted:
        await bus.delete(RECORD)
        revision = 0

    async def move(number: int) -> int | None:
        try:
            return await bus.put(RECORD, str(number).encode(), revision=revision)
        except Conflict:
            return None

    results = await asyncio.gather(*(move(number) for number in range(20)))
    [winner] = [number for number, moved in enumerate(results) if moved is not None]
    assert await bus.get(RECORD) == Value(RECORD, str(winner).encode(), results[winner] or 0)


async def test_a_snapshot_has_what_is_there_now(bus: Broker) -> None:
    assert await bus.snapshot("fl.clients.*") == {}
    names = [topics.client(f"client-{number}") for number in range(5)]
    for name in names:
        await bus.put(name, b"old")
    revisions = {name: await bus.put(name, name.encode()) for name in names}
    await bus.delete(names[0])
    await bus.put(RECORD, b"another family of topics")
    assert await bus.snapshot("fl.clients.*") == {
        name: Value(name, name.encode(), revisions[name]) for name in names[1:]
    }


@pytest.mark.slow
async def test_a_large_snapshot_is_complete(bus: Broker) -> None:
    await asyncio.gather(*(bus.put(topics.client(f"client-{number}"), b"here") for number in range(1500)))
    assert len(await bus.snapshot("fl.clients.*")) == 1500


async def test_a_watcher_sees_existing_values_and_changes(bus: Broker) -> None:
    gone, kept, fresh = (topics.client(name) for name in ("gone", "kept", "fresh"))
    await bus.put(gone, b"0")
    await bus.delete(gone)
    await bus.put(kept, b"1")
    async with bus.watch("fl.clients.*") as values:
        seen = [await following(values)]
        await bus.put(fresh, b"2")
        seen.append(await following(values))
        await bus.put(kept, b"3")
        seen.append(await following(values))
        await bus.delete(fresh)
        seen.append(await following(values))
    assert [(value.topic, None if isinstance(value, Deleted) else value.payload) for value in seen] == [
        (kept, b"1"),
        (fresh, b"2"),
        (kept, b"3"),
        (fresh, None),
    ]
    assert [value.revision for value in seen] == sorted({value.revision for value in seen})


async def test_a_watcher_of_nothing_sees_a_deletion_as_its_first_news(bus: Broker) -> None:
    async with bus.watch("fl.clients.*") as values:
        await bus.put(topics.client("c1"), b"1")
        assert payload_of(await following(values)) == b"1"
        await bus.delete(topics.client("c1"))
        assert isinstance(await following(values), Deleted)


async def test_values_need_topics_that_keep_them(bus: Broker) -> None:
    with pytest.raises(Unsupported):
        await bus.put(RECORD, b"")
    with pytest.raises(Unsupported):
        await bus.put(topics.SUBMIT, b"1")
    with pytest.raises(Unsupported):
        await bus.get(topics.task("openfaas", "client-1"))
    with pytest.raises(Unsupported):
        await bus.snapshot("fl.models.>")
    with pytest.raises(Unsupported):
        bus.watch("fl.progress.>")
    with pytest.raises(BadTopic):
        await bus.get("fl.unknown")


async def test_a_watcher_has_caught_up_when_it_has_taken_all_that_was_there(bus: Broker) -> None:
    await bus.put(RECORD, b"1")
    taken: list[bytes] = []

    async def take(values: AsyncIterator[Value | Deleted]) -> None:
        async for value in values:
            taken[:] = [value.payload if isinstance(value, Value) else b"deleted"]

    async with bus.watch(RECORD) as values:
        taking = asyncio.create_task(take(values))
        try:
            await asyncio.wait_for(values.catch_up(), SOON_S)
            assert taken == [b"1"]
            await bus.put(RECORD, b"2")
            await asyncio.wait_for(values.catch_up(), SOON_S)
            assert taken == [b"2"]
        finally:
            taking.cancel()


async def test_write_once_topics_are_listed_without_their_payloads(bus: Broker) -> None:
    small, large, other = (
        topics.model(job, 64 * digit) for job, digit in (("list-1", "a"), ("list-1", "b"), ("x", "c"))
    )
    for topic, size in ((small, 10), (large, 5 << 20), (other, 10)):
        await bus.put(topic, bytes(size))
    await bus.put(topics.model("list-1", 64 * "d"), b"gone")
    await bus.delete(topics.model("list-1", 64 * "d"))
    assert await bus.stored_topics(topics.model("list-1", topics.ANY)) == {small, large}
    assert await bus.stored_topics("fl.models.>") >= {small, large, other}
    assert len(await bus.stored_topics("fl.chunks.models.list-1.>")) == 5
    assert await bus.stored_topics(topics.job_states("nobody")) == frozenset()
    with pytest.raises(Unsupported):
        await bus.stored_topics(topics.job_record(topics.ANY))
