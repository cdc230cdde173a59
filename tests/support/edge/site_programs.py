"""The programs of a site: the bridge to local workers, and the uplink to the broker."""

import contextlib
import getpass
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.edge.gated_model import GATE
from tests.support.edge.links import Site
from tests.support.edge.training_gate import Gate
from tests.support.fakes import soon
from tests.support.paths import REPOSITORY

Uplink = Callable[[Site, str, Path], AbstractAsyncContextManager[str]]
"""Connects a site to the broker at a URL, with a folder for state and logs; yields the URL that the site uses."""

BRIDGE: Final = """
import os, sys
from pathlib import Path
from broker.support import logs
from client_fn import site
from fedkeeper import running
from fedkeeper.services import system
logs.configure(verbose=True)
url, platform, folder = sys.argv[1:]
settings = system.Settings(Path(folder), 1, platform=platform, site=site.read(os.environ))
running.run(system.run_local_bridge(url, settings))
"""


MQTT_PORT: Final = 1883
"""The same for all sites, because each has its own loopback interface."""

MOSQUITTO: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
set_tcp_nodelay true
user {user}
"""

RELAY: Final = """
import socket
import sys
import time
from pathlib import Path
from broker.support import logs
from fedkeeper import running
from fedkeeper.services import relaying
logs.configure(verbose=True)
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[2])), 1).close()
        break
    except OSError:
        time.sleep(0.05)
running.run(relaying.run_relay(relaying.read(Path(sys.argv[1]))))
"""

RELAY_UP: Final = "the relay is up"


@contextlib.asynccontextmanager
async def direct(_site: Site, url: str, _folder: Path) -> AsyncIterator[str]:
    """Connect the site to the broker directly."""
    yield url


@contextlib.asynccontextmanager
async def relayed(site: Site, url: str, folder: Path) -> AsyncIterator[str]:
    """Run a Mosquitto at the site and a relay between it and the broker."""
    store = folder / "mosquitto"
    store.mkdir(exist_ok=True)
    local = f"mqtt://127.0.0.1:{MQTT_PORT}"
    # Without `user`, mosquitto gives up root's rights and can't write into this folder.
    (store / "mosquitto.conf").write_text(MOSQUITTO.format(port=MQTT_PORT, folder=store, user=getpass.getuser()))
    (folder / "relay.toml").write_text(
        f'name = "{folder.name}"\nbackbone = "{url}"\nsite = "{local}"\nplatforms = ["{folder.name}"]\n'
    )
    environment, log = {"PYTHONPATH": str(REPOSITORY)}, folder / "relay.log"
    mosquitto = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") or "mosquitto"
    relay = sys.executable, "-c", RELAY, str(folder / "relay.toml"), str(MQTT_PORT)
    async with (
        site.running(mosquitto, "-c", store / "mosquitto.conf", log=folder / "mosquitto.log"),
        site.running(*relay, log=log, **environment),
    ):
        known = log.read_text().count(RELAY_UP) if log.exists() else 0
        await soon(lambda: log.exists() and log.read_text().count(RELAY_UP) > known, within_s=120)
        yield local


ALLOWED: Final = {
    "PYTHONPATH": str(REPOSITORY),
    "FEDKEEPER_ALLOW": "tests.support.edge.gated_model",
    "FEDKEEPER_TRAINER_SILENCE_S": "300",
}
"""Environment of a site and of the server that build or train the gated model, which may be held for long."""

UPLINKS: Final[dict[str, Uplink]] = {"nats": direct, "mqtt behind a relay": relayed}
"""The kinds of uplinks, by the name in the tests' ids."""


@dataclass
class Station:
    """A site with its programs.

    Attributes:
        site: the machine.
        platform: platform of its clients.
        gate: holds and counts its trainings.
        folder: its disk; a power cut does not change it.
        uplink: connects it to the broker.
        url: URL of the broker.
    """

    site: Site
    platform: str
    gate: Gate
    folder: Path
    uplink: Uplink
    url: str
    _programs: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def boot(self) -> None:
        """Start all programs of the site."""
        url = await self._programs.enter_async_context(self.uplink(self.site, self.url, self.folder))
        bridge = sys.executable, "-c", BRIDGE, url, self.platform, str(self.folder)
        environment = {**ALLOWED, GATE: str(self.gate.path), "FEDKEEPER_TRAINER_ENV": GATE}
        await self._programs.enter_async_context(self.site.running(*bridge, log=self.log, **environment))

    async def power_cut(self) -> None:
        """Kill all programs at once."""
        await self.site.power_cut()
        await self.shut_down()

    async def shut_down(self) -> None:
        """Stop all programs."""
        await self._programs.aclose()

    @property
    def log(self) -> Path:
        """The bridge's log file."""
        return self.folder / "bridge.log"
