"""An FL server on mosquitto alone, driven by mosquitto's own command-line clients."""

import asyncio
import contextlib
import itertools
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import broker
from broker.errors import Disconnected, StoreChanged
from broker.messages.progress import UpdateCounted
from fedkeeper.sdk import Client
from fedkeeper.services.restart import run_with_restarts
from server.held import Held
from server.service import serve
from tests.support import fakes
from tests.support.brokers import Mosquitto
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.server_crashes import train

JOB = {
    "name": "bare",
    "data": {"dataset": "own", "clients": 10},
    "cohort": {"clients": 4, "grace_s": 0.2},
    "stop": {"rounds": 2},
}


async def test_any_mqtt_client_can_submit_a_job_and_watch_it(mosquitto: Mosquitto, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(JOB), encoding="utf-8")
    ready = asyncio.Event()
    port = ("-p", str(mosquitto.port))
    async with broker.connect(mosquitto.url) as bus:
        await Client(bus).register(fakes.clients(10))
        async with running(serve(bus, FakeLearning(), on_ready=ready.set), Fleet(bus).serve()):
            await ready.wait()
            watching = await asyncio.create_subprocess_exec(
                *("mosquitto_sub", *port, "-t", "fl/progress/#", "-v"), stdout=asyncio.subprocess.PIPE
            )
            submitting = await asyncio.create_subprocess_exec(
                *("mosquitto_pub", *port, "-q", "1", "-t", "fl/jobs/submit", "-f", file)
            )
            assert await submitting.wait() == 0
            seen = await until_completed(watching)
            watching.terminate()
            await watching.wait()
        [record] = await Client(bus).jobs()
    assert record.id.startswith("bare-")
    assert {event["specversion"] for event in seen} == {"1.0"}
    assert {event["subject"] for event in seen} == {record.id}


async def until_completed(watching: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    seen = []
    assert watching.stdout is not None
    async with asyncio.timeout(120):
        while line := await watching.stdout.readline():
            topic, _, text = line.decode().partition(" ")
            seen.append(json.loads(text))
            if "/job/completed/" in topic:
                break
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2, 3, 4])
async def test_a_server_that_dies_at_any_write_is_replaced_and_trains_the_same_model(
    tmp_path: Path, first: int
) -> None:
    """Every fourth write, so that four such tests see them all."""
    undisturbed, _, _, _ = await train("memory://undisturbed", None)
    for writes in itertools.count(first, 4):
        server = Mosquitto(tmp_path / str(writes))
        await server.start()
        try:
            digest, fleet, _, died = await train(server.url, writes)
        finally:
            await server.kill()
        assert digest == undisturbed, f"another model after a crash at write {writes}"
        assert max(fleet.task_counts.values()) <= 2
        if not died:
            break
    assert writes > 30, "three rounds have more writes than that"


@pytest.mark.slow
async def test_a_broker_that_crashes_mid_job_costs_no_update(tmp_path: Path) -> None:
    """Whatever Mosquitto forgets, the server and the clients start over, and the model is the same."""
    undisturbed, _, _, _ = await train("memory://undisturbed", None)
    mosquitto = Mosquitto(tmp_path, on_changes=True)
    await mosquitto.start()
    held, crashed = Held(), set[int]()

    async def run_server() -> None:
        try:
            async with broker.connect(mosquitto.url) as bus:
                await serve(bus, FakeLearning(), held=held)
        except StoreChanged as exc:
            held.store_changed(exc.kind)
            raise

    async def run_clients() -> None:
        async with broker.connect(mosquitto.url) as bus:
            await Client(bus).register(fakes.clients(6))
            await Fleet(bus).serve()

    async def crash_once_a_round() -> None:
        async with broker.connect(mosquitto.url) as bus, aclosing(Client(bus).watch("crashing")) as events:
            async for update in events:
                event = update.event
                if isinstance(event, UpdateCounted) and event.counted == 2 and event.round not in crashed:
                    crashed.add(event.round)
                    await mosquitto.save()
                    await mosquitto.kill()
                    await mosquitto.start()

    job = fakes.job(id="crashing", stop={"rounds": 3}, cohort={"quorum": 1.0})
    async with asyncio.timeout(300), running(run_with_restarts(run_server), run_with_restarts(run_clients)):
        async with broker.connect(mosquitto.url) as bus:
            await Client(bus).submit(job, timeout_s=120)
        while not await is_over(mosquitto.url, "crashing"):
            with contextlib.suppress(Disconnected):
                await crash_once_a_round()
    async with broker.connect(mosquitto.url) as bus:
        record = await Client(bus).job("crashing")
    await mosquitto.kill()
    assert crashed == {1, 2, 3}
    assert record.model is not None
    assert record.model.sha256 == undisturbed


async def is_over(url: str, job: str) -> bool:
    async with broker.connect(url) as bus:
        return (await Client(bus).job(job)).is_finished
