"""Asks a fork server for a trainer: a copy of it, which needs no import of torch (`client_fn.training.copies`)."""

import asyncio
import contextlib
import json
import os
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.support.forks import ANSWER_S, Exit, pipe
from client_fn.site import Site
from client_fn.trainer import environment
from client_fn.trainer.running import Running

TRIES: Final = 2
"""A fork server that ends takes the requests with it that it has accepted. Another one takes its place."""

_REPLY_BYTES: Final = 1024


class NoForkServer(Exception):
    """No fork server at the socket makes a copy."""


class Forked:
    """A trainer that a fork server has made. It is no child of this process; the process above it tells how it ends.

    Args:
        pid: its id.
        stdout: what it prints.
        output: the pipe of it.
        end: tells how it ends.
    """

    def __init__(self, pid: int, stdout: asyncio.StreamReader, output: asyncio.BaseTransport, end: Exit) -> None:
        self.pid = pid
        self.stdout = stdout
        self._output = output
        self._end = end

    @property
    def returncode(self) -> int | None:
        """Implements `Process.returncode`."""
        return self._end.code

    async def wait(self) -> int:
        """Implements `Process.wait`."""
        return await self._end.wait()

    def close(self) -> None:
        """Implements `Process.close`."""
        self._output.close()


async def fork(server: Path, site: Site, folders: Sequence[Path]) -> Running:
    """Let a fork server make a trainer.

    Args:
        server: its socket.
        site: the memory that the trainer may use.
        folders: the user's code.

    Raises:
        NoForkServer: there is none, it makes no copy, or its copies would have another environment.
    """
    mark = uuid.uuid4().hex
    request = {
        "mark": mark,
        "environment": environment.digest(site, os.environ),
        "memory_mb": site.allocation_mb,
        "folders": [str(folder) for folder in folders],
    }
    for _ in range(TRIES):
        try:
            return await _fork(server, json.dumps(request).encode(), mark)
        except TimeoutError:
            break  # another try would take as long
        except (OSError, ValueError, KeyError):
            pass
    raise NoForkServer(str(server))


async def _fork(server: Path, request: bytes, mark: str) -> Running:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        channel, their_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.enter_context(channel)
        theirs.enter_context(their_channel)
        printed, their_output = pipe(ours, theirs)
        ended, their_end = pipe(ours, theirs)
        pid = await _request(server, request, [their_channel.fileno(), their_output, their_end])
        output, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), printed)
        ours.pop_all()
    channel.setblocking(False)
    return Running(Forked(pid, reader, output, Exit(ended)), channel, mark)


async def _request(server: Path, request: bytes, descriptors: list[int]) -> int:
    """Return the id of the copy. The descriptors are in the order of `client_fn.training.copies.Descriptors`."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setblocking(False)
        async with asyncio.timeout(ANSWER_S):
            await loop.sock_connect(connection, str(server))
            socket.send_fds(connection, [request], descriptors)
            reply = await loop.sock_recv(connection, _REPLY_BYTES)
    return int(json.loads(reply)["pid"])
