"""Starts Mosquitto for tests, and settings that all brokers under test share."""

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
"""The most that a nats-server under test may store."""

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
"""The ack deadline, in seconds, in tests that wait until it has passed: longer than any pause of a loaded machine."""


class Mosquitto:
    """A mosquitto on a free loopback port, configured as docs/mqtt.md says.

    Args:
        folder: for its configuration, its store and its log.
        settings: more lines of the configuration.
        on_changes: write the store at every change, instead of once a second.
        anonymous: whether clients need no user name.
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
        # As root it would change to the user `mosquitto`, which may not write to this folder.
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
        """Kill it, as in a crash."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def save(self) -> None:
        """Wait until all acknowledged messages are in its store. It writes them a moment after the acknowledgement."""
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
    """Return a value that changes when the store is written. Mosquitto replaces the file each time."""
    try:
        status = store.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns
