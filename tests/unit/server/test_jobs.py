"""A job has one end: what comes after it changes nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.messages import codec, progress
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobFailed, Progress
from broker.messages.round import BlobRef
from server import jobs, service
from server.announcer import Announcer, announcing
from server.jobs import JobContext
from server.presence import BridgePresence
from server.registry import Registry
from tests.support import fakes
from tests.support.fakes import FakeLearning

COMPLETED = JobRecord(
    id="demo", job=fakes.job(), phase="completed", model=BlobRef("fl.models.demo.x", "ab" * 32, 5), reason="done"
)


@pytest.fixture
async def around(memory_url: str) -> AsyncIterator[JobContext]:
    async with broker.connect(memory_url) as bus, announcing(bus) as announcer:
        yield JobContext(bus, announcer, Registry(), BridgePresence(now), FakeLearning(), now, lambda: "unguessable")


def now() -> float:
    return 1_700_000_000.0


async def record(bus: Broker) -> JobRecord:
    found = await bus.get(topics.job_record("demo"))
    assert found is not None
    assert found.payload is not None
    return codec.decode(JobRecord, found.payload)


async def said(bus: Broker, announcer: Announcer) -> list[Progress]:
    """Everything that was announced so far."""
    await announcer.announce_and_wait("last", JobFailed(reason=""))
    found: list[Progress] = []
    async with bus.subscribe(topics.job_progress(topics.ANY)) as deliveries:
        async for delivery in deliveries:
            found.append(progress.decode(await delivery.read()))
            if found[-1].job == "last":
                break
    return found[:-1]


async def test_an_end_that_nobody_heard_of_is_said_and_noted(around: JobContext) -> None:
    """As after a crash between the record's end and its announcement."""
    await around.broker.put(topics.job_record("demo"), codec.encode(COMPLETED))
    await jobs.run("demo", around)
    assert [one.event.what for one in await said(around.broker, around.announcer)] == ["job.completed"]
    assert (await record(around.broker)).is_over


async def test_a_job_that_is_over_is_not_ended_again(around: JobContext) -> None:
    """As where the server learns late, by an older state of the record, of a job that it has ended itself."""
    await around.broker.put(topics.job_record("demo"), codec.encode(COMPLETED))
    await jobs.run("demo", around)
    before = await around.broker.get(topics.job_record("demo"))
    other = Announcer(now)
    nobody = JobContext(
        around.broker, other, Registry(), BridgePresence(now), FakeLearning(), now, lambda: "unguessable"
    )
    async with asyncio.timeout(30):
        await jobs.run("demo", nobody)
    assert await around.broker.get(topics.job_record("demo")) == before
    assert other._queue.empty()


async def test_an_error_after_the_end_does_not_make_another_end(
    around: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(topic_filter: str) -> None:
        raise RuntimeError(topic_filter)

    await around.broker.put(topics.job_record("demo"), codec.encode(COMPLETED))
    monkeypatch.setattr(around.broker, "purge", broken)
    await service._run_job("demo", around)
    assert [one.event.what for one in await said(around.broker, around.announcer)] == ["job.completed"]
    assert (await record(around.broker)).phase == "completed"


async def test_an_error_of_ours_ends_the_job_and_is_named(around: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("by nothing")

    await around.broker.put(topics.job_record("demo"), codec.encode(JobRecord(id="demo", job=fakes.job())))
    monkeypatch.setattr(around.learning, "initial", broken)
    await service._run_job("demo", around)
    events = [one.event for one in await said(around.broker, around.announcer)]
    assert events[1:] == [JobFailed(reason="internal error: ZeroDivisionError: by nothing")]
