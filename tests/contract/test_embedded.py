"""The nats-server that we start ourselves."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

import broker
from broker.errors import ServerFailed, StoreInUse
from broker.nats import server as embedded
from broker.nats.server import NatsServer
from tests.support.paths import REPOSITORY


async def test_it_serves_at_its_url_with_a_password_that_only_we_can_read(nats_server: NatsServer) -> None:
    async with broker.connect(nats_server.url) as bus:
        await bus.put("fl.rounds.job-1", b"1")
    password = nats_server.password_file.read_text(encoding="utf-8")
    assert len(password) >= 32
    assert password not in nats_server.url
    for path in (nats_server.password_file, nats_server.folder / "nats-server.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert password not in nats_server.log_file.read_text(encoding="utf-8")


def test_its_url_is_good_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = NatsServer(Path("a folder & 'more'")).url
    assert broker.BrokerUrl.parse(url).password_file == tmp_path / "a folder & 'more'" / "password"
    assert "'" not in url, "it is printed in quotes"


async def test_an_empty_password_is_none(tmp_path: Path) -> None:
    """A power failure may leave a file of which only the name is on the disk."""
    (tmp_path / "password").touch()
    async with NatsServer(tmp_path, max_file_bytes=2 << 30) as server:
        assert len(server.password_file.read_text(encoding="utf-8")) >= 32
        async with broker.connect(server.url):
            pass


async def test_port_password_and_data_survive_a_restart(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        url, password = server.url, server.password_file.read_text(encoding="utf-8")
        async with broker.connect(url) as bus:
            await bus.put("fl.rounds.job-1", b"1")
        await server.stop()
        with pytest.raises(ServerFailed):
            _ = server.pid
        await server.start()
        assert server.url == url
    async with NatsServer(tmp_path) as server, broker.connect(server.url) as bus:
        assert server.url == url
        assert server.password_file.read_text(encoding="utf-8") == password
        assert await bus.get("fl.rounds.job-1") == broker.Value("fl.rounds.job-1", b"1", 1)


async def test_a_folder_serves_one(nats_server: NatsServer) -> None:
    with pytest.raises(StoreInUse, match="another nats-server uses"):
        await NatsServer(nats_server.folder).start()
    async with broker.connect(nats_server.url):
        pass


async def test_a_taken_port_is_named(nats_server: NatsServer, tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="address already in use"):
        await NatsServer(tmp_path / "other", port=nats_server.port).start()


async def test_if_the_last_port_is_taken_it_says_so_and_takes_another(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("no port", encoding="utf-8")
    async with NatsServer(tmp_path) as server:
        last = server.port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", last))
        other.listen()
        with structlog.testing.capture_logs() as logs:
            async with NatsServer(tmp_path) as server:
                assert server.port != last
                taken = server.port
        assert {"last": last, "port": taken} in [{"last": log.get("last"), "port": log.get("port")} for log in logs]
        async with NatsServer(tmp_path) as server:
            assert server.port == taken


async def test_a_missing_server_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerFailed, match="pip install"):
        await NatsServer(tmp_path / "data").start()


async def test_a_server_that_ignores_goodbyes_is_killed(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_S", 0.1)
    pid = nats_server.pid
    os.kill(pid, signal.SIGSTOP)
    await nats_server.stop()
    assert not _is_alive(pid)


ORPHAN = """
import asyncio, sys
from pathlib import Path
from broker.nats.server import NatsServer

async def main():
    async with NatsServer(Path(sys.argv[1])) as server:
        sys.stdout.write(f"{server.pid}\\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ORPHAN, tmp_path, stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert parent.stdout is not None
    line = b""
    while not line.strip().isdigit():
        line = await asyncio.wait_for(parent.stdout.readline(), 120)
        assert line
    pid = int(line)
    end = os.pidfd_open(pid)
    try:
        parent.kill()
        await parent.wait()
        async with asyncio.timeout(120):
            await _readable(end)
    finally:
        os.close(end)


async def _readable(descriptor: int) -> None:
    """A process's descriptor can be read once it has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
