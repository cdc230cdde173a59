"""Asks a fork server for a trainer: a copy of it, which needs no import of torch (`client_fn.training.copies`)."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from client_fn.site import Site
from client_fn.trainer import environment
from client_fn.trainer.running import Running

ANSWER_S: Final = 120.0
"""How long a copy may take: the fork server may still import torch, which takes 30 s from a board's slow card."""

TRIES: Final = 2
"""A fork server that ends takes the requests with it that it has accepted. Another one takes its place."""

_REPLY_BYTES: Final = 1024
_CODE_BYTES: Final = 16


class NoForkServer(Exception):
    """No fork server at the socket makes a copy."""


class Forked:
    """A trainer that a fork server has made. It is no child of this process; the process above it tells how it ends.

    Args:
        pid: its id.
        stdout: what it prints.
        output: the pipe of it.
        ended: the pipe that its exit code comes from.
    """

    def __init__(self, pid: int, stdout: asyncio.StreamReader, output: asyncio.BaseTransport, ended: io.FileIO) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._output = output
        self._is_over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(ended.fileno(), self._note_end, ended)

    async def wait(self) -> int:
        """Implements `Process.wait`."""
        while self.returncode is None:
            await self._is_over.wait()
        return self.returncode

    def close(self) -> None:
        """Implements `Process.close`."""
        self._output.close()

    def _note_end(self, ended: io.FileIO) -> None:
        self._loop.remove_reader(ended.fileno())
        code = ended.read(_CODE_BYTES)
        ended.close()
        # Without a code, also the process above it was killed.
        self.returncode = int(code) if code else -signal.SIGKILL
        self._is_over.set()


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
        printed, their_output = _pipe(ours, theirs)
        ended, their_end = _pipe(ours, theirs)
        pid = await _request(server, request, [their_channel.fileno(), their_output, their_end])
        output, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), printed)
        ours.pop_all()
    channel.setblocking(False)
    return Running(Forked(pid, reader, output, ended), channel, mark)


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[io.FileIO, int]:
    """Return our end of a pipe, for reading, and theirs."""
    read, write = os.pipe()
    theirs.callback(os.close, write)
    return ours.enter_context(io.FileIO(read, "rb")), write


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
