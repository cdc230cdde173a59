"""Whole rounds over emulated platforms, for tests: broker, FL server, bridge, and the real function's processes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import broker
from bridges import ManagedPlatform, RetryPolicy
from broker.base import Broker
from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Data, Evaluation, Model, Stop, Training
from broker.messages.progress import Event, RoundCompleted
from broker.nats.server import NatsServer
from client_fn.site import Site
from fedkeeper.deployment import archives, deploying
from fedkeeper.deployment.file import DataSection, DeploymentFile, PlatformSection
from fedkeeper.sdk import Client
from fedkeeper.services import bridging
from fedkeeper.services.learning import TrainerLearning
from server import service
from tests.support.fakes import running
from tests.support.paths import REPOSITORY
from tests.support.trainers import InlineTrainers

WITHIN_S: Final = 300.0
IMAGE: Final = "fedkeeper-client:test"
SHORT_RETRIES: Final = RetryPolicy(retry_first_s=0.5, retry_most_s=2.0, start_s=240.0, run_s=240.0)


@dataclass
class Rounds:
    """A broker, an FL server on it, and the events of the last job.

    Attributes:
        bus: a connection to the broker.
        sdk: the SDK on this connection.
        url: URL of the broker.
        folder: folder of the test.
        events: events of the last job.
    """

    bus: Broker
    sdk: Client
    url: str
    folder: Path
    events: list[Event] = field(default_factory=list)

    @property
    def faults(self) -> Path:
        """Folder of the files that make models misbehave."""
        return self.folder / "faults"

    def misbehave(self, client: str, how: str) -> None:
        """Make a client's model misbehave: `how` is a mode of `tests.support.faulty`."""
        (self.faults / client).write_text(how)

    def trainings(self, client: str) -> int:
        """Return how often a client's model was trained, in all processes and attempts."""
        file = self.faults / f"{client}.trainings"
        return len(file.read_text()) if file.exists() else 0

    def image(self) -> Path:
        """Unpack the code of the image that OpenFaaS would run; return its folder."""
        folder = self.folder / "image"
        ZipFile(BytesIO(archives.build("openfaas"))).extractall(folder)
        return folder

    def file(self, platform: str, clients: int, **hosting: Any) -> DeploymentFile:
        """Return the deployment file of one platform."""
        env = {
            "PYTHONPATH": str(REPOSITORY),
            "FAULTS": str(self.faults),
            "FEDKEEPER_ALLOW": "tests.support.faulty",
            "FEDKEEPER_TRAINER_ENV": "FAULTS,FEDKEEPER_CLIENT",
        }
        section = PlatformSection(clients=clients, memory_mb=512, timeout_s=240, env=env, **hosting)
        data = DataSection(deal=_partition(clients), at=str(self.folder / "shards"), stage=True)
        return DeploymentFile(name="test", data=data, platforms={platform: section})

    async def deploy(self, file: DeploymentFile) -> list[str]:
        """Deploy all functions of a file and register their clients; return the ids of the clients."""
        desired = await deploying.desired_clients(self.sdk, file, self.url)
        steps = await deploying.plan_steps(self.sdk, file, desired)
        await deploying.apply(self.sdk, steps, lambda _: None)
        return [client.record.id for client in desired]

    @contextlib.asynccontextmanager
    async def bridge(self, host: ManagedPlatform, retries: RetryPolicy = SHORT_RETRIES) -> AsyncIterator[None]:
        """Run a bridge to a platform until the end of the block."""
        name = f"bridge-{host.name}"
        async with (
            broker.connect(self.url, name=name) as bus,
            running(bridging.serve(bus, host, retries)),
        ):
            yield

    async def train(self, clients: int, **cohort: Any) -> RoundCompleted:
        """Run a job of one round. All clients are needed unless `cohort` changes that."""
        chosen: dict[str, Any] = {"clients": clients, "quorum": 1.0, "deadline_s": 600.0, "grace_s": 600.0, **cohort}
        job = Job(
            name="faults",
            model=Model(type="tests.support.faulty:Faulty"),
            training=Training(local_epochs=1),
            data=_partition(clients),
            cohort=Cohort(**chosen),
            evaluation=Evaluation(every=0),
            stop=Stop(rounds=1),
        )
        name = await self.sdk.submit(job)
        async with asyncio.timeout(WITHIN_S), aclosing(self.sdk.watch(name)) as events:
            self.events = [progress.event async for progress in events]
        completed: RoundCompleted = self.only(RoundCompleted)
        return completed

    def only(self, kind: type[Any], **facts: Any) -> Any:
        """Return the only event of a class whose fields have the given values."""
        (event,) = self.all(kind, **facts)
        return event

    def all(self, kind: type[Any], **facts: Any) -> list[Any]:
        """Return the events of a class whose fields have the given values."""
        events = [event for event in self.events if isinstance(event, kind)]
        return [event for event in events if all(getattr(event, name) == value for name, value in facts.items())]


def _partition(clients: int) -> Data:
    return Data(dataset="digits", partition="iid", clients=clients)


@contextlib.asynccontextmanager
async def rounds(nats: NatsServer, folder: Path) -> AsyncIterator[Rounds]:
    """Run an FL server until the end of the block."""
    (folder / "faults").mkdir()
    async with (
        broker.connect(nats.url) as bus,
        broker.connect(nats.url, name="server") as own,
        running(service.serve(own, TrainerLearning(Site(), InlineTrainers(), None))),
    ):
        yield Rounds(bus, Client(bus), nats.url, folder)
