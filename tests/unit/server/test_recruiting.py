"""Waiting for clients: how many are enough, what is said meanwhile, and when it is over. No job, no broker."""

import asyncio
from dataclasses import dataclass, field

import msgspec
import pytest

from broker import topics
from broker.base import Value
from broker.messages import codec
from broker.messages.job import Cohort, Data, Job
from broker.messages.progress import JobWaiting
from broker.messages.register import ClientRecord, Presence
from server.errors import JobFailed
from server.job_events import CancelAsked, JobEvent, JobEvents, PresenceChanged, RegisterChanged
from server.presence import BridgePresence
from server.recruiting import Recruiter
from server.registry import Registry
from tests.support import fakes

JOB = Job(data=Data(dataset="own"), cohort=Cohort(clients=2, wait_s=60.0))


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Place:
    """A register, bridges and a job's events, all in the hands of the test."""

    clock: Clock = field(default_factory=Clock)
    said: list[JobWaiting] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = Registry()
        self.attendance = BridgePresence(self.clock)
        self.box = JobEvents(self.clock)

    def register(self, *clients: ClientRecord) -> None:
        for client in clients:
            self.registry.note(Value(topics.client(client.id), codec.encode(client), 1))

    def announce(self, platform: str) -> None:
        here = Presence(bridge=platform, platform=platform, every_s=5.0)
        self.attendance.note(Value(topics.presence(platform, platform), codec.encode(here), 1))

    def happen(self, what: JobEvent) -> None:
        self.box._queue.put_nowait(what)

    async def recruited(self, job: Job = JOB) -> list[str]:
        """The ids of the candidates; nothing is waited for but what the test lets happen."""
        recruiter = Recruiter(job, self.registry, self.attendance, self.clock)
        async with asyncio.timeout(60):
            return [client.id for client in await recruiter.candidates(self.box, self.said.append)]


@pytest.fixture
def place() -> Place:
    place = Place()
    place.announce("fake")
    return place


async def until_said(place: Place) -> None:
    async with asyncio.timeout(60):
        while not place.said:  # noqa: ASYNC110 (a turn of the loop, not a time)
            await asyncio.sleep(0)


async def test_clients_enough_are_all_candidates_and_nothing_is_said(place: Place) -> None:
    place.register(*fakes.clients(3))
    assert await place.recruited() == ["client-00", "client-01", "client-02"]
    assert place.said == []


async def test_too_few_are_waited_for_and_that_is_said_once(place: Place) -> None:
    place.register(*fakes.clients(1))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(place.recruited(), name="recruiting")
        await until_said(place)
        place.happen(PresenceChanged())
        place.register(*fakes.clients(1, first=1))
        place.happen(RegisterChanged())
    assert recruiting.result() == ["client-00", "client-01"]
    reason = "1 of 2 clients that hold 'own-shards2-c10-s0' are registered"
    assert place.said == [JobWaiting(reason=reason, data=JOB.data.key, have=1, need=2, until_s=1060.0)]


async def test_a_bridge_that_comes_makes_its_clients_candidates(place: Place) -> None:
    away = [msgspec.structs.replace(client, platform="away") for client in fakes.clients(2)]
    place.register(*away)
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(place.recruited(), name="recruiting")
        await until_said(place)
        place.announce("away")
        place.happen(PresenceChanged())
    assert recruiting.result() == ["client-00", "client-01"]
    assert place.said[0].reason.endswith("are registered, 2 of them on away, whose bridge is not there")


async def test_where_presence_is_ignored_the_register_is_enough() -> None:
    place = Place()
    place.register(*fakes.clients(2))
    ignoring = msgspec.structs.replace(JOB, cohort=Cohort(clients=2, presence="ignored"))
    assert await place.recruited(ignoring) == ["client-00", "client-01"]


async def test_the_wait_ends_with_a_reason_and_a_remedy(place: Place) -> None:
    place.register(*fakes.clients(1))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(failure(place), name="recruiting")
        await until_said(place)
        place.clock.now_s = 1060.0
        place.happen(RegisterChanged())
    assert "too few clients after 60 s: 1 of 2 clients that hold" in recruiting.result()
    assert "start `fedkeeper bridge local`" in recruiting.result()


async def failure(place: Place) -> str:
    with pytest.raises(JobFailed) as failed:
        await place.recruited()
    return str(failed.value)


async def test_a_cancellation_ends_the_wait_with_what_there_is(place: Place) -> None:
    place.register(*fakes.clients(1))
    place.box.cancel_asked = True
    place.happen(CancelAsked())
    assert await place.recruited() == ["client-00"]
