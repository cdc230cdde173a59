"""Helpers for tests of the OpenFaaS bridge: an emulated gateway, and the platform of a bridge to it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import broker
from bridges import openfaas
from bridges.openfaas import OpenFaasPlatform, Settings
from bridges.platform import Activation
from bridges.secrets import SecretStore
from broker.base import Broker
from broker.messages.function import Function
from broker.messages.round import RoundTask
from emulators.openfaas.gateway import Gateway, running
from emulators.openfaas.scripted import IMAGE, write_code
from tests.support import tasks

FAR = 4e9
PASSWORD = "of the gateway"  # noqa: S105 (of an emulator)
KEY = "what calls are signed with"


@dataclass(frozen=True)
class Site:
    """An emulated gateway and a platform that is connected to it.

    Attributes:
        gateway: the emulator.
        platform: the platform of the bridge.
        bus: the broker of the bridge.
    """

    gateway: Gateway
    platform: OpenFaasPlatform
    bus: Broker

    async def deploy(self, name: str = "c-1", **spec: Any) -> None:
        """Deploy a function as another user, and wait until it can be called."""
        await self.gateway.provider.deploy({"service": name, "image": IMAGE, **spec})
        await self.ready(name)

    async def ready(self, name: str) -> None:
        """Wait until a function's process listens."""
        await self.platform.functions._wait(f"call {name}", 240.0, lambda: self._unready_reason(name))

    async def _unready_reason(self, name: str) -> str:
        response = await self.platform.api.call(
            name, b"", {}, timeout_s=5.0, max_bytes=100, method="GET", path="/healthz"
        )
        return "" if response.ok else f"{response.status}"

    async def invoke(self, work: RoundTask | None = None, attempt: int = 1, **config: Any) -> list[Activation]:
        """Run a task and return its activations; `config` says what the function does."""
        work = work or task(args=config)
        return [activation async for activation in self.platform.invoke(work, attempt)]


@contextlib.asynccontextmanager
async def site(
    folder: Path, *, settings: dict[str, Any] | None = None, secrets: dict[str, str] | None = None, **switches: Any
) -> AsyncIterator[Site]:
    """Run an OpenFaaS with a password and one image, and a platform that is connected to it.

    Args:
        folder: folder of the test.
        settings: settings of the platform that differ from the defaults here.
        secrets: secrets of the bridge besides the gateway's password and the key.
        switches: switches of the emulator.
    """
    store = write_secrets(folder / "secrets", **(secrets or {}))
    async with running({IMAGE: write_code(folder / "code")}, password=PASSWORD, **switches) as gateway:
        defaults = {"gateway": gateway.url, "password": "gateway", "ready_s": 240.0, "rebuild_s": 0.05}
        merged = Settings(**{**defaults, **(settings or {})})
        async with broker.connect(f"memory://{folder}") as bus, openfaas.opened(merged, store, bus) as platform:
            yield Site(gateway, platform, bus)


def write_secrets(folder: Path, **secrets: str) -> SecretStore:
    """Write a bridge's secrets to a new folder."""
    folder.mkdir()
    for name, value in {"gateway": PASSWORD, "openfaas-key": KEY, **secrets}.items():
        (folder / name).write_text(value)
    return SecretStore(folder)


def function(name: str = "c-1", **changes: Any) -> Function:
    """Return a client's function."""
    return Function(**{"name": name, "fabric": "test", "image": IMAGE, **changes})


def task(client: str = "c-1", **changes: Any) -> RoundTask:
    """Return a task for a client."""
    return tasks.task(client, "openfaas", **changes)
