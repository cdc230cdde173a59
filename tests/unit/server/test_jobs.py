"""A job ends once: later events change nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.messages import codec, progress
from broker.messages.job_record import JobRecord
from broker.messages.progress import Event, JobFailed
from broker.messages.round import BlobRef
from server import jobs, service
from server.announcer import Announcer, open_announcer
from server.job_context import JobContext
from server.presence import BridgePresence
from server.registry import Registry
from tests.support import fakes
from tests.support.fakes import FakeLearning

COMPLETED = JobRecord(
    id="demo", job=fakes.job(), phase="completed", model=BlobRef("fl.models.demo.x", "ab" * 32, 5), reason="done"
)


@pytest.fixture
async def context(memory_url: str) -> AsyncIterator[JobContext]:
    async with broker.connect(memory_url) as bus, open_announcer(bus) as announcer:
        yield JobContext(bus, announcer, Registry(), BridgePresence(now), FakeLearning(), now, lambda: "unguessable")


def now() -> float:
    return 1_700_000_000.0


async def record(bus: Broker) -> JobRecord:
    value = await bus.get(topics.job_record("demo"))
    assert value is not None
    return codec.decode(JobRecord, value.payload)


async def announced_events(bus: Broker, announcer: Announcer) -> list[Event]:
    """All events that were announced so far."""
    await announcer.announce_and_wait("last", JobFailed(reason=""))
    events: list[Event] = []
    async with bus.subscribe(topics.job_progress(topics.ANY)) as deliveries:
        async for delivery in deliveries:
            message = progress.decode(await delivery.read())
            if message.job == "last":
                break
            events.append(message.event)
    return events


async def test_an_end_that_was_not_announced_is_announced_and_recorded(context: JobContext) -> None:
    """The server crashed between the change of the record and the announcement."""
    await context.broker.put(topics.job_record("demo"), codec.encode(COMPLETED))
    await jobs.run("demo", context)
    assert [event.what for event in await announced_events(context.broker, context.announcer)] == ["job.completed"]
    assert (await record(context.broker)).is_finished


async def test_a_job_that_is_over_is_not_ended_again(context: JobContext) -> None:
    """The server reads an older version of the record of a job that it has ended itself."""
    await context.broker.put(topics.job_record("demo"), codec.encode(COMPLETED))
    await jobs.run("demo", context)
    before = await context.broker.get(topics.job_record("demo"))
    other = Announcer(now)
    second = JobContext(
        context.broker, other, Registry(), BridgePresence(now), FakeLearning(), now, lambda: "unguessable"
    )
    async with asyncio.timeout(30):
        await jobs.run("demo", second)
    assert await context.broker.get(topics.job_record("demo")) == before
    assert not other._queue


async def test_an_error_after_the_end_does_not_make_another_end(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(topic_filter: str) -> None:
        raise RuntimeError(topic_filter)

    await context.broker.put(topics.job_record("demo"), codec.encode(COMPLETED))
    monkeypatch.setattr(context.broker, "purge", broken)
    await service._run_job("demo", context)
    assert [event.what for event in await announced_events(context.broker, context.announcer)] == ["job.completed"]
    assert (await record(context.broker)).phase == "completed"


async def test_an_error_of_ours_ends_the_job_and_is_named(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: object) -> None:
        raise ZeroDivisionError("by nothing")

    await context.broker.put(topics.job_record("demo"), codec.encode(JobRecord(id="demo", job=fakes.job())))
    monkeypatch.setattr(context.learning, "initial_model", broken)
    await service._run_job("demo", context)
    events = await announced_events(context.broker, context.announcer)
    assert events[1:] == [JobFailed(reason="internal error: ZeroDivisionError: by nothing")]


async def test_an_error_of_a_job_that_another_server_has_ended_meanwhile_ends_nothing_else(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server changes the record between our reading it and our writing it."""
    started = JobRecord(id="demo", job=fakes.job())
    await context.broker.put(topics.job_record("demo"), codec.encode(started))
    put = context.broker.put

    async def put_after_another(topic: str, payload: bytes, *, revision: int | None = None) -> int:
        if b"internal error" in payload:
            await put(topic, codec.encode(COMPLETED))
        return await put(topic, payload, revision=revision)

    async def broken(_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(context.broker, "put", put_after_another)
    monkeypatch.setattr(context.learning, "initial_model", broken)
    await service._run_job("demo", context)
    assert (await record(context.broker)).phase == "completed"
