"""Any NATS client can drive the system: nats-py alone, nothing of ours, as in the README."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import nats as nats_py
from nats.aio.client import Client as NatsClient

import broker
from broker.nats.server import USER, NatsServer
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running

JOB = {
    "name": "bare",
    "data": {"dataset": "own", "clients": 10},
    "cohort": {"clients": 4, "grace_s": 0.2},
    "stop": {"rounds": 2},
}


async def client(server: NatsServer) -> NatsClient:
    return await nats_py.connect(
        f"nats://127.0.0.1:{server.port}", user=USER, password=server.password_file.read_text().strip()
    )


@contextlib.asynccontextmanager
async def at_work(server: NatsServer) -> AsyncIterator[NatsClient]:
    """A system that takes jobs and has clients for them; yields a connection of someone who knows nothing of it."""
    ready = asyncio.Event()
    async with broker.connect(server.url) as bus:
        await Client(bus).register(fakes.clients(10))
        async with running(serve(bus, FakeLearning(), on_ready=ready.set), Fleet(bus).serve()):
            await ready.wait()
            nc = await client(server)
            yield nc
            await nc.close()


async def test_a_bare_json_request_starts_training_and_everyone_can_watch(nats_server: NatsServer) -> None:
    async with at_work(nats_server) as nc:
        seen: list[dict[str, Any]] = []
        progress = await nc.subscribe("fl.progress.>")
        reply = await nc.request("fl.jobs.submit", json.dumps(JOB).encode(), timeout=60)
        job = json.loads(reply.data)["job"]
        async with asyncio.timeout(120):
            async for message in progress.messages:
                seen.append(json.loads(message.data))
                if message.subject == f"fl.progress.{job}.job.completed":
                    break

    assert job.startswith("bare-")
    assert {event["specversion"] for event in seen} == {"1.0"}
    assert {event["subject"] for event in seen} == {job}
    types = [event["type"] for event in seen]
    assert types[0] == "dev.fedkeeper.job.accepted"
    assert types.count("dev.fedkeeper.round.completed") == 2
    assert types.count("dev.fedkeeper.update.counted") == 8


async def test_a_bad_request_gets_the_error_and_the_server_stays_up(nats_server: NatsServer) -> None:
    async with at_work(nats_server) as nc:
        answers = [
            json.loads((await nc.request("fl.jobs.submit", payload, timeout=60)).data)
            for payload in (b"no json", b'{"cohort": {"clients": 0}}', b'{"cohort": {"clients": 3, "quorum": 4}}')
        ]
        good = json.loads((await nc.request("fl.jobs.submit", json.dumps(JOB).encode(), timeout=60)).data)

    assert "not a JSON job object" in answers[0]["error"]
    assert answers[1]["field"] == "cohort.clients"
    assert answers[1]["error"] == "cohort.clients = 0: expected a whole number >= 1"
    assert answers[2]["field"] == "cohort.quorum"
    assert "error" not in good


async def test_a_job_published_while_no_server_runs_is_trained_when_a_server_starts(nats_server: NatsServer) -> None:
    async with broker.connect(nats_server.url) as bus:
        sdk = Client(bus)
        await sdk.register(fakes.clients(10))
        nc = await client(nats_server)
        await nc.publish("fl.jobs.submit", json.dumps(JOB).encode())
        await nc.flush()
        await nc.close()
        async with running(serve(bus, FakeLearning()), Fleet(bus).serve()), asyncio.timeout(120):
            async for message in sdk.watch():
                if message.event.what == "job.completed":
                    break
        assert [record.phase for record in await sdk.jobs()] == ["completed"]
