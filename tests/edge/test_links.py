"""The links themselves: cut, restored, and removed at the end of the test."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.edge import links
from tests.support.edge.links import Backbone, Site
from tests.support.fakes import soon
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.root

Stream = tuple[StreamReader, StreamWriter]
EMULATION = "netem" if links.netem() else "wire"
CROWD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
        while data := await reader.read(1 << 16):
            writer.write(data)


@pytest.fixture
async def server(backbone: Backbone) -> AsyncIterator[tuple[str, int]]:
    """Address of an echo server."""
    listener = await asyncio.start_server(echo, backbone.address, 0)
    yield listener.sockets[0].getsockname()
    listener.close()


@contextlib.asynccontextmanager
async def connected(site: Site, server: tuple[str, int]) -> AsyncIterator[Stream]:
    """Connect to the echo server from the site."""
    end = site.socket()
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, server)
    reader, writer = await asyncio.open_connection(sock=end)
    try:
        yield reader, writer
    finally:
        writer.close()


async def echoed(stream: Stream, text: bytes, within_s: float = 60.0) -> bool:
    reader, writer = stream
    writer.write(text)
    try:
        async with asyncio.timeout(within_s):
            return await reader.readexactly(len(text)) == text
    except TimeoutError:
        return False


async def echo_s(stream: Stream) -> float:
    """Measure the time of one echo."""
    begun_s = time.monotonic()
    assert await echoed(stream, b"there and back")
    return time.monotonic() - begun_s


async def test_a_site_has_no_way_but_its_link(site: Site, server: tuple[str, int]) -> None:
    async with connected(site, server) as stream:
        assert await echoed(stream, b"hello")
    await site.cut(silent=False)
    with site.socket() as end, pytest.raises(OSError, match="unreachable"):
        end.connect(server)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "down"])
async def test_a_connection_lives_through_an_outage(site: Site, server: tuple[str, int], silent: bool) -> None:  # noqa: FBT001
    async with connected(site, server) as stream:
        assert await echoed(stream, b"before")
        await site.cut(silent=silent)
        assert not await echoed(stream, b"during", within_s=0.5)
        await site.restore()
        assert await stream[0].readexactly(6) == b"during"


async def test_a_silent_outage_causes_no_error_but_a_timeout(site: Site, server: tuple[str, int]) -> None:
    """The connection is not refused, and the interface stays up."""
    await site.cut(silent=True)
    with site.socket() as end:
        end.settimeout(0.3)
        with pytest.raises(TimeoutError):
            end.connect(server)


async def test_another_sites_link_is_another(backbone: Backbone, site: Site, server: tuple[str, int]) -> None:
    async with backbone.site() as other, connected(other, server) as stream:
        await site.cut(silent=True)
        assert await echoed(stream, b"hello")


@pytest.mark.parametrize("by", [EMULATION])
async def test_a_degraded_link_delays_both_ways_and_keeps_connections(
    site: Site, server: tuple[str, int], by: str
) -> None:
    async with connected(site, server) as stream:
        async with site.degraded(delay_ms=100, loss=0.0):
            assert await echo_s(stream) >= 0.2, by
        # A loaded machine is slow now and then; a link that still delayed would never be fast.
        async with asyncio.timeout(60):
            while await echo_s(stream) >= 0.2:
                pass


@pytest.mark.slow
@pytest.mark.parametrize("by", [EMULATION])
async def test_a_degraded_link_loses_packets(backbone: Backbone, site: Site, by: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, site.socket(socket.SOCK_DGRAM) as sender:
        receiver.bind((backbone.address, 0))
        receiver.settimeout(3.0)
        async with site.degraded(delay_ms=1, loss=0.2):
            for _ in range(300):
                sender.sendto(b"x", receiver.getsockname())
            received = 0
            with contextlib.suppress(TimeoutError):
                while received < 300:
                    await asyncio.to_thread(receiver.recv, 1)
                    received += 1
    assert 180 <= received <= 280, by


async def test_traffic_is_counted(site: Site, server: tuple[str, int]) -> None:
    before = site.traffic()
    async with connected(site, server) as stream:
        assert await echoed(stream, bytes(1 << 20))
    after = site.traffic()
    assert 1 << 20 <= after.up - before.up < 1.2 * (1 << 20)
    assert 1 << 20 <= after.down - before.down < 1.2 * (1 << 20)


async def test_a_power_cut_ends_everything_and_the_site_comes_back(
    site: Site, server: tuple[str, int], tmp_path: Path
) -> None:
    async with site.running(sys.executable, "-c", CROWD, log=tmp_path / "log") as program:
        async with connected(site, server) as stream:
            assert await echoed(stream, b"hello")
            await soon(lambda: len(children_of(program.pid)) == 1)
            (child,) = children_of(program.pid)
            await site.power_cut()
            assert await program.wait() == -signal.SIGKILL
            await soon(lambda: not lives(child))
            await site.power_on()
        async with connected(site, server) as stream:
            assert await echoed(stream, b"hello again")


ABANDONED = """
import asyncio, pathlib, sys
from tests.support.edge import links
async def main():
    async with links.backbone() as backbone, backbone.site() as site:
        async with site.running(sys.executable, "-c", "import time; time.sleep(600)", log=pathlib.Path("log")) as child:
            print(backbone.address, site.name, child.pid, flush=True)
            await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_what_a_killed_test_has_left_is_cleared_away(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    test = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ABANDONED, cwd=tmp_path, env=env, stdout=asyncio.subprocess.PIPE
    )
    assert test.stdout is not None
    address, name, pid = (await test.stdout.readline()).decode().split()
    assert name in await links.names()
    test.kill()
    await test.wait()
    await soon(lambda: not lives(int(pid)))
    await links.sweep()
    assert name not in await links.names()
    with socket.socket() as probe, pytest.raises(OSError, match="assign"):
        probe.bind((address, 0))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return not re.search(r"^State:\sZ", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return False
