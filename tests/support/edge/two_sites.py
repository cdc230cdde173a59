"""A broker and an FL server on this host, two sites with a link each, and jobs that train on both sites."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, progress
from broker.messages.invocation import Invocation
from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Data, Evaluation, Model, Stop, Training
from broker.messages.progress import FINAL_EVENTS, Event, JobCompleted, Progress, RoundCompleted, UpdateCounted
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from client_fn import site
from fedkeeper.sdk import Client
from fedkeeper.services import provision, system
from server.cohort import DATA_LABEL
from tests.support.edge.links import Backbone
from tests.support.edge.site_programs import ALLOWED, Station, Uplink
from tests.support.edge.training_gate import gate
from tests.support.fakes import running

WITHIN_S: Final = 300.0
SITES: Final = 2
EACH: Final = 2
"""Number of clients of a site. A site has one worker."""

CLIENTS: Final = SITES * EACH
ROUNDS: Final = 3
STORE_BYTES: Final = 2 << 30
LAST_LINES: Final = 30

_PARTITION: Final = Data(dataset="digits", partition="iid", clients=CLIENTS)
_DATASET: Final = "spread"
"""Name of the shards' data. Every local bridge stages built-in datasets itself when a job waits, so this is not one."""


@dataclass
class JobHistory:
    """The progress messages of a job, repetitions included. A test can read it while the job runs.

    Attributes:
        job: id of the job.
        messages: all messages up to now.
    """

    job: str
    messages: list[Progress] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def all(self, kind: type[Event], **facts: Any) -> list[Any]:
        """Return the events of a class whose fields have the given values."""
        events = [message.event for message in self.messages if isinstance(message.event, kind)]
        return [event for event in events if all(getattr(event, name) == value for name, value in facts.items())]

    async def wait_for(self, kind: type[Event], **facts: Any) -> Any:
        """Wait for an event of a class whose fields have the given values, and return it."""
        while not (events := self.all(kind, **facts)):
            self._more.clear()
            await self._more.wait()
        return events[0]

    @property
    def digest(self) -> str:
        """SHA-256 of the final model."""
        (end,) = self.all(JobCompleted)
        return str(end.model.sha256)

    @property
    def counted(self) -> Counter[tuple[int, str]]:
        """How often each client's update counted in each round."""
        return Counter((event.round, event.client) for event in self.all(UpdateCounted))

    @property
    def cohorts(self) -> list[tuple[str, ...]]:
        """The clients whose updates are in the model, for each completed round."""
        return [event.counted for event in self.all(RoundCompleted)]

    async def _follow(self, bus: Broker) -> None:
        async with bus.subscribe(topics.job_progress(self.job), start="first", prefetch=64) as deliveries:
            async for delivery in deliveries:
                self.messages.append(progress.decode(await delivery.read()))
                self._more.set()
                if isinstance(self.messages[-1].event, FINAL_EVENTS):
                    return


@dataclass
class TwoSites:
    """A broker, an FL server, and two sites.

    Attributes:
        nats: the broker, on this host.
        bus: a connection to the broker.
        stations: the sites.
    """

    nats: NatsServer
    bus: Broker
    stations: list[Station]

    @contextlib.asynccontextmanager
    async def training(self, rounds: int = ROUNDS, **cohort: Any) -> AsyncIterator[JobHistory]:
        """Run a job; the end of the block waits for its end. All clients are needed unless `cohort` changes that."""
        chosen: dict[str, Any] = {"clients": CLIENTS, "quorum": 1.0, "deadline_s": WITHIN_S, "grace_s": 1.0, **cohort}
        job = Job(
            name="spread",
            model=Model(type="tests.support.edge.gated_model:Gated"),
            training=Training(local_epochs=1),
            data=Data(dataset=_DATASET, clients=CLIENTS),
            cohort=Cohort(**chosen),
            evaluation=Evaluation(every=0),
            stop=Stop(rounds=rounds),
        )
        try:
            async with asyncio.timeout(WITHIN_S), task_group() as group:
                history = JobHistory(await Client(self.bus).submit(job))
                group.create_task(history._follow(self.bus), name=f"history of {history.job}")
                yield history
        except TimeoutError as exc:
            raise AssertionError("\n".join(["the job did not end", *map(_tail, self.stations)])) from exc

    async def train(self, **options: Any) -> JobHistory:
        """Run a job to its end without a disturbance; the options are those of `training`."""
        async with self.training(**options) as history:
            pass
        return history

    async def invocations(self, job: str, client: str, *, until: str) -> list[Invocation]:
        """Return the invocations of a client for a job, up to the first one with the outcome `until`."""
        records: list[Invocation] = []
        every = topics.invocation(topics.ANY, client)
        async with asyncio.timeout(WITHIN_S), self.bus.subscribe(every, start="first") as deliveries:
            async for delivery in deliveries:
                record = cloudevents.data_of(await delivery.read(), Invocation)
                if record.job == job:
                    records.append(record)
                    if record.outcome == until:
                        break
        return records


def _tail(station: Station) -> str:
    lines = station.log.read_text(errors="replace").splitlines()
    return "\n".join([f"--- {station.platform}", *lines[-LAST_LINES:]])


@contextlib.asynccontextmanager
async def two_sites(backbone: Backbone, uplink: Uplink, folder: Path) -> AsyncIterator[TwoSites]:
    """Start everything and register all clients; stop everything at the end of the block."""
    nats = NatsServer(folder / "nats", host=backbone.address, max_file_bytes=STORE_BYTES)
    ready = asyncio.Event()
    async with AsyncExitStack() as stack:
        # The server's trainer imports the gated model from there.
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("PYTHONPATH", ALLOWED["PYTHONPATH"])
        await stack.enter_async_context(nats)
        bus = await stack.enter_async_context(broker.connect(nats.url, name="test"))
        await stack.enter_async_context(running(system.run_server(nats.url, site.read(ALLOWED), ready=ready)))
        names = [f"site-{number}" for number in range(SITES)]
        await _register(bus, names, folder / "shards")
        stations = [
            await stack.enter_async_context(_station(name, backbone, uplink, nats.url, folder)) for name in names
        ]
        await ready.wait()
        yield TwoSites(nats, bus, stations)


@contextlib.asynccontextmanager
async def _station(name: str, backbone: Backbone, uplink: Uplink, url: str, folder: Path) -> AsyncIterator[Station]:
    disk = folder / name
    await asyncio.to_thread(disk.mkdir)
    async with backbone.site() as site, gate(folder / f"{name}.gate") as site_gate:
        station = Station(site, name, site_gate, disk, uplink, url)
        await station.boot()
        yield station
        await station.shut_down()


async def _register(bus: Broker, sites: list[str], shards_at: Path) -> None:
    """Give each site its share of the clients."""
    records = await asyncio.to_thread(
        provision.stage_dataset, _PARTITION, platform="", shards_at=str(shards_at), data_dir=None
    )
    clients = [
        msgspec.structs.replace(record, platform=sites[number // EACH], labels={DATA_LABEL: _DATASET})
        for number, record in enumerate(records)
    ]
    await Client(bus).register(clients)
