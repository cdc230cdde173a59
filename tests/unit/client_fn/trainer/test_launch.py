"""A trainer's start leaves nothing behind if it does not succeed."""

import asyncio
import socket
from typing import Any

import pytest

from broker.support import processes
from client_fn.errors import BadSettings
from client_fn.site import Site
from client_fn.trainer.launch import launch


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """The pairs of sockets for packets that are made; the event loop makes another kind."""
    made: list[socket.socket] = []
    socketpair = socket.socketpair

    def recorded(*args: Any) -> tuple[socket.socket, socket.socket]:
        pair = socketpair(*args)
        made.extend(end for end in pair if end.type == socket.SOCK_SEQPACKET)
        return pair

    monkeypatch.setattr(socket, "socketpair", recorded)
    return made


async def test_a_cancelled_start_leaves_no_socket_open(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: str, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(processes, "start_group", never)
    starting = asyncio.create_task(launch(Site(), []), name="launch")
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert [made.fileno() for made in sockets] == [-1, -1]


async def test_a_python_that_can_t_be_started_is_named(sockets: list[socket.socket]) -> None:
    with pytest.raises(BadSettings, match="FEDKEEPER_TRAINER_PYTHON: '/no/python' can't be started"):
        await launch(Site(python="/no/python"), [])
    assert [made.fileno() for made in sockets] == [-1, -1]
