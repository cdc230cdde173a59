"""Helpers for tests of the OpenWhisk bridge: a bridge to an emulator, and functions to deploy."""

import asyncio
import contextlib
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import broker
from bridges.openwhisk import OpenWhiskPlatform, Settings, opened
from bridges.platform import Activation
from bridges.secrets import SecretStore
from broker.messages.function import Function
from broker.messages.round import RoundTask
from emulators.openwhisk.controller import AUTH, Whisk
from tests.support import tasks

NAME = "client-01"
WITHIN_S = 120.0

DONE = """
import os

runs = 0

def report(args, **fields):
    task = args["order"]["task"]
    return {"id": "{job}.{round}.{client_id}".format(**task), "state": "done", **fields}

def main(args):
    global runs
    runs += 1
    return report(args, cold=runs == 1)
"""
"""An action that replies like our function, and does not train."""


def package(source: str = DONE) -> bytes:
    """Return an archive with one module."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), source)
    return content.getvalue()


def answering(expression: str) -> bytes:
    """Return an action whose result is an expression of `args` and `report`."""
    return package(f"{DONE}\ndef main(args):\n    return {expression}\n")


def function(**changes: Any) -> Function:
    """Return the client's function."""
    fields: dict[str, Any] = {
        "name": NAME,
        "fabric": "test",
        "broker": "nats://client-01@127.0.0.1:4222",
        "memory_mb": 512,
        "timeout_s": 60,
    }
    return Function(**{**fields, **changes})


def task(**changes: Any) -> RoundTask:
    """Return a task of the client."""
    return tasks.task(NAME, "openwhisk", **changes)


def settings(whisk: Whisk, **changes: Any) -> Settings:
    """Return the settings of a bridge that polls often."""
    fields: dict[str, Any] = {
        "host": whisk.url,
        "auth": "whisk-key",
        "ca_file": str(whisk.ca_file or ""),
        "poll_first_s": 0.01,
        "poll_most_s": 0.05,
    }
    return Settings(**{**fields, **changes})


def secrets(folder: Path, **values: str) -> SecretStore:
    """Write the namespace's key and other secrets to a folder."""
    for name, value in {"whisk-key": AUTH, **values}.items():
        (folder / name).write_text(value + "\n", encoding="utf-8")
    return SecretStore(folder)


@contextlib.asynccontextmanager
async def bridged(whisk: Whisk, store: SecretStore, **changes: Any) -> AsyncIterator[OpenWhiskPlatform]:
    """Open the platform of a bridge to the emulator."""
    async with (
        broker.connect("memory://whisk") as bus,
        opened(settings(whisk, **changes), store, bus) as platform,
    ):
        yield platform


async def run(platform: OpenWhiskPlatform, work: RoundTask | None = None, attempt: int = 1) -> list[Activation]:
    """Run a task to its end, and return its activations."""
    async with asyncio.timeout(WITHIN_S):
        return [activation async for activation in platform.invoke(work or task(), attempt)]
