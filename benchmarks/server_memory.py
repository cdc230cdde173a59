"""Memory of the FL server: with one large model, or with many updates that come as fast as the broker delivers.

    python -m benchmarks.server_memory --mb 300 --clients 2
    python -m benchmarks.server_memory --mb 2.3 --clients 1000 --rounds 1

The server is a process of its own, with a model that needs no training. The clients are dry: this process publishes
their updates as soon as the tasks are there. The numbers are the server's resident memory (VmRSS, VmHWM), above that of
a server without a job.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import safetensors.numpy

import broker
from benchmarks.processes import MB, memory_mb
from bridges import presence
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, job_file
from broker.messages.job import Job
from broker.messages.progress import RoundCompleted
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from broker.nats.server import NatsServer
from broker.support import heap
from broker.support.tasks import task_group
from fedkeeper.sdk import Client
from server.learning import EvaluationResult, InitialModel
from server.service import serve

PLATFORM: Final = "dry"
TENSORS: Final = 8
SAMPLE_S: Final = 0.05
START_S: Final = 3.0
"""After this time the server is ready, and its memory is that of a server without a job. Seconds."""


def weights(megabytes: float) -> Tensors:
    """Return a model of that size in float32, in TENSORS equal tensors."""
    size = int(megabytes * MB / 4 / TENSORS)
    return {f"layer{number}.weight": np.full(size, 0.01, np.float32) for number in range(TENSORS)}


class DryLearning:
    """Builds a model without torch, and evaluates nothing.

    Args:
        megabytes: the model's size.
    """

    def __init__(self, megabytes: float) -> None:
        self._megabytes = megabytes

    async def initial_model(self, job: Job) -> InitialModel:  # noqa: ARG002 (the interface's arguments)
        """Implements `Learning.initial_model`."""
        return InitialModel(weights(self._megabytes), (), ())

    async def read_model(self, url: str) -> bytes:
        """Implements `Learning.read_model`; no job asks for it."""
        raise NotImplementedError(url)

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:  # noqa: ARG002
        """Implements `Learning.evaluate`."""
        return EvaluationResult(0.0, 0.0, 1, {})

    async def score(self, job: Job, sums: Tensors) -> dict[str, float]:  # noqa: ARG002
        """Implements `Learning.score`; no job asks for it."""
        return {}


async def run_server(url: str, megabytes: float) -> None:
    """Run the server until it is ended."""
    heap.keep_large_blocks()
    async with broker.connect(url, name="server") as bus:
        await serve(bus, DryLearning(megabytes))


class Memory(NamedTuple):
    """Memory of a server, in MB.

    Attributes:
        alone: before it had a job.
        peak: the most that it had.
        samples: what it had every SAMPLE_S seconds.
    """

    alone: float
    peak: float
    samples: list[float]


Answer = Callable[[Broker], Coroutine[Any, Any, None]]
"""Answers the tasks of all dry clients, until cancelled."""


async def measure(folder: Path, megabytes: float, clients: int, rounds: int, answer: Answer | None = None) -> Memory:
    """Run one job and return the server's memory.

    Args:
        folder: for the broker's store.
        megabytes: size of the model.
        clients: number of clients in each round.
        rounds: number of rounds.
        answer: answers the tasks; None: each with the same update.
    """
    answer = answer or (lambda bus: answer_tasks(bus, same_update(megabytes)))
    async with (
        NatsServer(folder) as nats,
        broker.connect(nats.url) as bus,
        running_server(nats.url, megabytes) as pid,
    ):
        return await _run_job(bus, pid, dry_job(clients, rounds), answer)


@contextlib.asynccontextmanager
async def running_server(url: str, megabytes: float) -> AsyncIterator[int]:
    """Run a server in a process of its own; yield the process's id.

    Args:
        url: the broker.
        megabytes: size of its models.
    """
    arguments = ("-m", "benchmarks.server_memory", "--serve", url, "--mb", str(megabytes))
    server = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        yield server.pid
    finally:
        server.terminate()
        await server.wait()


async def _run_job(bus: Broker, server: int, job: Job, answer: Answer) -> Memory:
    sdk, samples = Client(bus), list[float]()
    await sdk.register([dry_client(number) for number in range(job.cohort.clients)])
    await asyncio.sleep(START_S)
    alone = memory_mb(server, "VmRSS")
    async with task_group() as group:
        tasks = [
            group.create_task(presence.announce(bus, presence.Bridge(PLATFORM)), name="presence"),
            group.create_task(answer(bus), name="clients"),
            group.create_task(_sample(server, samples), name="samples"),
        ]
        completed = 0
        async for update in sdk.watch(await sdk.submit(job, timeout_s=60.0)):
            completed += isinstance(update.event, RoundCompleted)
        for task in tasks:
            task.cancel()
    if completed < job.stop.rounds:
        raise RuntimeError(f"the job ended after {completed} of {job.stop.rounds} rounds")
    return Memory(alone, memory_mb(server, "VmHWM"), samples)


def dry_job(clients: int, rounds: int) -> Job:
    """Return a job for dry clients, without evaluations.

    Args:
        clients: number of clients of each round.
        rounds: number of rounds.
    """
    spec = {
        "name": "dry",
        "data": {"dataset": "dry", "clients": clients},
        "cohort": {"clients": clients, "deadline_s": 3600, "grace_s": 0},
        "evaluation": {"every": 0},
        "stop": {"rounds": rounds},
    }
    return job_file.from_dict(spec)


def dry_client(number: int) -> ClientRecord:
    """Return the register's entry of a dry client."""
    return ClientRecord(id=f"c-{number:04}", platform=PLATFORM, labels={"data": "dry"}, samples=1)


def dry_header(task: RoundTask, **fields: Any) -> UpdateHeader:
    """Return the metadata of a dry client's update.

    Args:
        task: the client's task.
        fields: what differs.
    """
    told: dict[str, Any] = {"samples": 1, "update": "delta", **fields}
    return UpdateHeader(
        job=task.job, round=task.round, attempt=1, client=task.client_id, base=task.model.sha256, token=task.token,
        **told,
    )  # fmt: skip


def same_update(megabytes: float) -> Callable[[RoundTask], tuple[Tensors, UpdateHeader]]:
    """Return what answers every task with the same tensors.

    Args:
        megabytes: their size.
    """
    tensors = weights(megabytes)
    return lambda task: (tensors, dry_header(task))


async def answer_tasks(bus: Broker, update_of: Callable[[RoundTask], tuple[Tensors, UpdateHeader]]) -> None:
    """Publish each client's update as soon as its task is there, until cancelled.

    Args:
        bus: delivers the tasks.
        update_of: returns the update of a task.
    """
    limit = asyncio.Semaphore(16)

    async def answer(task: RoundTask) -> None:
        tensors, header = update_of(task)
        async with limit:
            content = await asyncio.to_thread(safetensors.numpy.save, tensors, header.to_metadata())
            await bus.publish(topics.update(task.job, task.round, task.client_id, 1), content)

    durable = bus.subscribe(topics.platform_tasks(PLATFORM), durable="dry-clients", prefetch=64)
    async with task_group() as group, durable as deliveries:
        async for delivery in deliveries:
            task = cloudevents.data_of(await delivery.read(), RoundTask)
            await delivery.ack()
            group.create_task(answer(task), name=task.id)


async def _sample(pid: int, into: list[float]) -> None:
    while True:
        into.append(memory_mb(pid, "VmRSS"))
        await asyncio.sleep(SAMPLE_S)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=float, default=300.0, help="size of the model in MB")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(run_server(options.serve, options.mb))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), options.mb, options.clients, options.rounds))
    above = found.peak - found.alone
    print(f"{options.mb} MB, {options.clients} clients, {options.rounds} rounds; server alone {found.alone:.0f} MB")
    print(f"peak {above:+.0f} MB = {above / options.mb:.1f} times the model")
    eighth = max(1, len(found.samples) // 8)
    print("RSS over time (MB):", " ".join(f"{mb - found.alone:.0f}" for mb in found.samples[::eighth]))


if __name__ == "__main__":
    main()
