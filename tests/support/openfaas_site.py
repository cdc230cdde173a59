"""An emulated OpenFaaS, a bridge's platform that uses it, and a function that does what its task tells it."""

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
    """All that a test needs.

    Attributes:
        gateway: the emulator.
        platform: what the bridge uses.
        bus: its broker.
    """

    gateway: Gateway
    platform: OpenFaasPlatform
    bus: Broker

    async def deploy(self, name: str = "c-1", **spec: Any) -> None:
        """A function of somebody else's, ready to be called."""
        await self.gateway.provider.deploy({"service": name, "image": IMAGE, **spec})
        await self.ready(name)

    async def ready(self, name: str) -> None:
        """Until a function's process listens."""
        await self.platform.functions._wait(f"call {name}", 240.0, lambda: self._silent(name))

    async def _silent(self, name: str) -> str:
        answer = await self.platform.api.call(
            name, b"", {}, timeout_s=5.0, max_bytes=100, method="GET", path="/healthz"
        )
        return "" if answer.ok else f"{answer.status}"

    async def invoke(self, one: RoundTask | None = None, attempt: int = 1, **told: Any) -> list[Activation]:
        """Every activation of a task's run; the function is told what to do."""
        asked = one or task(client_config=told)
        return [activation async for activation in self.platform.invoke(asked, attempt)]


@contextlib.asynccontextmanager
async def site(
    folder: Path, *, settings: dict[str, Any] | None = None, secrets: dict[str, str] | None = None, **knobs: Any
) -> AsyncIterator[Site]:
    """An OpenFaaS with the password, one image, and a platform connected to it.

    Args:
        folder: of the test.
        settings: of the platform, other than the usual ones.
        secrets: of the bridge, besides the gateway's password and the key.
        knobs: of the emulator.
    """
    vault = write_vault(folder / "vault", **(secrets or {}))
    async with running({IMAGE: write_code(folder / "code")}, password=PASSWORD, **knobs) as gateway:
        usual = {"gateway": gateway.url, "password": "gateway", "ready_s": 240.0, "rebuild_s": 0.05}
        chosen = Settings(**{**usual, **(settings or {})})
        async with broker.connect(f"memory://{folder}") as bus, openfaas.opened(chosen, vault, bus) as platform:
            yield Site(gateway, platform, bus)


def write_vault(folder: Path, **secrets: str) -> SecretStore:
    """A bridge's secrets."""
    folder.mkdir()
    for name, value in {"gateway": PASSWORD, "trigger-key": KEY, **secrets}.items():
        (folder / name).write_text(value)
    return SecretStore(folder)


def function(name: str = "c-1", **changes: Any) -> Function:
    """A client's function."""
    return Function(**{"name": name, "fabric": "test", "image": IMAGE, **changes})


def task(client: str = "c-1", **changes: Any) -> RoundTask:
    """A task for a client."""
    return tasks.task(client, "openfaas", **changes)
