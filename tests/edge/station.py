"""What runs at a site: the bridge to local workers, and whatever joins the site to the broker."""

import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.edge.gate import Gate
from tests.edge.gated import GATE
from tests.edge.links import Site

REPOSITORY: Final = Path(__file__).parents[2]

Uplink = Callable[[Site, str, Path], AbstractAsyncContextManager[str]]
"""What joins a site to the broker at a URL, with a folder for its state and logs; yields the URL for the site."""

BRIDGE: Final = """
import sys
from pathlib import Path
from broker import logs
from fedkeeper import running, system
logs.configure(verbose=True)
url, platform, folder = sys.argv[1:]
running.run(system.run_local_bridge(url, system.Settings(Path(folder), 1, platform=platform)))
"""


@contextlib.asynccontextmanager
async def direct(_site: Site, url: str, _folder: Path) -> AsyncIterator[str]:
    """Over the link to the broker itself."""
    yield url


UPLINKS: Final[dict[str, Uplink]] = {"nats": direct}
"""The ways to join a site, by the name that tests show."""


@dataclass
class Station:
    """A site at work.

    Attributes:
        site: where.
        platform: of its clients.
        gate: where its trainings begin.
        folder: its disk, which outlives a power cut.
        uplink: joins it to the broker.
        url: of the broker.
    """

    site: Site
    platform: str
    gate: Gate
    folder: Path
    uplink: Uplink
    url: str
    _programs: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def boot(self) -> None:
        """Start everything that runs there, as its machine's init would."""
        url = await self._programs.enter_async_context(self.uplink(self.site, self.url, self.folder))
        bridge = sys.executable, "-c", BRIDGE, url, self.platform, str(self.folder)
        environment = {GATE: str(self.gate.path), "PYTHONPATH": str(REPOSITORY)}
        await self._programs.enter_async_context(self.site.running(*bridge, log=self.log, **environment))

    async def power_cut(self) -> None:
        """End everything at once."""
        await self.site.power_cut()
        await self.shut_down()

    async def shut_down(self) -> None:
        """End what was started."""
        await self._programs.aclose()

    @property
    def log(self) -> Path:
        """What the bridge has to say."""
        return self.folder / "bridge.log"
