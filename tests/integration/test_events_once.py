"""The server publishes every event once. The test counts before a broker can drop a repetition."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import get_args

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.deliveries import Receipt
from broker.messages import progress
from broker.messages.invocation import Outcome
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
class Recording:
    """Every progress message that a server publishes, in order."""

    messages: list[Progress] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait_for(self, job: str, *kinds: type[Event]) -> None:
        """Wait until the server has published an event of each kind for a job."""

        def all_published() -> bool:
            return set(kinds) <= {type(message.event) for message in self.messages if message.job == job}

        async with self._more:
            await self._more.wait_for(all_published)

    async def add(self, message: Progress) -> None:
        async with self._more:
            self.messages.append(message)
            self._more.notify_all()

    def attach(self, bus: Broker) -> Broker:
        """Record what this connection publishes from now on; return the connection."""
        publish = bus.publish

        async def publish_and_record(topic: str, payload: bytes, *, dedupe: str | None = None) -> Receipt:
            receipt = await publish(topic, payload, dedupe=dedupe)
            if topic.startswith("fl.progress."):
                await self.add(progress.decode(payload))
            return receipt

        bus.publish = publish_and_record  # type: ignore[method-assign]
        return bus


@pytest.fixture
async def buses(url: str) -> AsyncIterator[tuple[Broker, Broker]]:
    async with broker.connect(url) as bus, broker.connect(url) as servers:
        yield bus, servers


async def test_every_event_of_every_kind_is_published_once(buses: tuple[Broker, Broker]) -> None:
    bus, servers = buses
    sdk, recording = Client(bus), Recording()

    async def eventful(bus: Broker, task: RoundTask) -> None:
        """Job `done`: everything that can happen before an update counts. Job `failing`: no client sends an update."""
        if task.job == "failing":
            await fakes.report(bus, task, "dead", reason="it is broken")
        elif task.job == "done" and task.client_id == LAST and task.round == 1:
            for outcome in OUTCOMES:
                await fakes.report(bus, task, outcome, reason="one of many")
            await bus.publish(topics.update(task.job, task.round, task.client_id, 1), b"rubbish")
            kinds = (progress.ClientRefused, progress.ClientRestored, progress.ClientTraining, progress.ClientFailed)
            await recording.wait_for("done", progress.UpdateRefused, progress.RoundQuorum, *kinds)
            await fakes.answer(bus, task, 2)
        elif task.job == "done":
            await fakes.answer(bus, task)

    slow = {"grace_s": 1000.0, "deadline_s": 1000.0, "wait_s": 1000.0}
    async with asyncio.timeout(WITHIN_S):
        async with running(serve(recording.attach(servers), FakeLearning()), Fleet(bus, eventful).serve()):
            await sdk.submit(fakes.job(id="done", cohort={"quorum": 0.5, **slow}))
            await recording.wait_for("done", progress.JobWaiting)
            await sdk.register(fakes.clients(4))
            await sdk.submit(fakes.job(id="cancelled", cohort=slow))
            await recording.wait_for("cancelled", progress.RoundOpened)
            await sdk.cancel("cancelled")
            await sdk.submit(fakes.job(id="failing", cohort={"on_failure": "stop"}))
            await bus.publish(topics.submission("rejected"), b'{"seed": -1}')
            await recording.wait_for("rejected", progress.JobRejected)
            for job in ("done", "cancelled", "failing"):
                await wait_until_over(bus, job)

    ids = [message.id for message in recording.messages]
    assert sorted(ids) == sorted(set(ids)), "an event was published twice"
    # A pause needs a broker without room: tests/unit/server/test_room.py has one.
    kinds_published = {type(message.event) for message in recording.messages}
    assert kinds_published == set(get_args(Event)) - {progress.JobPaused}, "an event of some kind is missing"
    last = {message.job: message.event.what for message in recording.messages}
    assert last == {
        "done": "job.completed",
        "cancelled": "job.cancelled",
        "failing": "job.failed",
        "rejected": "job.rejected",
    }, "an event was published after the end"
