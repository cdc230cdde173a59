"""Helpers for tests of the Cloud Functions bridge: both emulators, a bridge, functions, and a server that they call."""

import asyncio
import contextlib
import io
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

import broker
from bridges import gcf
from bridges.gcf import GcfPlatform, Settings
from bridges.secrets import SecretStore
from broker.messages.function import Function
from broker.messages.round import BlobRef, RoundTask
from emulators.gcf import cloud as google
from emulators.gcf.cloud import Cloud
from tests.support import tasks

WITHIN_S: Final = 120.0

CODE: Final = """
import json
import os
import urllib.request


def train(event):
    call = {"id": event["id"], "type": event["type"], "source": event["source"], "data": event.data,
            "pid": os.getpid(), "env": dict(os.environ)}
    with urllib.request.urlopen(os.environ["SINK"], json.dumps(call).encode()) as answer:
        if answer.read() == b"fail":
            raise RuntimeError("fails on request")


import functions_framework
train = functions_framework.cloud_event(train)
"""
"""Sends the facts of its call to the test, and fails if the test wants it."""


def archive(code: str = CODE) -> bytes:
    """Return a function's source as a zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("main.py", code)
    return content.getvalue()


def function(name: str = "client-00", **changes: Any) -> Function:
    """Return a function of the fabric `test`."""
    fields: dict[str, Any] = {
        "name": name,
        "fabric": "test",
        "broker": "nats://fl@broker:4222",
        "package": BlobRef("fl.packages.00", "00", 1),
    }
    return Function(**{**fields, **changes})


def task(client: str = "client-00", **changes: Any) -> RoundTask:
    """Return a task that no function trains."""
    return tasks.task(client, "gcf", **{"round": 3, **changes})


def settings(cloud: Cloud, **changes: Any) -> Settings:
    """Return the settings of a bridge to the emulators, with short pauses."""
    fields: dict[str, Any] = {
        "project": "test-project",
        "api": cloud.functions.url,
        "call_s": 10.0,
        "deploy_s": WITHIN_S,
        "poll_s": 0.01,
    }
    return Settings(**{**fields, **changes})


@contextlib.asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    """Run both emulators, with short pauses between repetitions."""
    async with asyncio.timeout(WITHIN_S), google.serving(retry_first_s=0.05, retry_most_s=0.2) as cloud:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", cloud.pubsub.address)
        yield cloud


@contextlib.asynccontextmanager
async def bridge(settings: Settings, secrets: Path | None = None) -> AsyncIterator[GcfPlatform]:
    """Open the platform of a bridge."""
    async with broker.connect("memory://gcf") as bus, gcf.opened(settings, SecretStore(secrets), bus) as platform:
        yield platform


async def publish(platform: GcfPlatform, task: RoundTask, attempt: int = 1) -> str:
    """Invoke a function, and return the id of the message that Pub/Sub accepted."""
    (activation,) = [activation async for activation in platform.invoke(task, attempt)]
    assert (activation.state, activation.cold) == ("accepted", None)
    return activation.id


@dataclass
class Sink:
    """A server that functions call.

    Attributes:
        url: address of the server.
        calls: bodies of the calls, in order.
        answers: responses to the next calls; `ok` after that.
        open: functions wait for a response until this is set.
    """

    url: str = ""
    calls: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    answers: list[str] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        """Handle a call."""
        self.calls.put_nowait(await request.json())
        answer = self.answers.pop(0) if self.answers else "ok"
        await self.open.wait()
        return web.Response(text=answer)


@contextlib.asynccontextmanager
async def sinking() -> AsyncIterator[Sink]:
    """Run a sink until the end of the block."""
    sink = Sink()
    sink.open.set()
    app = web.Application(client_max_size=4 << 20)
    app.router.add_post("/", sink.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sink.url = "http://{}:{}/".format(*runner.addresses[0][:2])
    try:
        yield sink
    finally:
        sink.open.set()
        await runner.cleanup()
