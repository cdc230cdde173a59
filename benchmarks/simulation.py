"""Runs jobs quickly in one process: the FL server, the function and the trainer's work, on a broker in memory.

All that decides about a model is the system's own: `server.service`, `client_fn.function` and
`client_fn.training.work`. What is left out is what separates them: processes, bridges, a broker's network and disk. So
a job has the same model here as in `fedkeeper run` on the same kind of processor.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

import broker
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents
from broker.messages.job import Job
from broker.messages.progress import Event, JobFailed, ModelEvaluated, RoundCompleted, UpdateRefused
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.support.tasks import task_group
from client_fn.code.named import Names
from client_fn.code.store import CodeStore
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import ClientError
from client_fn.exchange import Exchange
from client_fn.function import WarmState, handle
from client_fn.site import Site
from client_fn.trainer import shared
from client_fn.trainer.process import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers
from client_fn.training.orders import Look, Order, Together
from fedkeeper.sdk import Client
from fedkeeper.services.learning import TrainerLearning
from fedkeeper.services.provision import stage_dataset
from server.service import serve

# A trainer uses one thread. Torch reads this when it is imported, which happens at the first order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PLATFORM: Final = "local"
DEADLINE_S: Final = 3600.0
"""No client is slow or away here: no deadline decides."""


class OneProcess(Trainers):
    """Does orders for models of ours in this process, one after the other.

    Args:
        site: the site's settings.
        store: the versions of the user's code: there are none.
    """

    def __init__(self, site: Site, store: CodeStore) -> None:
        super().__init__(site, store)
        from client_fn.training import together, work

        self._do, self._do_together = work.do, together.do

    async def do(
        self,
        names: Names,  # noqa: ARG002 (the interface's arguments)
        order: Order | Look | Together,
        inputs: Mapping[str, SharedBytes],
        *,
        on_training: Callable[[], None] | None = None,
        limit_s: float | None = None,  # noqa: ARG002
    ) -> Answer:
        """Implements `Trainers.do`. Nothing else runs meanwhile, so an evaluation can't disturb a training."""
        if on_training is not None:
            on_training()
        contents = {name: shared.read(each.descriptor, each.size) for name, each in inputs.items()}
        if isinstance(order, Together):
            return Answer(*self._do_together(order, contents, lambda _: None))
        return Answer(*self._do(order, contents, lambda _: None))


@dataclass
class Outcome:
    """What a job has come to.

    Attributes:
        accuracy: test accuracy of each round's model, that of round 1 first; if clients judge the models, theirs.
        model: SHA-256 digest of the last model, in hex; empty: no round was completed.
        refused: number of updates that the server has refused, by code.
        error: why the job ended early; empty: it did not.
    """

    accuracy: list[float] = field(default_factory=list)
    model: str = ""
    refused: dict[str, int] = field(default_factory=dict)
    error: str = ""


class Behaviour:
    """How clients behave: honestly. Subclasses simulate attackers."""

    def stage(self, clients: Sequence[ClientRecord]) -> None:
        """Change the clients' shards before they are registered.

        Args:
            clients: all clients, whose shards are files.
        """

    def exchange(self, task: RoundTask, bus: Exchange) -> Exchange:  # noqa: ARG002 (of use in subclasses)
        """Return the broker that a client uses for a task.

        Args:
            task: the client's task.
            bus: the real one.
        """
        return bus


HONEST: Final = Behaviour()


class Simulation:
    """A system in this process; `open_simulation` opens one.

    Args:
        bus: its broker.
        warm: does all clients' tasks.
        folder: for the clients' shards.
        behaviour: how clients behave.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """

    def __init__(self, bus: Broker, warm: WarmState, folder: Path, behaviour: Behaviour, data_dir: Path | None) -> None:
        self._sdk = Client(bus)
        self._warm = warm
        self._folder = folder
        self._behaviour = behaviour
        self._data_dir = data_dir
        self._failure = ""

    async def run(self, job: Job) -> Outcome:
        """Run a job to its end. If a client's training fails, the job ends there.

        Args:
            job: a job for a built-in dataset.
        """
        rules = {"presence": "ignored", "deadline_s": DEADLINE_S, "grace_s": DEADLINE_S}
        job = msgspec.structs.replace(job, cohort=msgspec.structs.replace(job.cohort, **rules))
        clients = stage_dataset(job.data, platform=PLATFORM, shards_at=str(self._folder), data_dir=self._data_dir)
        self._behaviour.stage(clients)
        await self._sdk.register(clients)
        outcome = Outcome()
        async for update in self._sdk.watch(await self._sdk.submit(job, timeout_s=DEADLINE_S)):
            _note(update.event, outcome)
        outcome.error = self._failure or outcome.error
        return outcome

    async def serve_clients(self) -> None:
        """Do the clients' tasks, one after the other, until cancelled."""
        bus = self._sdk.broker
        async with bus.subscribe(topics.platform_tasks(PLATFORM), durable="clients", prefetch=1) as deliveries:
            async for delivery in deliveries:
                task = cloudevents.data_of(await delivery.read(), RoundTask)
                if not self._failure:
                    await self._train(task)
                await delivery.ack()

    async def _train(self, task: RoundTask) -> None:
        exchange = self._behaviour.exchange(task, self._sdk.broker)
        try:
            await handle(task, exchange, self._warm, attempt=1)
        except ClientError as exc:
            self._failure = f"{task.client_id}: {exc}"
            await self._sdk.cancel(task.job)


def _note(event: Event, outcome: Outcome) -> None:
    match event:
        case ModelEvaluated(accuracy=float(accuracy), round=round_) if round_:
            outcome.accuracy.append(accuracy)
        case RoundCompleted(model=model):
            outcome.model = model.sha256
        case UpdateRefused(code=code):
            outcome.refused[code] = outcome.refused.get(code, 0) + 1
        case JobFailed(reason=reason):
            outcome.error = reason
        case _:
            pass


@contextlib.asynccontextmanager
async def open_simulation(*, behaviour: Behaviour = HONEST, data_dir: Path | None = None) -> AsyncIterator[Simulation]:
    """Run the server and the clients until the end of the block.

    Args:
        behaviour: how clients behave.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """
    site, ready = Site(), asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="fedkeeper-simulation-") as folder, CodeStore(None, None) as store:
        trainers = OneProcess(site, store)
        warm = WarmState(trainers, site, ShardCache(site))
        async with broker.connect(f"memory://{folder}") as bus, task_group() as group:
            simulation = Simulation(bus, warm, Path(folder), behaviour, data_dir)
            learning = TrainerLearning(site, trainers, data_dir)
            services = [
                group.create_task(serve(bus, learning, on_ready=ready.set), name="server"),
                group.create_task(simulation.serve_clients(), name="clients"),
            ]
            await ready.wait()
            try:
                yield simulation
            finally:
                for service in services:
                    service.cancel()


async def run(job: Job, *, behaviour: Behaviour = HONEST, data_dir: Path | None = None) -> Outcome:
    """Run one job in a system of its own.

    Args:
        job: a job for a built-in dataset.
        behaviour: how clients behave.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """
    async with open_simulation(behaviour=behaviour, data_dir=data_dir) as simulation:
        return await simulation.run(job)
