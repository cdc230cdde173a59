"""Mosquitto as tests start it, and what brokers under test have in common."""

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
from pathlib import Path
from typing import Final

import pytest

from broker.support import processes
from tests.support.ports import free_port

STORE_BYTES: Final = 2 << 30
"""What a nats-server under test may keep."""

MOSQUITTO_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous {anonymous}
persistence true
persistence_location {folder}/
autosave_on_changes {on_changes}
autosave_interval 1
max_queued_messages 0
set_tcp_nodelay true
{user}
{settings}
"""


REDELIVERY_S: Final = 3.0
"""How long brokers under test wait for an acknowledgement where a test waits for the end of it: no pause of a loaded
machine is as long."""


class Mosquitto:
    """A mosquitto on a free loopback port, as docs/mqtt.md wants it configured; ended by its own pid.

    With `on_changes` it writes its store at every change, else once a second.
    """

    def __init__(self, folder: Path, settings: str = "", *, on_changes: bool = False, anonymous: bool = True) -> None:
        self.folder = folder
        self.port = 0
        self._settings = settings
        self._on_changes = on_changes
        self._anonymous = anonymous
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        binary = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if binary is None:
            pytest.fail("mosquitto is not installed: apt-get install mosquitto mosquitto-clients")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        # It gives up root's rights by itself, and could not write here any more.
        user = f"user {getpass.getuser()}" if os.getuid() == 0 else ""
        text = MOSQUITTO_CONFIG.format(
            port=self.port,
            folder=self.folder,
            on_changes=str(self._on_changes).lower(),
            anonymous=str(self._anonymous).lower(),
            user=user,
            settings=self._settings,
        )
        config = self.folder / "mosquitto.conf"
        config.write_text(text, encoding="utf-8")
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                binary,
                "-c",
                config,
                stdout=log,
                stderr=log,
                preexec_fn=processes.signal_on_parent_death(signal.SIGTERM),
            )
        await self._listens(self._process)

    async def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def save(self) -> None:
        """Have everything that it has acknowledged in its store, as it is but a moment after an acknowledgement."""
        store = self.folder / "mosquitto.db"
        before = _written(store)
        self.signal(signal.SIGUSR1)
        async with asyncio.timeout(60):
            while _written(store) == before:  # noqa: ASYNC110 (a file tells nobody that it was written)
                await asyncio.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _listens(self, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(60):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)
        pytest.fail(f"mosquitto ended: {(self.folder / 'mosquitto.log').read_text(encoding='utf-8')}")


def _written(store: Path) -> tuple[int, int]:
    """What is another after the store was written: a new file takes the old one's place."""
    try:
        status = store.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns
