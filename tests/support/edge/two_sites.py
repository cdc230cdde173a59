"""A broker and an FL server on this host, two sites behind links of their own, and jobs that span both."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

import broker
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, progress
from broker.messages.invocation import Invocation
from broker.messages.job import Cohort, Data, Evaluation, Job, Model, Stop, Training
from broker.messages.progress import FINAL_EVENTS, Event, JobCompleted, Progress, RoundCompleted, UpdateCounted
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from fedkeeper import provision, system
from fedkeeper.sdk import Client
from server.cohort import DATA_LABEL
from tests.support.edge.links import Backbone
from tests.support.edge.site_programs import Station, Uplink
from tests.support.edge.training_gate import gate
from tests.support.fakes import running

WITHIN_S: Final = 300.0
SITES: Final = 2
EACH: Final = 2
"""Clients at a site, which has one worker."""

CLIENTS: Final = SITES * EACH
ROUNDS: Final = 3
STORE_BYTES: Final = 2 << 30
LAST_LINES: Final = 30

_DEAL: Final = Data(dataset="digits", partition="iid", clients=CLIENTS)
_OURS: Final = "spread"
"""The shards' own name: a built-in dataset's would be dealt anew by every bridge that hears a job wait for it."""


@dataclass
class Course:
    """What is said of a job, as it is said: every copy of every event.

    Attributes:
        job: its id.
        said: what was said so far.
    """

    job: str
    said: list[Progress] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def all(self, kind: type[Event], **facts: Any) -> list[Any]:
        """The events of a kind with those facts."""
        found = [one.event for one in self.said if isinstance(one.event, kind)]
        return [event for event in found if all(getattr(event, name) == value for name, value in facts.items())]

    async def reaches(self, kind: type[Event], **facts: Any) -> Any:
        """Wait for an event."""
        while not (found := self.all(kind, **facts)):
            self._more.clear()
            await self._more.wait()
        return found[0]

    @property
    def digest(self) -> str:
        """Of the final model."""
        (end,) = self.all(JobCompleted)
        return str(end.model.sha256)

    @property
    def counted(self) -> Counter[tuple[int, str]]:
        """How often each client was counted in each round, as the updates' events tell."""
        return Counter((event.round, event.client) for event in self.all(UpdateCounted))

    @property
    def cohorts(self) -> list[tuple[str, ...]]:
        """Whose updates are in the model of each round."""
        return [event.counted for event in self.all(RoundCompleted)]

    async def _follow(self, bus: Broker) -> None:
        async with bus.subscribe(topics.job_progress(self.job), start="first", prefetch=64) as deliveries:
            async for delivery in deliveries:
                self.said.append(progress.decode(await delivery.read()))
                self._more.set()
                if isinstance(self.said[-1].event, FINAL_EVENTS):
                    return


@dataclass
class Spread:
    """A system that is spread over sites.

    Attributes:
        nats: the broker, on this host.
        bus: a connection to it.
        stations: the sites.
    """

    nats: NatsServer
    bus: Broker
    stations: list[Station]

    @contextlib.asynccontextmanager
    async def training(self, rounds: int = ROUNDS, **cohort: Any) -> AsyncIterator[Course]:
        """A job, which has ended when the block has; every client is wanted, if nothing else is said."""
        chosen: dict[str, Any] = {"clients": CLIENTS, "quorum": 1.0, "deadline_s": WITHIN_S, "grace_s": 1.0, **cohort}
        job = Job(
            name="spread",
            model=Model(type="tests.support.edge.gated_model:Gated"),
            training=Training(local_epochs=1),
            data=Data(dataset=_OURS, clients=CLIENTS),
            cohort=Cohort(**chosen),
            evaluation=Evaluation(every=0),
            stop=Stop(rounds=rounds),
        )
        try:
            async with asyncio.timeout(WITHIN_S), task_group() as group:
                course = Course(await Client(self.bus).submit(job))
                group.create_task(course._follow(self.bus), name=f"course of {course.job}")
                yield course
        except TimeoutError as exc:
            raise AssertionError("\n".join(["the job did not end", *map(_tail, self.stations)])) from exc

    async def trained(self, **how: Any) -> Course:
        """A job that nobody disturbs."""
        async with self.training(**how) as course:
            pass
        return course

    async def invocations(self, job: str, client: str, *, until: str) -> list[Invocation]:
        """What became of a client's invocations for a job, up to an outcome that is waited for."""
        found: list[Invocation] = []
        every = topics.invocation(topics.ANY, client)
        async with asyncio.timeout(WITHIN_S), self.bus.subscribe(every, start="first") as deliveries:
            async for delivery in deliveries:
                one = cloudevents.data_of(await delivery.read(), Invocation)
                if one.job == job:
                    found.append(one)
                    if one.outcome == until:
                        break
        return found


def _tail(station: Station) -> str:
    lines = station.log.read_text(errors="replace").splitlines()
    return "\n".join([f"--- {station.platform}", *lines[-LAST_LINES:]])


@contextlib.asynccontextmanager
async def spread(backbone: Backbone, uplink: Uplink, folder: Path) -> AsyncIterator[Spread]:
    """Everything running, and every client registered, until the end of the block."""
    nats = NatsServer(folder / "nats", host=backbone.address, max_file_bytes=STORE_BYTES)
    ready = asyncio.Event()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(nats)
        bus = await stack.enter_async_context(broker.connect(nats.url, name="test"))
        await stack.enter_async_context(running(system.run_server(nats.url, None, ready)))
        names = [f"site-{number}" for number in range(SITES)]
        await _register(bus, names, folder / "shards")
        stations = [
            await stack.enter_async_context(_station(name, backbone, uplink, nats.url, folder)) for name in names
        ]
        await ready.wait()
        yield Spread(nats, bus, stations)


@contextlib.asynccontextmanager
async def _station(name: str, backbone: Backbone, uplink: Uplink, url: str, folder: Path) -> AsyncIterator[Station]:
    disk = folder / name
    await asyncio.to_thread(disk.mkdir)
    async with backbone.site() as site, gate(folder / f"{name}.gate") as doorway:
        station = Station(site, name, doorway, disk, uplink, url)
        await station.boot()
        yield station
        await station.shut_down()


async def _register(bus: Broker, sites: list[str], shards_at: Path) -> None:
    """Give each site its share of the clients."""
    dealt = await asyncio.to_thread(
        provision.stage_dataset, _DEAL, platform="", shards_at=str(shards_at), data_dir=None
    )
    clients = [
        msgspec.structs.replace(one, platform=sites[number // EACH], labels={DATA_LABEL: _OURS})
        for number, one in enumerate(dealt)
    ]
    await Client(bus).register(clients)
