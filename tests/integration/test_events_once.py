"""Every event is said once: counted where the server publishes, before a broker could drop a repetition."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import get_args

import pytest

import broker
from broker import topics
from broker.base import Broker, Receipt
from broker.messages import cloudevents, progress
from broker.messages.cloudevents import Envelope
from broker.messages.invocation import Invocation, Outcome
from broker.messages.progress import Event, Progress
from broker.messages.round import RoundTask
from broker.nats.server import NatsServer
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.server_crashes import wait_until_over

WITHIN_S = 60.0
LAST = "client-03"
OUTCOMES: tuple[Outcome, ...] = ("refused", "refused", "restored", "running", "running", "failed")
BROKERS = {"memory": "memory_url", "nats": "nats_url", "mosquitto": "mosquitto_url"}


@pytest.fixture(params=list(BROKERS))
def url(request: pytest.FixtureRequest) -> str:
    """A broker's address."""
    address: str = request.getfixturevalue(BROKERS[request.param])
    return address


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@dataclass
class Said:
    """All that a server publishes as progress, in order."""

    events: list[Progress] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, job: str, *kinds: type[Event]) -> None:
        """Until each of these was said of a job."""

        def all_there() -> bool:
            return set(kinds) <= {type(one.event) for one in self.events if one.job == job}

        async with self._more:
            await self._more.wait_for(all_there)

    async def note(self, one: Progress) -> None:
        async with self._more:
            self.events.append(one)
            self._more.notify_all()

    def listen(self, bus: Broker) -> Broker:
        """The same connection, overheard."""
        publish = bus.publish

        async def overheard(topic: str, payload: bytes, *, dedupe: str | None = None) -> Receipt:
            receipt = await publish(topic, payload, dedupe=dedupe)
            if topic.startswith("fl.progress."):
                await self.note(progress.decode(payload))
            return receipt

        bus.publish = overheard  # type: ignore[method-assign]
        return bus


@pytest.fixture
async def buses(url: str) -> AsyncIterator[tuple[Broker, Broker]]:
    async with broker.connect(url) as bus, broker.connect(url) as servers:
        yield bus, servers


async def invoked(bus: Broker, task: RoundTask, outcome: Outcome, reason: str = "") -> None:
    """Say what became of an invocation, as a bridge does; nothing marks a repetition as one."""
    facts = Invocation(
        job=task.job,
        round=task.round,
        client=task.client_id,
        platform="fake",
        attempt=1,
        outcome=outcome,
        activation="act-1",
        cold=None,
        reason=reason,
        seconds=0.0,
    )
    event = cloudevents.encode(Envelope("any", "/bridges/fake", f"invocation.{outcome}", 1.0), facts)
    await bus.publish(topics.invocation("fake", task.client_id), event)


async def test_all_that_can_happen_to_jobs_is_said_once(buses: tuple[Broker, Broker]) -> None:
    bus, servers = buses
    sdk, said = Client(bus), Said()

    async def eventful(bus: Broker, task: RoundTask) -> None:
        """Job `done`: whatever can happen to an update that counts. Job `failing`: nobody answers."""
        if task.job == "failing":
            await invoked(bus, task, "dead", "it is broken")
        elif task.job == "done" and task.client_id == LAST and task.round == 1:
            for outcome in OUTCOMES:
                await invoked(bus, task, outcome, "one of many")
            await bus.publish(topics.update(task.job, task.round, task.client_id, 1), b"rubbish")
            kinds = (progress.ClientRefused, progress.ClientRestored, progress.ClientTraining, progress.ClientFailed)
            await said.until("done", progress.UpdateRefused, progress.RoundQuorum, *kinds)
            await fakes.answer(bus, task, 2)
        elif task.job == "done":
            await fakes.answer(bus, task)

    slow = {"grace_s": 1000.0, "deadline_s": 1000.0, "wait_s": 1000.0}
    async with asyncio.timeout(WITHIN_S):
        async with running(serve(said.listen(servers), FakeLearning()), Fleet(bus, eventful).serve()):
            await sdk.submit(fakes.job(id="done", cohort={"quorum": 0.5, **slow}))
            await said.until("done", progress.JobWaiting)
            await sdk.register(fakes.clients(4))
            await sdk.submit(fakes.job(id="cancelled", cohort=slow))
            await said.until("cancelled", progress.RoundOpened)
            await sdk.cancel("cancelled")
            await sdk.submit(fakes.job(id="failing", cohort={"on_failure": "stop"}))
            await bus.publish(topics.submission("rejected"), b'{"seed": -1}')
            await said.until("rejected", progress.JobRejected)
            for job in ("done", "cancelled", "failing"):
                await wait_until_over(bus, job)

    ids = [one.id for one in said.events]
    assert sorted(ids) == sorted(set(ids)), "an event was said twice"
    assert {type(one.event) for one in said.events} == set(get_args(Event)), "not everything happened"
    last = {one.job: one.event.what for one in said.events}
    assert last == {
        "done": "job.completed",
        "cancelled": "job.cancelled",
        "failing": "job.failed",
        "rejected": "job.rejected",
    }, "something was said after the end"
