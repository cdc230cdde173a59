"""Runs the relay between the backbone and a site."""

from pathlib import Path

import structlog

import broker
from bridges.relay import Relay, Settings
from broker import BrokerUrl
from fedkeeper import notify, restart, strict_toml

log = structlog.get_logger(__name__)


def read(path: Path) -> Settings:
    """Read a relay's file.

    Raises:
        BadDeploymentFile: it can't be read, or says what can't be.
        BadSettings: a name in it is none, or both brokers are the same.
        BadUrl: an address in it can't be used.
    """
    return strict_toml.read(path, Settings)


async def run_relay(settings: Settings) -> None:
    """The relay by itself, until cancelled; when a broker was out of reach as it began, it starts over.

    Raises:
        ConnectFailed: one of the brokers is not there at the start.
    """
    name = f"relay-{settings.name}"

    async def relay() -> None:
        async with (
            broker.connect(settings.backbone, name=name) as backbone,
            broker.connect(settings.site, name=name) as site,
        ):
            addresses = {side: BrokerUrl.parse(getattr(settings, side)).address for side in ("backbone", "site")}
            log.info("the relay is up", name=settings.name, platforms=settings.platforms, **addresses)
            notify.ready(f"relay {settings.name} is up between {addresses['backbone']} and {addresses['site']}")
            await Relay(settings, backbone, site).run()

    await restart.kept_up(relay)
