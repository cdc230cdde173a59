"""Runs the relay between the backbone's broker and a site's broker."""

from pathlib import Path

import broker
from bridges.relay import Relay, Settings
from broker import BrokerUrl
from broker.support import loggers
from fedkeeper import config_file
from fedkeeper.services import notify, restart

log = loggers.get_logger(__name__)


def read(path: Path) -> Settings:
    """Read a relay's configuration file.

    Raises:
        BadConfigFile: the file can't be read, or fields are wrong.
        BadUrl: a broker's address can't be used.
    """
    return config_file.read(path, Settings)


async def run_relay(settings: Settings) -> None:
    """Run a relay as a service until cancelled; it restarts when it loses one of the brokers.

    Raises:
        ConnectFailed: the first attempt to connect to one of the brokers failed.
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

    await restart.run_with_restarts(relay)
