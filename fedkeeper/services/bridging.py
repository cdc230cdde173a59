"""Runs a bridge: connects a platform to the broker, runs its tasks and manages its functions."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import msgspec

import broker
from bridges import Invoker, Lifecycle, ManagedPlatform, RateLimiter, RetryPolicy, Runner, SecretStore, presence
from bridges.errors import PlatformDenied, PlatformFailed
from bridges.machine import this_machine
from bridges.platforms import Kind
from bridges.presence import Bridge
from bridges.settings import PlatformSettings
from broker.base import Broker
from broker.support import loggers
from broker.support.tasks import task_group
from broker.support.validation import Mistake
from fedkeeper.config_file import ConfigFile
from fedkeeper.services import notify, restart

log = loggers.get_logger(__name__)

DENIED_S: Final = 30.0
"""Seconds between two tries to open a platform that refuses the credentials, or where no task could run."""

SideTask = Callable[[Broker], Coroutine[Any, Any, None]]
"""A task that shares the bridge's process and its connection to the broker, until it is cancelled."""


class BridgeFile(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration file of a bridge.

    Attributes:
        url: the broker's address; empty: the command line's `--url` is used.
        secrets: folder with one file per secret; empty: secrets come from the environment.
        platform: the other fields of the file, as the platform's `Settings`.
    """

    url: str
    secrets: str
    platform: PlatformSettings


def read(kind: Kind, path: Path) -> BridgeFile:
    """Read a bridge's configuration file.

    Args:
        kind: the kind of platform.
        path: the TOML file.

    Raises:
        BadConfigFile: the file can't be read, or fields are wrong.
        LibraryMissing: a library that the platform needs is not installed.
    """
    source = ConfigFile(path)
    texts = {name: source.table.get(name, "") for name in ("url", "secrets")}
    if wrong := [Mistake(*item, "expected a text") for item in texts.items() if not isinstance(item[1], str)]:
        raise source.error(wrong)
    return BridgeFile(**texts, platform=source.convert(kind.load().Settings, without=tuple(texts)))


async def run_bridge(
    kind: Kind,
    file: BridgeFile,
    url: str,
    side_task: SideTask | None = None,
    on_up: Callable[[], None] = lambda: None,
) -> None:
    """Run a bridge as a service until cancelled; it reconnects when the broker was out of reach.

    Args:
        kind: the kind of platform.
        file: the bridge's configuration.
        url: the broker's address.
        side_task: a task that runs beside the bridge; None: no such task.
        on_up: called when the bridge has announced itself; again when it has started over.

    Raises:
        ConnectFailed: the first attempt to connect to the broker failed.
        PlatformDenied: the platform refuses the credentials at the first start.
        PlatformFailed: no task could run on the platform at the first start.
        SecretMissing: the bridge does not have a secret that it needs itself.
    """
    secrets = SecretStore(Path(file.secrets) if file.secrets else None)
    opened, name, was_up = kind.load().opened, file.platform.name, False
    address, machine = broker.BrokerUrl.parse(url).address, this_machine()

    def report_up() -> None:
        log.info("the bridge is up", platform=name, broker=address)
        notify.ready(f"bridge {name} is up on {address}")
        on_up()

    async def bridge() -> None:
        nonlocal was_up
        async with contextlib.AsyncExitStack() as stack:
            gone = presence.will(Bridge(name, file.platform.is_own, machine, address))
            connection = broker.connect(url, name=f"bridge-{name}", will=gone)
            bus = await stack.enter_async_context(connection)
            platform = await enter_platform(stack, lambda: opened(file.platform, secrets, bus), was_up=was_up)
            was_up = True
            group = await stack.enter_async_context(task_group())
            if side_task is not None:
                group.create_task(side_task(bus), name=f"beside bridge-{name}")
            here = Bridge(name, file.platform.is_own, machine, address, lambda: platform.condition)
            await serve(bus, platform, RetryPolicy(start_s=platform.start_s, run_s=platform.run_s), here, report_up)

    await restart.run_with_restarts(bridge)


async def enter_platform(
    stack: contextlib.AsyncExitStack,
    opened: Callable[[], AbstractAsyncContextManager[ManagedPlatform]],
    *,
    was_up: bool,
    pause_s: float = DENIED_S,
) -> ManagedPlatform:
    """Open a platform. A bridge that was up before waits for a platform that it can't use now, and does not end.

    Args:
        stack: closes the platform.
        opened: opens it.
        was_up: whether the platform has been open before, in this process.
        pause_s: seconds between two tries.

    Raises:
        PlatformDenied: the platform refuses the credentials at the first start.
        PlatformFailed: no task could run on the platform at the first start.
    """
    while True:
        try:
            return await stack.enter_async_context(opened())
        except (PlatformDenied, PlatformFailed) as exc:
            if not was_up:
                raise
            log.error("the bridge waits for its platform", error=str(exc), again_in_s=pause_s)  # noqa: TRY400 (its text is enough)
        await asyncio.sleep(pause_s)


async def serve(
    bus: Broker,
    platform: ManagedPlatform,
    retries: RetryPolicy,
    bridge: Bridge | None = None,
    on_up: Callable[[], None] = lambda: None,
) -> None:
    """Run a platform's tasks, manage its functions and look at its clients' data until cancelled.

    Args:
        bus: the connection that tasks and requests arrive on.
        platform: runs the tasks.
        retries: how often to retry and how long to wait.
        bridge: what the bridge's presence says; None: the platform's name and this machine.
        on_up: called when the bridge has announced itself.

    Raises:
        PlatformTaken: the platform is a machine of its own, and another machine has its name.
    """
    bridge = bridge or Bridge(platform.name)
    invoker = Invoker(platform, retries, RateLimiter(lambda: platform.per_minute), problems=bridge.problems)
    async with task_group() as group:
        lifecycle = Lifecycle(bus, platform.name, platform.functions, check=platform.check)
        if platform.functions is not None:
            invoker.restore = lifecycle.restore
        group.create_task(lifecycle.serve(), name=f"fabric-{platform.name}")
        group.create_task(platform.serve(), name=f"serve-{platform.name}")
        await Runner(bus, invoker, bridge=bridge, on_up=on_up).run()
