"""A bridge as systemd would run it on a board: it says that it is up, listens nowhere, and says that it stops."""

import asyncio
import re
import signal
import socket
from pathlib import Path

import pytest

from broker.nats.server import NatsServer
from tests.support.program import WITHIN_S, Program

LISTENS = "0A"
"""The state in /proc/net/tcp."""


def listeners(pid: int) -> list[str]:
    """Local addresses at which a process listens for TCP."""
    entries = Path(f"/proc/{pid}/fd").iterdir()
    own = {found[1] for entry in entries if (found := re.fullmatch(r"socket:\[(\d+)\]", _target(entry)))}
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return [row[1] for row in rows if row[3] == LISTENS and row[9] in own]


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""  # closed meanwhile


def test_a_listener_would_be_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = listeners(int(Path("/proc/self").readlink().name))
        assert f"0100007F:{server.getsockname()[1]:04X}" in found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openfaas", "local"])
async def test_a_bridge_tells_systemd_how_it_does_and_only_connects_outwards(
    kind: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    # Nobody is at the gateway yet: no reason not to be up.
    (tmp_path / "bridge.toml").write_text('name = "edge"\ngateway = "http://127.0.0.1:9"\n')
    options = {
        "openfaas": ("--config", str(tmp_path / "bridge.toml")),
        "local": ("--platform", "edge", "--no-provision", "--workers", "1"),
    }
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        command = ("bridge", kind, *options[kind], "--url", nats_server.url)
        program = await Program(*command, cwd=tmp_path, **told).start()
        async with asyncio.timeout(WITHIN_S):
            assert await loop.sock_recv(systemd, 4096) == b"WATCHDOG=1"
            while not (said := await loop.sock_recv(systemd, 4096)).startswith(b"READY=1"):
                assert said == b"WATCHDOG=1"
            assert f"STATUS=bridge edge is up on nats://127.0.0.1:{nats_server.port}" in said.decode()
            assert await loop.sock_recv(systemd, 4096) == b"WATCHDOG=1"
            (pid,) = program.processes(f"bridge {kind}")
            assert listeners(pid) == []
            program.send(signal.SIGTERM)
            while await loop.sock_recv(systemd, 4096) != b"STOPPING=1":
                pass
        assert await program.ends() == 130, program.output
