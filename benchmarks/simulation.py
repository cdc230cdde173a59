"""Runs jobs quickly in one process: the FL server, the function and the trainer's work, on a broker in memory.

All that decides about a model is the system's own: `server.service`, `client_fn.function` and
`client_fn.training.work`. What is left out is what separates them: processes, bridges, a broker's network and disk. So
a job has the same model here as in `fedkeeper run` on the same kind of processor. With a store, the broker is a real
one on disk, and a job that was stopped goes on as after a crash.
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
from broker.deliveries import Delivery
from broker.messages import cloudevents
from broker.messages.job import Job
from broker.messages.progress import (
    FINAL_EVENTS,
    Event,
    JobCompleted,
    JobFailed,
    ModelEvaluated,
    RoundCompleted,
    RoundOpened,
    UpdateRefused,
)
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.support.tasks import task_group
from client_fn import gathering
from client_fn.code.named import Names
from client_fn.code.store import CodeStore
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import ClientError
from client_fn.exchange import Exchange
from client_fn.function import WarmState, handle
from client_fn.site import Site
from client_fn.trainer import shared
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers
from client_fn.training.orders import Look, Order, Together
from fedkeeper.errors import NoSuchJob
from fedkeeper.sdk import Client
from fedkeeper.services.learning import TrainerLearning
from fedkeeper.services.provision import stage_dataset
from fedkeeper.services.store import open_store
from server.service import serve

# A trainer uses one thread. Torch reads this when it is imported, which happens at the first order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PLATFORM: Final = "local"
ACK_WAIT_S: Final = 3.0
"""A job that goes on waits so long for the task that was done when it was stopped."""

DEADLINE_S: Final = 365 * 86400.0
"""No client is slow or away here, and a job may go on long after it was stopped: no deadline decides."""


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
        self._turn = asyncio.Lock()

    async def do(
        self,
        names: Names,  # noqa: ARG002 (the interface's arguments)
        order: Order | Look | Together,
        inputs: Mapping[str, SharedBytes],
        *,
        on_training: Callable[[], None] | None = None,
        limit_s: float | None = None,  # noqa: ARG002
    ) -> Answer:
        """Implements `Trainers.do`. No other order is done meanwhile, so an evaluation can't disturb a training."""
        async with self._turn:
            if on_training is not None:
                on_training()
            contents = {name: shared.read(each.descriptor, each.size) for name, each in inputs.items()}
            # In a thread, so that the broker is answered and the server's clock is read meanwhile.
            if isinstance(order, Together):
                return Answer(*await asyncio.to_thread(self._do_together, order, contents, lambda _: None))
            return Answer(*await asyncio.to_thread(self._do, order, contents, lambda _: None))


@dataclass
class Outcome:
    """What a job has come to.

    Attributes:
        accuracy: test accuracy of each round's model, that of round 1 first; if clients judge the models, theirs.
        model: SHA-256 digest of the last model, in hex; empty: no round was completed.
        update_bytes: mean size of the last round's counted updates, in bytes.
        refused: number of updates that the server has refused, by code.
        error: why the job ended early; empty: it did not.
        round_s: duration of each completed round, in seconds; None: the run was stopped in it.
        parts: the phases of those rounds, and their evaluations, summed. Seconds.
        processors: number of counted updates by the kind of processor that has trained them.
        ended: whether the job has ended; it has not if it was stopped.
    """

    accuracy: list[float] = field(default_factory=list)
    model: str = ""
    update_bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    error: str = ""
    round_s: list[float | None] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    processors: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    _resumed: set[int] = field(default_factory=set, repr=False)

    def note(self, event: Event) -> None:
        """Take an event of the job's log into account."""
        match event:
            case ModelEvaluated(accuracy=float(accuracy), round=round_) if round_:
                self.accuracy.append(accuracy)
                self._add({"evaluation_s": event.evaluation_s})
            case RoundOpened(round=round_, resumed=True):
                self._resumed.add(round_)
            case RoundCompleted(model=model, bytes_in=size, counted=counted):
                self.model = model.sha256
                self.update_bytes = round(size / len(counted))
                self._note_time(event)
            case UpdateRefused(code=code):
                self.refused[code] = self.refused.get(code, 0) + 1
            case JobCompleted(processors=processors):
                self.processors = processors
            case JobFailed(reason=reason):
                self.error = reason
            case _:
                pass
        self.ended = self.ended or isinstance(event, FINAL_EVENTS)

    def _note_time(self, event: RoundCompleted) -> None:
        if event.round in self._resumed:
            self.round_s.append(None)
            return
        phases = msgspec.structs.asdict(event.split)
        self.round_s.append(phases.pop("round_s"))
        self._add(phases)

    def _add(self, seconds: Mapping[str, float]) -> None:
        for part, value in seconds.items():
            self.parts[part] = self.parts.get(part, 0.0) + value


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

    async def run(self, job: Job, *, job_id: str = "", until: Callable[[Outcome], bool] = lambda _: False) -> Outcome:
        """Run a job to its end, or go on with it. If a client's training fails, the job ends there.

        Args:
            job: a job for a built-in dataset.
            job_id: its id; the store may have it from before. Empty: a new one.
            until: asked after each round with what there is so far, and true ends this before the job has ended.
        """
        rules = {"presence": "ignored", "deadline_s": DEADLINE_S, "grace_s": DEADLINE_S}
        job = msgspec.structs.replace(job, cohort=msgspec.structs.replace(job.cohort, **rules))
        clients = stage_dataset(job.data, platform=PLATFORM, shards_at=str(self._folder), data_dir=self._data_dir)
        self._behaviour.stage(clients)
        await self._sdk.register(clients)
        outcome = Outcome()
        async with contextlib.aclosing(self._sdk.watch(await self._submitted(job, job_id))) as updates:
            async for update in updates:
                outcome.note(update.event)
                if isinstance(update.event, RoundCompleted) and until(outcome):
                    break
        outcome.error = self._failure or outcome.error
        return outcome

    async def _submitted(self, job: Job, job_id: str) -> str:
        """Submit a job unless the store has it, and return its id."""
        try:
            if job_id:
                await self._sdk.job(job_id)
                return job_id
        except NoSuchJob:
            pass
        return await self._sdk.submit(job, job_id=job_id, timeout_s=DEADLINE_S)

    async def serve_clients(self) -> None:
        """Do the clients' tasks until cancelled: as many at once as are trained in one program, by default one."""
        bus, most = self._sdk.broker, self._warm.site.most_together
        tasks = bus.subscribe(topics.platform_tasks(PLATFORM), durable="clients", prefetch=most)
        async with tasks as deliveries, task_group() as group:
            # The next one comes when one of them is acknowledged.
            async for delivery in deliveries:
                group.create_task(self._serve(delivery), name="task")

    async def _serve(self, delivery: Delivery) -> None:
        task = cloudevents.data_of(await delivery.read(), RoundTask)
        if not self._failure:
            async with _extended(delivery):
                await self._train(task)
        await delivery.ack()

    async def _train(self, task: RoundTask) -> None:
        exchange = self._behaviour.exchange(task, self._sdk.broker)
        try:
            await handle(task, exchange, self._warm, attempt=1)
        except ClientError as exc:
            self._failure = f"{task.client_id}: {exc}"
            await self._sdk.cancel(task.job)


@contextlib.asynccontextmanager
async def _extended(delivery: Delivery) -> AsyncIterator[None]:
    """Keep a delivery from being made again until the end of the block."""

    async def extend() -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            await delivery.working()

    async with task_group() as group:
        extension = group.create_task(extend(), name="extension")
        yield
        extension.cancel()


@contextlib.asynccontextmanager
async def open_simulation(
    *,
    behaviour: Behaviour = HONEST,
    data_dir: Path | None = None,
    store: Path | None = None,
    device: str = "",
    together: int = 0,
) -> AsyncIterator[Simulation]:
    """Run the server and the clients until the end of the block.

    Args:
        behaviour: how clients behave.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
        store: folder of a broker's store and the clients' shards, to go on with a job later; None: a broker in memory.
        device: what to train on, as torch names it; empty: as the job says.
        together: how many clients are trained in one program, whose models differ in the last bits; 0: one, or on a
            card as many as fit.
    """
    site, ready = Site(device=device, together=together), asyncio.Event()
    with CodeStore(None, None) as code:
        trainers = OneProcess(site, code)
        warm = WarmState(trainers, site, ShardCache(site), gathering=gathering.make(trainers, site))
        async with _broker(store) as (bus, folder), task_group() as group:
            simulation = Simulation(bus, warm, folder, behaviour, data_dir)
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


@contextlib.asynccontextmanager
async def _broker(store: Path | None) -> AsyncIterator[tuple[Broker, Path]]:
    """Run a broker until the end of the block; yield a connection to it, and a folder for shards."""
    if store is None:
        with tempfile.TemporaryDirectory(prefix="fedkeeper-simulation-") as folder:
            async with broker.connect(f"memory://{folder}") as bus:
                yield bus, Path(folder)
    else:
        async with open_store(store / "broker") as nats, broker.connect(nats.url, ack_wait_s=ACK_WAIT_S) as bus:
            yield bus, store / "shards"


async def run(job: Job, *, behaviour: Behaviour = HONEST, data_dir: Path | None = None) -> Outcome:
    """Run one job in a system of its own.

    Args:
        job: a job for a built-in dataset.
        behaviour: how clients behave.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """
    async with open_simulation(behaviour=behaviour, data_dir=data_dir) as simulation:
        return await simulation.run(job)
