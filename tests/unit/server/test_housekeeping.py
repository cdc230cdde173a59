"""What finished jobs leave is deleted; what running jobs have is not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.errors import Denied
from broker.messages import codec, progress
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobFailed, Progress
from broker.messages.round import BlobRef
from fedkeeper.errors import JobNotFinished, NoSuchJob
from fedkeeper.sdk import Client
from server import housekeeping
from server.housekeeping import Housekeeper, open_housekeeper
from server.retention import Retention
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running, soon

NOW_S = 1_700_000_000.0


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    async with broker.connect(memory_url) as connection:
        yield connection


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def housekeeper(bus: Broker, clock: Clock | None = None, **limits: float) -> Housekeeper:
    return Housekeeper(bus, Retention(**limits), clock or Clock())  # type: ignore[arg-type]


def model(job: str, digit: str, size: int = 10) -> BlobRef:
    return BlobRef(topics.model(job, 64 * digit), 64 * digit, size)


async def put_job(bus: Broker, name: str, ended_s: float | None, **facts: object) -> None:
    """A job with a model that its record names, one that it does not, an update and a state; large ones in chunks."""
    if ended_s is not None:
        facts = {"phase": "completed", "announced": True, "ended_s": ended_s, **facts}
    record = JobRecord(id=name, job=fakes.job(), model=model(name, "a"), **facts)  # type: ignore[arg-type]
    await bus.put(topics.job_record(name), codec.encode(record))
    await bus.put(model(name, "a").topic, bytes(5 << 20))
    await bus.put(model(name, "b").topic, bytes(5 << 20))
    await bus.publish(topics.update(name, 1, "c-1", 1), bytes(5 << 20))
    await bus.put(topics.client_state(name, "c-1", 1, 1, "opt"), bytes(5 << 20))
    event = Progress(name, JobFailed(reason=""), NOW_S, f"{name}.job.failed")
    await bus.publish(progress.topic_of(name, event.event), progress.encode(event))


async def stored(bus: Broker, *filters: str) -> set[str]:
    kept = set[str]()
    for each in filters or (topics.ALL_MODELS, topics.ALL_UPDATES, topics.ALL_STATES):
        kept |= await bus.stored_topics(each)
        kept |= {topics.payload_of_chunk(chunk) for chunk in await bus.stored_topics(topics.chunks_of(each))}
    return kept


async def test_what_a_finished_job_does_not_name_is_deleted_and_a_running_job_keeps_all(bus: Broker) -> None:
    await put_job(bus, "done", NOW_S)
    await put_job(bus, "runs", None)
    before = {topic for topic in await stored(bus) if ".runs." in topic}
    await housekeeper(bus).clean()
    assert await stored(bus) == {model("done", "a").topic, *before}
    assert len(before) == 4


async def test_a_job_beyond_the_limits_is_deleted_with_all_that_belongs_to_it(bus: Broker) -> None:
    await put_job(bus, "old", NOW_S - 1e9)
    await put_job(bus, "new", NOW_S - 1e3)
    await bus.publish(topics.submission("old"), b"{}")
    await bus.publish(topics.cancellation("old"), b"{}")
    await bus.put(topics.secret("old"), b"secret")
    await housekeeper(bus, days=30.0).clean()
    assert await stored(bus) == {model("new", "a").topic}
    assert [record.id for record in await Client(bus).jobs()] == ["new"]
    assert await bus.get(topics.secret("old")) is None
    async with bus.subscribe(topics.job_progress(topics.ANY)) as deliveries:
        assert progress.decode(await (await anext(deliveries)).read()).job == "new"


async def test_what_belongs_to_no_job_is_deleted_only_if_its_record_stays_away(bus: Broker) -> None:
    clock = Clock()
    keeper = housekeeper(bus, clock)
    await bus.publish(topics.update("gone", 1, "c-1", 1), bytes(5 << 20))
    await bus.put(model("gone", "a").topic, b"model")
    for later_s, left in ((0.0, 2), (housekeeping.UNKNOWN_S - 1, 2), (housekeeping.UNKNOWN_S, 0)):
        clock.now_s = NOW_S + later_s
        await keeper.clean()
        assert len(await stored(bus)) == left


async def test_a_job_with_an_unreadable_record_is_left_alone(bus: Broker) -> None:
    clock = Clock()
    keeper = housekeeper(bus, clock, jobs=0)
    await put_job(bus, "newer", None)
    await bus.put(topics.job_record("newer"), b"{")
    for _ in range(2):
        await keeper.clean()
        clock.now_s += 1e6
    assert len(await stored(bus)) == 4


async def test_late_clients_are_waited_for(bus: Broker) -> None:
    clock = Clock()
    await put_job(bus, "done", NOW_S, deadline_s=NOW_S + 100.0)
    checks_s = [await housekeeper(bus, clock).clean()]
    while checks_s[-1] < NOW_S + 100.0 + housekeeping.LATE_S:
        clock.now_s = checks_s[-1]
        checks_s.append(await housekeeper(bus, clock).clean())
    assert checks_s == [NOW_S + 5.0, NOW_S + 20.0, NOW_S + 60.0, NOW_S + 160.0]
    await put_job(bus, "done", NOW_S - 90.0, deadline_s=NOW_S - 100.0)
    assert await housekeeper(bus).clean() == NOW_S + housekeeping.HOUR_S


async def test_a_server_without_the_right_to_delete_works_all_the_same(
    bus: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    async def denied(topic: str) -> None:
        calls.append(topic)
        raise Denied(topic, "permissions violation")

    monkeypatch.setattr(bus, "stored_topics", denied)
    monkeypatch.setattr(housekeeping, "PAUSE_S", 0.0)
    async with open_housekeeper(bus, Retention(), Clock()) as keeper:
        await soon(lambda: len(calls) > 0)
        keeper.job_ended()
        await soon(lambda: len(calls) > 1)


async def test_a_server_cleans_up_after_a_late_client(bus: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE_S", 0.0)
    sdk = Client(bus)
    await sdk.register(fakes.clients(4))
    async with running(Fleet(bus).serve(), serve(bus, FakeLearning())):
        first = await sdk.submit(fakes.job(cohort={"grace_s": 0.0}))
        _ = [message async for message in sdk.watch(first)]
        await bus.put(topics.client_state(first, "client-00", 1, 1, "opt"), b"late")
        second = await sdk.submit(fakes.job(cohort={"grace_s": 0.0}))
        _ = [message async for message in sdk.watch(second)]
        async with asyncio.timeout(60):
            while len(await stored(bus)) > 2:  # noqa: ASYNC110 (no event says so)
                await asyncio.sleep(0.01)


async def test_a_person_deletes_finished_jobs_only(bus: Broker) -> None:
    await put_job(bus, "done", NOW_S)
    await put_job(bus, "ending", None, phase="completed")
    sdk = Client(bus)
    with pytest.raises(JobNotFinished, match="fedkeeper cancel ending"):
        await sdk.remove_job("ending")
    await sdk.remove_job("done")
    assert {topic.split(".")[2] for topic in await stored(bus)} == {"ending"}
    with pytest.raises(NoSuchJob):
        await sdk.remove_job("done")
