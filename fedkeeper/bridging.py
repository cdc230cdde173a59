"""Runs the bridge to a platform: the platform itself, the runner, and the lifecycle of its functions."""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

import broker
from bridges import Invoker, Lifecycle, ManagedPlatform, RateLimiter, RetryPolicy, Runner, SecretStore, presence
from bridges.platforms import Kind
from bridges.settings import PlatformSettings
from broker.base import Broker
from broker.support.tasks import task_group
from fedkeeper import notify, restart, strict_toml
from fedkeeper.errors import BadDeploymentFile

log = structlog.get_logger(__name__)

Beside = Callable[[Broker], Awaitable[None]]
"""What a bridge's process does beside its platform's tasks, until cancelled."""


class BridgeFile(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge's file.

    Attributes:
        url: the broker; empty: the command line's.
        secrets: folder with a file for each secret; empty: the environment has them.
        platform: the rest of the file, as the platform's `Settings`.
    """

    url: str
    secrets: str
    platform: PlatformSettings


def read(kind: Kind, path: Path) -> BridgeFile:
    """Read a bridge's file.

    Args:
        kind: of the platform.
        path: of the file.

    Raises:
        BadDeploymentFile: it can't be read, or a field of it can't be.
        BadSettings: the same, for what only the platform knows to be wrong.
        LibraryMissing: a library that the platform needs is not installed.
    """
    raw = strict_toml.table(path)
    url, secrets = (_text(raw, name) for name in ("url", "secrets"))
    return BridgeFile(url=url, secrets=secrets, platform=strict_toml.converted(raw, kind.load().Settings))


def _text(raw: dict[str, object], name: str) -> str:
    value = raw.pop(name, "")
    if not isinstance(value, str):
        raise BadDeploymentFile(name, value, "expected a text")
    return value


async def run_bridge(kind: Kind, file: BridgeFile, url: str, beside: Beside | None = None) -> None:
    """The bridge to a platform by itself, until cancelled.

    Args:
        kind: of the platform.
        file: what the bridge is set up by.
        url: of the broker.
        beside: what else this process does with its connection to the broker.

    Raises:
        ConnectFailed: no broker is there at the start.
        PlatformDenied: the platform refuses the credentials.
        SecretMissing: a secret that the bridge itself needs is not there.
    """
    opened, vault = kind.load().opened, SecretStore(Path(file.secrets) if file.secrets else None)
    name = file.platform.name

    async def bridge() -> None:
        async with contextlib.AsyncExitStack() as stack:
            connecting = broker.connect(url, name=f"bridge-{name}", will=presence.will(name))
            bus = await stack.enter_async_context(connecting)
            host = await stack.enter_async_context(opened(file.platform, vault, bus))
            group = await stack.enter_async_context(task_group())
            if beside is not None:
                group.create_task(_run(beside, bus), name=f"beside bridge-{name}")
            log.info("the bridge is up", platform=name, at_once=host.concurrency, per_minute=host.per_minute)
            notify.ready(f"bridge {name} is up on {broker.BrokerUrl.parse(url).address}")
            await serve(bus, host, RetryPolicy(start_s=host.start_s, run_s=host.run_s))

    await restart.kept_up(bridge)


async def _run(beside: Beside, bus: Broker) -> None:
    await beside(bus)


async def serve(bus: Broker, host: ManagedPlatform, patience: RetryPolicy) -> None:
    """Bring a platform's tasks to their end, and see to its functions, until cancelled.

    Args:
        bus: where tasks and requests come from.
        host: the platform.
        patience: how long to wait for what.
    """
    invoker = Invoker(host, patience, RateLimiter(lambda: host.per_minute))
    async with task_group() as group:
        if host.functions is not None:
            lifecycle = Lifecycle(bus, host.name, host.functions)
            invoker.restore = lifecycle.restore
            group.create_task(lifecycle.serve(), name=f"fabric-{host.name}")
        group.create_task(host.serve(), name=f"serve-{host.name}")
        await Runner(bus, invoker).run()
