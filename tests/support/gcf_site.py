"""What tests of the Cloud Functions bridge share: both emulators, a bridge to them, functions, and where they call."""

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
from emulators.gcf import cloud as gcf_fabric
from emulators.gcf.cloud import Cloud
from tests.support import tasks

WITHIN_S: Final = 120.0

CODE: Final = """
import json
import os
import urllib.request


def train(event):
    told = {"id": event["id"], "type": event["type"], "source": event["source"], "data": event.data,
            "pid": os.getpid(), "env": dict(os.environ)}
    with urllib.request.urlopen(os.environ["SINK"], json.dumps(told).encode()) as answer:
        if answer.read() == b"fail":
            raise RuntimeError("told to fail")


import functions_framework
train = functions_framework.cloud_event(train)
"""
"""Tells the test what it was called with, and does what the test answers."""


def archive(code: str = CODE) -> bytes:
    """A function's source as a zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr("main.py", code)
    return packed.getvalue()


def function(name: str = "client-00", **changes: Any) -> Function:
    """A function of the fabric `test`."""
    facts: dict[str, Any] = {
        "name": name,
        "fabric": "test",
        "broker": "nats://fl@broker:4222",
        "package": BlobRef("fl.packages.00", "00", 1),
    }
    return Function(**{**facts, **changes})


def task(client: str = "client-00", **changes: Any) -> RoundTask:
    """A task that is never trained for."""
    return tasks.task(client, "gcf", **{"round": 3, **changes})


def settings(cloud: Cloud, **changes: Any) -> Settings:
    """A bridge to the emulators that does not wait for long."""
    facts: dict[str, Any] = {
        "project": "test-project",
        "api": cloud.functions.url,
        "call_s": 10.0,
        "deploy_s": WITHIN_S,
        "poll_s": 0.01,
    }
    return Settings(**{**facts, **changes})


@contextlib.asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    """Both emulators, which repeat what failed almost at once."""
    async with asyncio.timeout(WITHIN_S), gcf_fabric.serving(retry_first_s=0.05, retry_most_s=0.2) as cloud:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", cloud.pubsub.address)
        yield cloud


@contextlib.asynccontextmanager
async def bridge(to: Settings, vault: Path | None = None) -> AsyncIterator[GcfPlatform]:
    """An open bridge."""
    async with broker.connect("memory://gcf") as bus, gcf.opened(to, SecretStore(vault), bus) as host:
        yield host


async def published(host: GcfPlatform, one: RoundTask, attempt: int = 1) -> str:
    """Invoke; the message's id, once Pub/Sub has accepted it."""
    (activation,) = [activation async for activation in host.invoke(one, attempt)]
    assert (activation.state, activation.cold) == ("accepted", None)
    return activation.id


@dataclass
class Sink:
    """Where functions call.

    Attributes:
        url: to call.
        calls: what they told, in order.
        answers: to the next calls; `ok` after that.
        open: calls are answered; while it is not set, functions are busy.
    """

    url: str = ""
    calls: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    answers: list[str] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        """Answer a call."""
        self.calls.put_nowait(await request.json())
        answer = self.answers.pop(0) if self.answers else "ok"
        await self.open.wait()
        return web.Response(text=answer)


@contextlib.asynccontextmanager
async def sinking() -> AsyncIterator[Sink]:
    """A sink, until the end of the block."""
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
