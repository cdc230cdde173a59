"""Brokers for tests: a real nats-server or mosquitto for each test that asks for one, ended with the test."""

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.nats.server import USER, NatsServer
from broker.support import processes

STORE_BYTES = 2 << 30

# Tests fork, and gRPC's threads may be at work by then: with its own handlers, one child in twenty aborts before it
# becomes another program. Read when gRPC is imported, so by none of the tests yet.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A nats-server on a free loopback port. It fails the test if it can't be had."""
    server = NatsServer(tmp_path / "nats", max_file_bytes=STORE_BYTES)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
def memory_url() -> str:
    """A broker in this process that no other test knows."""
    return f"memory://{uuid.uuid4()}"


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
        self.port = self.port or _free_port()
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
                preexec_fn=processes.dying_with_us(signal.SIGTERM),
            )
        await self._listens(self._process)

    async def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _listens(self, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(10):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)
        pytest.fail(f"mosquitto ended: {(self.folder / 'mosquitto.log').read_text(encoding='utf-8')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A mosquitto that keeps its store. It fails the test if it can't be had."""
    server = Mosquitto(tmp_path / "mosquitto")
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
def mosquitto_url(mosquitto: Mosquitto) -> str:
    return mosquitto.url


@pytest.fixture
async def nats_mqtt_url(tmp_path: Path) -> AsyncIterator[str]:
    """The MQTT listener of a nats-server."""
    port = _free_port()
    # What was on its way to a session that just ended comes again after this time; 30 s by default.
    settings = f'mqtt {{ host: "127.0.0.1", port: {port}, ack_wait: "1s" }}'
    server = NatsServer(tmp_path / "nats-mqtt", max_file_bytes=STORE_BYTES, settings=settings)
    await server.start()
    yield f"mqtt://{USER}@127.0.0.1:{port}?password_file={server.password_file}"
    await server.kill()
