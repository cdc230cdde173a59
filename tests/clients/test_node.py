"""npm's cloudevents, nats.js and npm's mqtt read every event, as strictly as they can. Run only where npm is."""

import asyncio
import contextlib
import json
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import broker
from broker import Broker
from broker.errors import ConnectFailed
from broker.messages import codec, progress
from broker.messages.progress import Progress
from broker.nats.server import USER, NatsServer
from broker.support.tasks import task_group
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.brokers import Mosquitto
from tests.support.events import EVENTS
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.slow

WITHIN_S = 120.0
LAST = "last"
"""Id of the event after which the scripts end."""

SCHEMA = str(REPOSITORY / "docs/schemas/progress.json")
JOB = codec.encode(fakes.job("foreign", stop={"rounds": 2})).decode()
KINDS = {f"dev.fedkeeper.{event.what}" for event in EVENTS}
ONCE_A_JOB = ("job.accepted", "job.started", "job.completed")


@contextlib.asynccontextmanager
async def system(url: str) -> AsyncIterator[Broker]:
    """A server and its clients, during the block."""
    ready = asyncio.Event()
    async with broker.connect(url) as bus:
        await Client(bus).register(fakes.clients(10))
        async with running(serve(bus, FakeLearning(), on_ready=ready.set), Fleet(bus).serve()):
            await ready.wait()
            yield bus


@contextlib.asynccontextmanager
async def node(script: Path, *arguments: str) -> AsyncIterator[Process]:
    """Run a script during the block."""
    process = await asyncio.create_subprocess_exec("node", script, *arguments, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def output(script: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a script to its end, and return what it has printed."""
    async with node(script, *arguments) as process, asyncio.timeout(WITHIN_S):
        printed, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in printed.splitlines()]


async def read_by(script: Path, *arguments: str, url: str) -> list[dict[str, Any]]:
    """Let a script submit a job and read its events, then an example of every kind; return what it prints."""
    async with system(url) as bus, task_group() as group:
        reading = group.create_task(output(script, *arguments, JOB, SCHEMA), name="node")
        async for event in Client(bus).watch():
            if event.event.what == "job.completed":
                break
        for number, example in enumerate(EVENTS, 1):
            id_ = LAST if number == len(EVENTS) else f"example-{number}"
            message = progress.encode(Progress("demo", example, 1_700_000_000.0 + number, id_))
            await bus.publish(progress.topic_of("demo", example), message)
    return reading.result()


def check(lines: list[dict[str, Any]], *, answers: int) -> None:
    """Check that each event was read once live, and once from what the broker keeps."""
    assert len([line for line in lines if line["how"] == "answer" and line["event"]["job"]]) == answers
    live, stored = ([line for line in lines if line["how"] == how] for how in ("live", "stored"))
    assert {re.split("[./]", line["topic"])[1] for line in live} >= {"jobs", "tasks", "progress"}
    told = [line["event"] for line in live if line["event"]["source"] == "/server" and "progress" in line["topic"]]
    kept = [line["event"] for line in stored]
    assert {event["type"] for event in told} == KINDS
    by_id = {event["id"]: event for event in told}
    assert {event["id"]: event for event in kept} == by_id
    assert len(kept) == len(told) == len(by_id)
    of_job = [event["type"].removeprefix("dev.fedkeeper.") for event in told if event["subject"] != "demo"]
    assert [of_job.count(kind) for kind in (*ONCE_A_JOB, "round.completed")] == [1, 1, 1, 2]


async def test_nats_js_reads_every_event(nats_server: NatsServer, scripts: Path) -> None:
    password = nats_server.password_file.read_text(encoding="utf-8").strip()
    login = (str(nats_server.port), USER, password)
    check(await read_by(scripts / "read_nats.mjs", *login, url=nats_server.url), answers=1)


@pytest.mark.parametrize(("version", "answers"), [("5", 1), ("4", 0)])
async def test_npm_mqtt_reads_every_event(mosquitto: Mosquitto, scripts: Path, version: str, answers: int) -> None:
    lines = await read_by(scripts / "read_mqtt.mjs", str(mosquitto.port), version, url=mosquitto.url)
    check(lines, answers=answers)


async def test_a_broker_that_returns_retained_messages_late_is_refused_at_once(scripts: Path) -> None:
    async with node(scripts / "aedes.mjs") as process, asyncio.timeout(WITHIN_S):
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        with pytest.raises(ConnectFailed, match="this broker can't serve FedKeeper"):
            async with broker.connect(f"mqtt://127.0.0.1:{port}"):
                pass
