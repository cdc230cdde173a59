"""What systemd is told, over a real datagram socket in its place."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import Disconnected
from fedkeeper import notify, running
from fedkeeper.restart import run_with_restarts

WITHIN_S = 60.0


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where a service's notifications arrive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(WITHIN_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield line


def heard(line: socket.socket) -> list[str]:
    """Everything that has arrived."""
    found = []
    line.settimeout(0.0)
    while True:
        try:
            found.append(line.recv(1 << 16).decode())
        except BlockingIOError:
            return found


async def test_a_service_that_is_up_says_so_with_one_line_for_people(systemd: socket.socket) -> None:
    notify.ready("bridge edge is up")
    assert systemd.recv(1 << 16).decode() == "READY=1\nSTATUS=bridge edge is up"


async def test_an_address_with_an_at_sign_is_an_abstract_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"fedkeeper-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0{name}")
        line.settimeout(WITHIN_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify.status("waiting")
        assert line.recv(1 << 16) == b"STATUS=waiting"


async def test_the_watchdog_is_fed_twice_as_often_as_it_wants_and_the_end_is_told(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    loop = asyncio.get_running_loop()
    systemd.setblocking(False)
    async with asyncio.timeout(WITHIN_S), notify.watchdog():
        begun = loop.time()
        beats = [await loop.sock_recv(systemd, 100) for _ in range(4)]
        # The first comes at once, three more after 20 ms each; a machine under load is slower, never faster.
        assert loop.time() - begun >= 0.055
    assert set(beats) == {b"WATCHDOG=1"}
    assert heard(systemd)[-1] == "STOPPING=1"


@pytest.mark.parametrize("facts", [{}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
async def test_without_a_watchdog_for_this_process_none_is_fed(
    facts: dict[str, str], systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    async with asyncio.timeout(WITHIN_S), notify.watchdog():
        await asyncio.sleep(0)
    assert heard(systemd) == ["STOPPING=1"]


async def test_without_systemd_nothing_is_told_and_nobody_to_tell_ends_no_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    async with notify.watchdog():
        notify.ready("up")
    assert "systemd" not in "".join(capsys.readouterr())
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    async with notify.watchdog():
        notify.ready("up")
    assert "systemd can't be told" in "".join(capsys.readouterr())


async def test_an_error_of_the_service_comes_out_as_it_is(systemd: socket.socket) -> None:
    with pytest.raises(Disconnected):
        async with notify.watchdog():
            raise Disconnected("gone")
    assert heard(systemd) == ["STOPPING=1"]


def test_every_command_is_watched_from_its_start_to_its_end(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")

    async def service() -> None:
        await asyncio.sleep(0)
        notify.ready("up")

    running.run(service())
    assert heard(systemd) == ["WATCHDOG=1", "READY=1\nSTATUS=up", "STOPPING=1"]


async def test_a_broker_out_of_reach_is_shown(systemd: socket.socket) -> None:
    async def part() -> None:
        raise Disconnected("the broker went away")

    task = asyncio.ensure_future(run_with_restarts(part))
    async with asyncio.timeout(WITHIN_S):
        systemd.setblocking(False)
        told = await asyncio.get_running_loop().sock_recv(systemd, 100)
    task.cancel()
    assert told == b"STATUS=the broker is out of reach; trying again"
