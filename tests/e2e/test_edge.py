"""A bridge as systemd runs it on a board: it reports its start and its end, and listens on no port."""

import asyncio
import re
import signal
import socket
from pathlib import Path

import pytest

from broker.nats.server import NatsServer
from tests.support.program import WITHIN_S, Program

LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def listeners(pid: int) -> list[str]:
    """Return the local addresses on which a process listens for TCP."""
    entries = Path(f"/proc/{pid}/fd").iterdir()
    inodes = {match[1] for entry in entries if (match := re.fullmatch(r"socket:\[(\d+)\]", _target(entry)))}
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return [row[1] for row in rows if row[3] == LISTEN and row[9] in inodes]


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""  # closed in the meantime


def test_listeners_finds_a_listening_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = listeners(int(Path("/proc/self").readlink().name))
        assert f"0100007F:{server.getsockname()[1]:04X}" in addresses


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openfaas", "local"])
async def test_a_bridge_reports_its_state_to_systemd_and_only_connects_outwards(
    kind: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    # No gateway answers yet. The bridge starts nevertheless.
    (tmp_path / "bridge.toml").write_text('name = "edge"\ngateway = "http://127.0.0.1:9"\n')
    options = {
        "openfaas": ("--config", str(tmp_path / "bridge.toml")),
        "local": ("--platform", "edge", "--no-provision", "--workers", "1"),
    }
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        command = ("bridge", kind, *options[kind], "--url", nats_server.url)
        program = await Program(*command, cwd=tmp_path, **environment).start()
        # A worker that imports torch on a small board takes longer than the unit allows a start.
        starting = {"openfaas": {b"WATCHDOG=1"}, "local": {b"WATCHDOG=1", b"EXTEND_TIMEOUT_USEC=360000000"}}
        async with asyncio.timeout(WITHIN_S):
            seen = set()
            while not (message := await loop.sock_recv(systemd, 4096)).startswith(b"READY=1"):
                seen.add(message)
            assert seen == starting[kind]
            assert f"STATUS=bridge edge is up on nats://127.0.0.1:{nats_server.port}" in message.decode()
            assert await loop.sock_recv(systemd, 4096) == b"WATCHDOG=1"
            (pid,) = program.processes(f"bridge {kind}")
            assert listeners(pid) == []
            program.send(signal.SIGTERM)
            while await loop.sock_recv(systemd, 4096) != b"STOPPING=1":
                pass
        assert await program.wait() == 130, program.output
