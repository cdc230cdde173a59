"""A broker without room delays the server and its jobs. It ends none of them, and a cancellation is heard meanwhile."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.messages import codec, progress
from broker.messages.job_record import JobRecord
from broker.messages.progress import JobFailed
from fedkeeper.errors import JobRefused
from fedkeeper.sdk import Client
from server import pauses, room, service
from server.announcer import open_announcer
from server.job_context import JobContext
from server.presence import BridgePresence
from server.registry import Registry
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running, soon
from tests.support.full_broker import Room

JOB = fakes.job(cohort={"grace_s": 0.0})


def now() -> float:
    return 1_700_000_000.0


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    async with broker.connect(memory_url) as connection:
        yield connection


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FIRST_S", 0.001)
    monkeypatch.setattr(room, "MOST_S", 0.001)


@asynccontextmanager
async def system(bus: Broker) -> AsyncIterator[Client]:
    """A server and four clients with a job that is submitted."""
    sdk = Client(bus)
    await sdk.register(fakes.clients(4))
    async with running(Fleet(bus).serve(), serve(bus, FakeLearning())):
        yield sdk


async def whats(sdk: Client, job: str) -> list[str]:
    return [message.event.what async for message in sdk.watch(job)]


@pytest.mark.parametrize("full", ["fl.models.", "fl.rounds.paused", "fl.tasks.", "fl.secrets."])
async def test_a_job_waits_for_room_and_then_goes_on(bus: Broker, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    limited = Room(bus, monkeypatch)
    async with system(bus) as sdk:
        job = await sdk.submit(JOB)
        undisturbed = await whats(sdk, job)
        digest = (await sdk.job(job)).model
        await bus.put(topics.job_record("paused"), codec.encode(JobRecord(id="paused", job=JOB, created_s=1.0)))
        limited.full = (full,)
        await soon(lambda: len(limited.refusals) > 2)
        limited.full = ()
        events = await whats(sdk, "paused")
        assert (await sdk.job("paused")).model.sha256 == digest.sha256  # type: ignore[union-attr]
    assert events.count("job.paused") == 1
    assert sorted({*events} - {"job.paused"}) == sorted({*undisturbed})
    assert events[-1] == "job.completed"


async def test_a_paused_job_can_be_cancelled(bus: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Room(bus, monkeypatch)
    limited.full = ("fl.models.",)
    async with system(bus) as sdk:
        job = await sdk.submit(JOB)
        await soon(lambda: len(limited.refusals) > 1)
        await sdk.cancel(job)
        assert (await whats(sdk, job))[-1] == "job.cancelled"
        assert limited.full


async def test_a_job_that_waited_too_long_for_room_fails_with_the_reason(
    bus: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "PAUSED_MOST_S", 0.0)
    Room(bus, monkeypatch).full = ("fl.models.",)
    async with system(bus) as sdk:
        job = await sdk.submit(JOB)
        *_, last = [message.event async for message in sdk.watch(job)]
    assert isinstance(last, JobFailed)
    assert "no room" in last.reason
    assert "fedkeeper jobs rm" in last.reason


async def test_events_wait_for_room_and_keep_their_order(bus: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Room(bus, monkeypatch)
    async with open_announcer(bus) as announcer:
        limited.full = ("fl.progress.",)
        for number in range(3):
            announcer.announce("demo", JobFailed(reason=str(number)), number)
        await soon(lambda: len(limited.refusals) > 1)
        limited.full = ()
        await announcer.announce_and_wait("demo", JobFailed(reason="3"), 3)
    async with bus.subscribe(topics.job_progress("demo")) as deliveries:
        ids = [progress.decode(await (await anext(deliveries)).read()).id for _ in range(4)]
    assert ids == [f"demo.job.failed.{number}" for number in range(4)]


async def test_an_error_of_ours_is_recorded_as_soon_as_there_is_room(
    bus: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = FakeLearning()

    async def broken(_: object) -> None:
        limited.full = ("fl.rounds.",)
        raise ZeroDivisionError

    limited = Room(bus, monkeypatch)
    monkeypatch.setattr(learning, "initial_model", broken)
    await bus.put(topics.job_record("demo"), codec.encode(JobRecord(id="demo", job=JOB)))
    async with open_announcer(bus) as announcer:
        views = Registry(), BridgePresence(now)
        context = JobContext(bus, announcer, *views, learning, now, lambda: "unguessable")
        async with running(service._run_job("demo", context)):
            await soon(lambda: len(limited.refusals) > 1)
            limited.full = ()
            assert (await whats(Client(bus), "demo"))[-1] == "job.failed"


async def test_a_submission_without_room_is_refused_even_if_its_event_has_to_wait(
    bus: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = Room(bus, monkeypatch)
    async with system(bus) as sdk:
        limited.full = ("fl.rounds.", "fl.progress.")
        async with running(_submit(sdk)):
            await soon(lambda: {each.split(".")[1] for each in limited.refusals} == {"rounds", "progress"})
            limited.full = ()
            with pytest.raises(JobRefused, match="no room"):
                await sdk.wait_until_accepted("late")


async def _submit(sdk: Client) -> None:
    await sdk.broker.publish(topics.submission("late"), codec.encode(JOB))
