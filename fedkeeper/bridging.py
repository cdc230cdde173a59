"""Runs the bridge to a FaaS platform: its adapter, the runner, and the lifecycle of its functions."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

import broker
from bridges import Connecting, Host, Invoker, Lifecycle, Pace, Patience, Runner, Vault, presence
from broker.base import Broker
from broker.errors import UNREADABLE
from broker.support import validation
from broker.support.tasks import task_group
from fedkeeper import notify, system
from fedkeeper.errors import BadFabric, Missing
from fedkeeper.fabric_file import Kind

log = structlog.get_logger(__name__)

Opened = Callable[[Any, Vault, Broker], AbstractAsyncContextManager[Host]]


class BridgeFile(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge's file.

    Attributes:
        url: the broker; empty: the command line's.
        secrets: folder with a file for each secret; empty: the environment has them.
        platform: the rest of the file, as the platform's adapter wants it.
    """

    url: str
    secrets: str
    platform: Any


def read(kind: Kind, path: Path) -> BridgeFile:
    """Read a bridge's file.

    Raises:
        BadFabric: it can't be read, or says what can't be.
        Missing: the platform's own package is not installed.
    """
    raw = table(path)
    url, secrets = (_text(raw, name) for name in ("url", "secrets"))
    settings = _adapter(kind).Settings
    try:
        return BridgeFile(url=url, secrets=secrets, platform=validation.strict(raw, settings))
    except validation.Invalid as exc:
        raise BadFabric(*exc.mistake) from exc


def table(path: Path) -> dict[str, Any]:
    """A TOML file's content.

    Raises:
        BadFabric: it can't be read.
    """
    try:
        raw: dict[str, Any] = msgspec.toml.decode(path.read_text(encoding="utf-8"))
    except (OSError, *UNREADABLE) as exc:
        raise BadFabric("", path.name, f"no TOML file that can be read: {exc}") from exc
    return raw


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.pop(name, "")
    if not isinstance(value, str):
        raise BadFabric(name, value, "expected a text")
    return value


def _adapter(kind: Kind) -> Any:
    """The platform's own module; each is loaded alone, since it needs packages that the others do not."""
    try:
        return import_module(f"bridges.{kind}")
    except ModuleNotFoundError as exc:
        raise Missing(f"{exc.name} is not installed: pip install 'fedkeeper[{kind}]'") from exc


async def run_bridge(kind: Kind, file: BridgeFile, url: str) -> None:
    """The bridge to a platform by itself, until cancelled.

    Raises:
        ConnectFailed: no broker is there at the start.
        PlatformDenied: the platform refuses the credentials.
        SecretMissing: a secret that the bridge itself needs is not there.
    """
    opened, vault = cast("Opened", _adapter(kind).opened), Vault(Path(file.secrets) if file.secrets else None)

    async def bridge() -> None:
        async with contextlib.AsyncExitStack() as stack:
            name = file.platform.name
            connecting = broker.connect(url, name=f"bridge-{name}", will=presence.will(name))
            bus = await stack.enter_async_context(connecting)
            host = await stack.enter_async_context(opened(file.platform, vault, bus))
            log.info("the bridge is up", platform=host.name, at_once=host.concurrency, per_minute=host.per_minute)
            notify.ready(f"bridge {host.name} is up on {broker.BrokerUrl.parse(url).address}")
            await serve(bus, host, Patience(start_s=host.start_s, run_s=host.run_s))

    await system.kept_up(bridge)


async def serve(bus: Broker, host: Host, patience: Patience) -> None:
    """Bring a platform's tasks to their end, and see to its functions, until cancelled."""
    lifecycle = Lifecycle(bus, host)
    async with task_group() as group:
        group.create_task(lifecycle.serve(), name=f"fabric-{host.name}")
        if isinstance(host, Connecting):
            group.create_task(host.serve(), name=f"connector-{host.name}")
        await Runner(bus, Invoker(host, patience, Pace(lambda: host.per_minute), lifecycle.restore)).run()
