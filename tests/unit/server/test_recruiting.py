"""Waiting for clients: how many are enough, what is announced meanwhile, and when it is over. No job, no broker."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import pytest
import structlog

from broker import topics
from broker.deliveries import Value
from broker.messages import codec
from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Data
from broker.messages.progress import JobWaiting
from broker.messages.register import ClientRecord, Presence
from server import recruiting as recruiting_module
from server.errors import JobCannotContinue
from server.job_events import CancelRequested, JobEvent, JobEvents, PresenceChanged, RegisterChanged
from server.presence import BridgePresence
from server.recruiting import Recruiter
from server.registry import Registry
from tests.support import fakes

JOB = Job(data=Data(dataset="own", clients=2), cohort=Cohort(clients=2, wait_s=60.0))


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Inputs:
    """A register, bridges and a job's events that the test controls."""

    clock: Clock = field(default_factory=Clock)
    announced: list[JobWaiting] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = Registry(self.clock)
        self.presence = BridgePresence(self.clock)
        self.events = JobEvents(self.clock)

    def register(self, *clients: ClientRecord) -> None:
        for client in clients:
            self.registry.note(Value(topics.client(client.id), codec.encode(client), 1))

    def announce(self, platform: str) -> None:
        here = Presence(bridge=platform, platform=platform, every_s=5.0)
        self.presence.note(Value(topics.presence(platform, platform), codec.encode(here), 1))

    async def note(self, event: JobWaiting) -> None:
        self.announced.append(event)

    def put(self, event: JobEvent) -> None:
        self.events._queue.put_nowait(event)
        self.events._arrived.set()

    async def candidates(self, job: Job = JOB, *, is_first: bool = True) -> list[str]:
        """Wait for candidates, and return their ids."""
        recruiter = Recruiter(job, self.registry, self.presence, self.clock, self.clock)
        async with fakes.running(self.events._read_to_end([self.registry, self.presence])), asyncio.timeout(60):
            await asyncio.sleep(0)
            found = await recruiter.wait_for_candidates(self.events, self.note, is_first=is_first)
            return [client.id for client in found]


@pytest.fixture
def inputs() -> Inputs:
    inputs = Inputs()
    inputs.announce("fake")
    return inputs


async def until_announced(inputs: Inputs) -> None:
    async with asyncio.timeout(60):
        while not inputs.announced:  # noqa: ASYNC110 (a turn of the loop, not a time)
            await asyncio.sleep(0)


async def test_enough_clients_are_all_candidates_and_no_wait_is_announced(inputs: Inputs) -> None:
    inputs.register(*fakes.clients(3))
    assert await inputs.candidates() == ["client-00", "client-01", "client-02"]
    assert inputs.announced == []


async def test_a_paused_client_is_named_with_the_command_that_lets_it_take_part(inputs: Inputs) -> None:
    (one, other) = fakes.clients(2)
    inputs.register(one, msgspec.structs.replace(other, paused=True))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(inputs.candidates(), name="recruiting")
        await until_announced(inputs)
        inputs.register(other)
        inputs.put(RegisterChanged())
    assert recruiting.result() == ["client-00", "client-01"]
    assert inputs.announced[0].reason == (
        "1 of 2 clients that hold 'own' are registered; 1 more are paused: `fedkeeper clients pause --resume client-01`"
    )


async def test_too_few_clients_are_waited_for_and_that_is_announced_once(inputs: Inputs) -> None:
    inputs.register(*fakes.clients(1))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(inputs.candidates(), name="recruiting")
        await until_announced(inputs)
        inputs.put(PresenceChanged())
        inputs.register(*fakes.clients(1, first=1))
        inputs.put(RegisterChanged())
    assert recruiting.result() == ["client-00", "client-01"]
    reason = inputs.announced[0].reason
    assert reason.startswith("1 of 2 clients that hold 'own' are registered; register each with `fedkeeper clients add")
    assert inputs.announced == [JobWaiting(reason=reason, data=JOB.data.key, have=1, need=2, until_s=1060.0)]


@pytest.mark.parametrize(
    ("dataset", "remedy"),
    [
        ("own", "`fedkeeper clients add ... --label data=own`"),
        ("own", "`fedkeeper stage --from FILE --name own --clients 2 --register`"),
        ("mnst", "did you mean 'mnist' as data.dataset?"),
        ("hospitl", "did you mean 'hospital' as data.dataset?"),
        ("digits", "clients that hold 'digits-shards2-c2-s0' are registered; `fedkeeper bridge local` or"),
    ],
)
async def test_the_announcement_says_how_clients_are_registered(inputs: Inputs, dataset: str, remedy: str) -> None:
    job = msgspec.structs.replace(JOB, data=Data(dataset=dataset, clients=2))
    (other,) = fakes.clients(1, first=7)
    inputs.register(msgspec.structs.replace(other, labels={"data": "hospital"}))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(inputs.candidates(job), name="recruiting")
        await until_announced(inputs)
        inputs.register(*[msgspec.structs.replace(one, labels={"data": dataset}) for one in fakes.clients(2)])
        inputs.put(RegisterChanged())
    assert len(recruiting.result()) == 2
    assert remedy in inputs.announced[0].reason


async def test_a_draw_does_not_depend_on_how_far_the_registration_of_the_clients_has_come(inputs: Inputs) -> None:
    job = msgspec.structs.replace(JOB, data=Data(dataset="own", clients=4))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(inputs.candidates(job), name="recruiting")
        await until_announced(inputs)
        for first in range(4):
            inputs.register(*fakes.clients(1, first=first))
            inputs.put(RegisterChanged())
            await asyncio.sleep(0)
    assert recruiting.result() == [f"client-0{i}" for i in range(4)]


async def test_a_first_draw_waits_for_the_others_also_if_there_are_enough(inputs: Inputs) -> None:
    job = msgspec.structs.replace(JOB, data=Data(dataset="own", clients=4))
    inputs.register(*fakes.clients(3))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(inputs.candidates(job), name="recruiting")
        for _ in range(10):
            await asyncio.sleep(0)
        inputs.register(*fakes.clients(1, first=3))
        inputs.put(RegisterChanged())
    assert recruiting.result() == [f"client-0{i}" for i in range(4)]
    assert inputs.announced == []


async def test_what_settled_before_the_job_came_is_not_waited_for(inputs: Inputs) -> None:
    """The clock stands still: a wait would not end."""
    job = msgspec.structs.replace(JOB, data=Data(dataset="own", clients=4))
    inputs.register(*fakes.clients(3))
    inputs.clock.now_s += recruiting_module.SETTLE_S
    assert len(await inputs.candidates(job)) == 3


async def test_a_later_round_does_not_wait_for_the_others(inputs: Inputs) -> None:
    """The clock stands still: a wait would not end."""
    job = msgspec.structs.replace(JOB, data=Data(dataset="own", clients=4))
    inputs.register(*fakes.clients(3))
    assert len(await inputs.candidates(job, is_first=False)) == 3


@pytest.mark.parametrize(
    ("draw", "candidates", "warned"), [("numpy", 37, True), ("numpy", 100, False), ("own", 37, False)]
)
def test_a_numpy_draw_among_another_number_of_clients_is_logged(
    inputs: Inputs, draw: Literal["own", "numpy"], candidates: int, *, warned: bool
) -> None:
    job = Job(data=Data(dataset="own", clients=100), cohort=Cohort(draw=draw))
    recruiter = Recruiter(job, inputs.registry, inputs.presence, inputs.clock, inputs.clock)
    with structlog.testing.capture_logs() as logs:
        recruiter.warn_of_draw(candidates)
    assert [(entry["drawn_from"], entry["data_clients"]) for entry in logs] == ([(37, 100)] if warned else [])


async def test_clients_that_never_come_are_not_waited_for(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recruiting_module, "SETTLE_S", 0.0)
    job = msgspec.structs.replace(JOB, data=Data(dataset="own", clients=4))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(inputs.candidates(job), name="recruiting")
        await until_announced(inputs)
        inputs.register(*fakes.clients(3))
        inputs.put(RegisterChanged())
    assert recruiting.result() == ["client-00", "client-01", "client-02"]


async def test_a_bridge_that_comes_makes_its_clients_candidates(inputs: Inputs) -> None:
    away = [msgspec.structs.replace(client, platform="away") for client in fakes.clients(2)]
    inputs.register(*away)
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(inputs.candidates(), name="recruiting")
        await until_announced(inputs)
        inputs.announce("away")
        inputs.put(PresenceChanged())
    assert recruiting.result() == ["client-00", "client-01"]
    assert inputs.announced[0].reason.endswith(
        "are registered, 2 of them on away, whose bridge is not there or can run no task: see `fedkeeper sites`"
    )


async def test_where_presence_is_ignored_the_register_is_enough() -> None:
    inputs = Inputs()
    inputs.register(*fakes.clients(2))
    ignoring = msgspec.structs.replace(JOB, cohort=Cohort(clients=2, presence="ignored"))
    assert await inputs.candidates(ignoring) == ["client-00", "client-01"]


async def test_the_wait_ends_with_a_reason_and_a_remedy(inputs: Inputs) -> None:
    inputs.register(*fakes.clients(1))
    async with asyncio.TaskGroup() as group:
        recruiting = group.create_task(failure(inputs), name="recruiting")
        await until_announced(inputs)
        inputs.clock.now_s = 1060.0
        inputs.put(RegisterChanged())
    assert "too few clients after 60 s: 1 of 2 clients that hold" in recruiting.result()
    assert "`fedkeeper stage --from FILE" in recruiting.result()


async def failure(inputs: Inputs) -> str:
    with pytest.raises(JobCannotContinue) as failed:
        await inputs.candidates()
    return str(failed.value)


async def test_a_cancellation_ends_the_wait_and_returns_the_present_candidates(inputs: Inputs) -> None:
    inputs.register(*fakes.clients(1))
    inputs.events._cancelled.set()
    inputs.put(CancelRequested())
    assert await inputs.candidates() == ["client-00"]


async def test_a_shortage_names_the_labels_that_clients_must_have(inputs: Inputs) -> None:
    clients = fakes.clients(2)
    north = msgspec.structs.replace(clients[0], labels={**clients[0].labels, "site": "north"})
    inputs.register(north, clients[1])
    inputs.put(CancelRequested())
    inputs.events._cancelled.set()
    job = msgspec.structs.replace(JOB, cohort=Cohort(clients=2, where={"site": "north", "platform": "fake"}))
    assert await inputs.candidates(job) == [north.id]
    (waiting,) = inputs.announced
    assert waiting.have == 1
    where = "and have site = 'north', platform = 'fake'"
    assert waiting.reason.startswith(f"1 of 2 clients that hold {JOB.data.dataset!r} {where} are registered; ")


@pytest.mark.parametrize(
    ("site", "ending"),
    [
        ("fale", "no client with site = 'fale' is registered at all: did you mean 'fake'?"),
        ("north", "no client with site = 'north' is registered at all"),
        ("fake", "`fedkeeper run JOB --from FILE`"),
    ],
)
async def test_a_shortage_says_that_no_client_is_of_the_site(inputs: Inputs, site: str, ending: str) -> None:
    inputs.register(*fakes.clients(1))
    inputs.put(CancelRequested())
    inputs.events._cancelled.set()
    job = msgspec.structs.replace(JOB, cohort=Cohort(clients=2, where={"site": site}))
    await inputs.candidates(job)
    assert inputs.announced[0].reason.endswith(ending)
