"""What the tests of the OpenWhisk bridge share: a bridge to an emulator, and functions to put there."""

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

def report(args, **facts):
    task = args["order"]["task"]
    return {"id": "{job}.{round}.{client_id}".format(**task), "state": "done", **facts}

def main(args):
    global runs
    runs += 1
    return report(args, cold=runs == 1)
"""
"""An action that answers as a function of ours does, and trains nothing."""


def package(source: str = DONE) -> bytes:
    """An archive with one module; the same source gives the same bytes, whatever the clock says."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), source)
    return content.getvalue()


def answering(expression: str) -> bytes:
    """An action whose answer is an expression of `args` and `report`."""
    return package(f"{DONE}\ndef main(args):\n    return {expression}\n")


def function(**changes: Any) -> Function:
    facts: dict[str, Any] = {
        "name": NAME,
        "fabric": "test",
        "broker": "nats://client-01@127.0.0.1:4222",
        "memory_mb": 512,
        "timeout_s": 60,
    }
    return Function(**{**facts, **changes})


def task(**changes: Any) -> RoundTask:
    """A task of the client that has the function."""
    return tasks.task(NAME, "openwhisk", **changes)


def settings(whisk: Whisk, **changes: Any) -> Settings:
    """For tests: it looks often."""
    facts: dict[str, Any] = {
        "host": whisk.url,
        "auth": "whisk-key",
        "ca_file": str(whisk.ca_file or ""),
        "poll_first_s": 0.01,
        "poll_most_s": 0.05,
    }
    return Settings(**{**facts, **changes})


def secrets(folder: Path, **values: str) -> SecretStore:
    """A vault with the namespace's key and other secrets."""
    for name, value in {"whisk-key": AUTH, **values}.items():
        (folder / name).write_text(value + "\n", encoding="utf-8")
    return SecretStore(folder)


@contextlib.asynccontextmanager
async def bridged(whisk: Whisk, vault: SecretStore, **changes: Any) -> AsyncIterator[OpenWhiskPlatform]:
    """A bridge to the emulator."""
    async with (
        broker.connect("memory://whisk") as bus,
        opened(settings(whisk, **changes), vault, bus) as platform,
    ):
        yield platform


async def run(platform: OpenWhiskPlatform, one: RoundTask | None = None, attempt: int = 1) -> list[Activation]:
    """Invoke, and follow to the end."""
    async with asyncio.timeout(WITHIN_S):
        return [activation async for activation in platform.invoke(one or task(), attempt)]
