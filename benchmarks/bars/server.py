"""Memory of the FL server, and how quickly models and updates pass the broker."""

import asyncio
import shutil
import time
from typing import Final

import safetensors.numpy

from benchmarks import server_memory
from benchmarks.bars.bar import Found
from benchmarks.bars.session import Session
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents
from broker.messages.round import RoundTask
from broker.support.tasks import task_group

UPDATE_MB: Final = 2.328104
"""582,026 parameters in float32."""

LARGE_MB: Final = 500.0
LARGE_CLIENTS: Final = 4


async def measure_memory(session: Session) -> dict[str, Found]:
    """Measure the peak of the server's memory with 1,000 clients, beside that with 10."""
    megabytes, cohorts = (0.1, (2, 6)) if session.is_small else (UPDATE_MB, (10, 1000))
    peaks = []
    for clients in cohorts:
        folder = session.new_folder()
        peaks.append((await server_memory.measure(folder, megabytes, clients, 2)).peak)
        shutil.rmtree(folder)
    few, many = cohorts
    return {"memory-clients": Found([peaks[1]], [peaks[0]], f"with {few} clients", {"clients": many, "mb": megabytes})}


async def measure_large(session: Session) -> dict[str, Found]:
    """Measure a large model: the server's peak above a server without a job, in models; MB/s down and up."""
    megabytes = 5.0 if session.is_small else LARGE_MB
    folder, clients = session.new_folder(), LargeClients(megabytes)
    memory = await server_memory.measure(folder, megabytes, LARGE_CLIENTS, 2, clients.answer)
    shutil.rmtree(folder)
    facts = {"clients": LARGE_CLIENTS, "mb": megabytes}
    return {
        "large-memory": Found([(memory.peak - memory.alone) / megabytes], facts=facts),
        "large-down": Found(clients.down_mb_s, facts=facts),
        "large-up": Found(clients.up_mb_s, facts=facts),
    }


class LargeClients:
    """Dry clients that fetch the round's model together, and then send their updates together.

    Args:
        megabytes: size of model and update.

    Attributes:
        down_mb_s: of each round, all clients together, in MB/s.
        up_mb_s: of each round, until the broker has stored all updates.
    """

    def __init__(self, megabytes: float) -> None:
        self._megabytes = megabytes
        self._tensors = server_memory.weights(megabytes)
        self.down_mb_s: list[float] = []
        self.up_mb_s: list[float] = []

    async def answer(self, bus: Broker) -> None:
        """Answer the tasks of one round after the other, until cancelled.

        Args:
            bus: delivers the tasks.
        """
        durable = bus.subscribe(topics.platform_tasks(server_memory.PLATFORM), durable="dry-clients", prefetch=64)
        tasks = list[RoundTask]()
        async with durable as deliveries:
            async for delivery in deliveries:
                tasks.append(cloudevents.data_of(await delivery.read(), RoundTask))
                await delivery.ack()
                if len(tasks) == LARGE_CLIENTS:
                    await self._run(bus, tasks)
                    tasks.clear()

    async def _run(self, bus: Broker, tasks: list[RoundTask]) -> None:
        size = self._megabytes * len(tasks)
        begin_s = time.perf_counter()
        async with task_group() as group:
            for task in tasks:
                group.create_task(_fetch(bus, task), name=f"fetch for {task.client_id}")
        self.down_mb_s.append(size / (time.perf_counter() - begin_s))
        contents = [
            await asyncio.to_thread(safetensors.numpy.save, self._tensors, server_memory.dry_header(task).to_metadata())
            for task in tasks
        ]
        begin_s = time.perf_counter()
        async with task_group() as group:
            for task, content in zip(tasks, contents, strict=True):
                topic = topics.update(task.job, task.round, task.client_id, 1)
                group.create_task(bus.publish(topic, content), name=f"send for {task.client_id}")
        self.up_mb_s.append(size / (time.perf_counter() - begin_s))


async def _fetch(bus: Broker, task: RoundTask) -> None:
    value = await bus.get(task.model.topic)
    if value is None or len(value.payload) < task.model.bytes:
        raise RuntimeError(f"the model of {task.id} is not there")
