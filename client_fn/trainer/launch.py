"""Starts a trainer's process."""

import contextlib
import os
import socket
import uuid
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import client_fn.training
from broker.support import loggers, processes
from client_fn.errors import BadSettings
from client_fn.site import Site
from client_fn.trainer import environment
from client_fn.trainer.running import Running

PROGRAM: Final = str(Path(client_fn.training.__file__).parent)
"""The trainer's program, which needs none of our packages to be installed in its Python."""


async def launch(site: Site, folders: Sequence[Path]) -> Running:
    """Start a trainer: as a copy of the site's fork server, or else as a new process.

    Args:
        site: the Python that trains, its memory and its environment.
        folders: the user's code.

    Raises:
        BadSettings: FEDKEEPER_TRAINER_PYTHON can't be started.
    """
    if site.fork_server is not None:
        # Imported here because every cold start of a function would pay for it.
        from client_fn.trainer.forked import NoForkServer, fork

        try:
            return await fork(site.fork_server, site, folders)
        except NoForkServer as exc:
            loggers.get_logger(__name__).debug("no fork server answers; a new process imports torch", socket=str(exc))
    return await start(site, folders)


async def start(site: Site, folders: Sequence[Path]) -> Running:
    """Start a trainer as a new process.

    Args:
        site: the Python that trains, its memory and its environment.
        folders: the user's code.

    Raises:
        BadSettings: FEDKEEPER_TRAINER_PYTHON can't be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mark = uuid.uuid4().hex
    arguments = (PROGRAM, str(theirs.fileno()), str(site.allocation_mb), *map(str, folders))
    with contextlib.ExitStack() as failed, theirs:
        failed.enter_context(ours)
        try:
            process = await processes.start_group(
                *(environment.program(site), *arguments),
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
