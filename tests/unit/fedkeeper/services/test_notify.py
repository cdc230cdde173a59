"""The messages to systemd, received by a real datagram socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.errors import Disconnected
from fedkeeper import running
from fedkeeper.services import notify
from fedkeeper.services.restart import run_with_restarts

WITHIN_S = 60.0


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that receives a service's messages."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.bind(str(tmp_path / "notify"))
        connection.settimeout(WITHIN_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield connection


def received(connection: socket.socket) -> list[str]:
    """Return every message that has arrived."""
    messages = []
    connection.settimeout(0.0)
    while True:
        try:
            messages.append(connection.recv(1 << 16).decode())
        except BlockingIOError:
            return messages


async def test_ready_sends_one_line_for_people(systemd: socket.socket) -> None:
    notify.ready("bridge edge is up")
    assert systemd.recv(1 << 16).decode() == "READY=1\nSTATUS=bridge edge is up"


async def test_an_address_with_an_at_sign_is_an_abstract_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"fedkeeper-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.bind(f"\0{name}")
        connection.settimeout(WITHIN_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify.status("waiting")
        assert connection.recv(1 << 16) == b"STATUS=waiting"


async def test_signals_come_twice_per_watchdog_timeout_and_the_end_is_reported(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    loop = asyncio.get_running_loop()
    systemd.setblocking(False)
    async with asyncio.timeout(WITHIN_S), notify.watchdog():
        start = loop.time()
        beats = [await loop.sock_recv(systemd, 100) for _ in range(4)]
        # The first comes at once, three more after 20 ms each; a machine under load is slower, never faster.
        assert loop.time() - start >= 0.055
    assert set(beats) == {b"WATCHDOG=1"}
    assert received(systemd)[-1] == "STOPPING=1"


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
async def test_without_a_watchdog_for_this_process_no_signal_is_sent(
    environment: dict[str, str], systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with asyncio.timeout(WITHIN_S), notify.watchdog():
        await asyncio.sleep(0)
    assert received(systemd) == ["STOPPING=1"]


async def test_without_systemd_nothing_is_sent_and_a_failed_send_ends_no_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with capture_logs() as lines:
        async with notify.watchdog():
            notify.ready("up")
    assert not lines
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with capture_logs() as lines:
        async with notify.watchdog():
            notify.ready("up")
    assert {line["event"] for line in lines} == {"a message did not reach systemd"}


async def test_an_error_of_the_service_is_raised_unchanged(systemd: socket.socket) -> None:
    with pytest.raises(Disconnected):
        async with notify.watchdog():
            raise Disconnected("gone")
    assert received(systemd) == ["STOPPING=1"]


def test_every_command_has_a_watchdog_from_its_start_to_its_end(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")

    async def service() -> None:
        await asyncio.sleep(0)
        notify.ready("up")

    running.run(service())
    assert received(systemd) == ["WATCHDOG=1", "READY=1\nSTATUS=up", "STOPPING=1"]


async def test_the_status_says_that_the_broker_is_out_of_reach(systemd: socket.socket) -> None:
    async def lose_broker() -> None:
        raise Disconnected("the broker went away")

    task = asyncio.ensure_future(run_with_restarts(lose_broker))
    async with asyncio.timeout(WITHIN_S):
        systemd.setblocking(False)
        message = await asyncio.get_running_loop().sock_recv(systemd, 100)
    task.cancel()
    assert message == b"STATUS=the broker is out of reach; trying again"
