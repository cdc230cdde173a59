"""Starts a trainer's process."""

import contextlib
import os
import socket
import sys
import uuid
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import client_fn.training
from broker.support import processes
from broker.support.processes import Group
from client_fn.errors import BadSettings
from client_fn.site import Site
from client_fn.trainer import environment


@dataclass(frozen=True, slots=True)
class Running:
    """A started child.

    Attributes:
        process: the child; it leads a session of its own.
        channel: socket to it.
        mark: value of the variable that it and its descendants carry.
    """

    process: Group
    channel: socket.socket
    mark: str


Launcher = Callable[[Site, Sequence[Path]], Awaitable[Running]]
"""Starts a trainer with the user's code in these folders. `launch` starts a new process."""


async def launch(site: Site, folders: Sequence[Path]) -> Running:
    """Start a child as a new process.

    Args:
        site: the Python that trains, its memory and its environment.
        folders: the user's code.

    Raises:
        BadSettings: FEDKEEPER_TRAINER_PYTHON can't be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mark = uuid.uuid4().hex
    # RLIMIT_DATA counts what CUDA reserves and does not use. There the worker's look at the memory is the only limit.
    limit_mb = site.memory_mb if site.device in {"", "cpu"} else 0
    program = str(Path(client_fn.training.__file__).parent)
    with contextlib.ExitStack() as failed, theirs:
        failed.enter_context(ours)
        try:
            process = await processes.start_group(
                *(site.python or sys.executable, program, str(theirs.fileno()), str(limit_mb), *map(str, folders)),
                stdin=DEVNULL,
                stderr=STDOUT,
                env=environment.for_trainer(os.environ, site.variables, mark),
                pass_fds=[theirs.fileno()],
            )
        except OSError as exc:
            raise BadSettings("FEDKEEPER_TRAINER_PYTHON", f"{site.python!r} can't be started: {exc}") from exc
        failed.pop_all()
    ours.setblocking(False)
    return Running(process, ours, mark)
