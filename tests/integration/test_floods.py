"""Another client floods a stream with small messages, and jobs go on meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

import broker
from broker import topics
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import watch_to_end

FLOODED = topics.progress("other", "round", "opened")
PER_S = 10_000
"""More messages than a server stores in a second if it syncs each of them."""


@pytest.mark.slow
async def test_a_job_ends_while_another_client_floods_the_progress_of_another_job(nats_server: NatsServer) -> None:
    async with asyncio.timeout(300), broker.connect(nats_server.url) as bus:
        sdk, fleet = Client(bus), Fleet(bus)
        await sdk.register(fakes.clients(4))
        async with running(serve(bus, FakeLearning()), fleet.serve()), flood(nats_server.url):
            job = await sdk.submit(fakes.job(cohort={"quorum": 1.0, "deadline_s": 250.0}), timeout_s=250)
            await watch_to_end(sdk, job)


@contextlib.asynccontextmanager
async def flood(url: str) -> AsyncIterator[None]:
    """Send small messages during the block, without waiting until they are stored."""

    async def send() -> None:
        connection = await bus._link.connection()  # type: ignore[attr-defined]
        while True:
            for _ in range(PER_S // 100):
                await connection.send(FLOODED, b"x" * 60)
            await asyncio.sleep(0.01)

    async with broker.connect(url) as bus, task_group() as group:
        sending = group.create_task(send(), name="flood")
        # The first of them fill the stream's queue.
        await asyncio.sleep(1)
        yield
        sending.cancel()
