"""Keeps a fork server running: a process that has imported torch, and makes copies of itself that are trainers.

An import of torch takes seconds and 200 MB; a copy takes milliseconds and shares that memory. The workers of a machine,
and the server beside them, share one fork server. It runs nothing of the user's. If one of its copies harms it, another
one takes its place.
"""

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import tempfile
from asyncio.subprocess import STDOUT
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from broker.support import backoff, forks, loggers, processes
from broker.support.processes import Adopted, Group
from broker.support.tasks import task_group
from client_fn import site as sites
from client_fn.errors import BadSettings
from client_fn.site import Site
from client_fn.trainer import environment
from client_fn.trainer.launch import PROGRAM

log = loggers.get_logger(__name__)

ARGUMENT: Final = "fork-server"
BACKLOG: Final = 128
READY: Final = b"ready\n"

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
LASTS_S: Final = 60.0
"""One that has run so long has not failed: the next one is started after the shortest pause."""

_TAIL_BYTES: Final = 4096

UNMARKED: Final = "0" * 32
"""The mark of a fork server. Its copies replace it by one of that length."""


class _Early(NamedTuple):
    """A fork server that was started before anybody needs it."""

    stack: contextlib.ExitStack
    path: Path
    listener: socket.socket
    process: subprocess.Popen[bytes]
    environment: str


_early: Final[list[_Early]] = []


def start_early(environ: Mapping[str, str]) -> None:
    """Start a fork server for the first `open_fork_server`, as the first thing that a program does.

    It imports torch while the program imports its own modules. It ends with the program, even if nobody needs it.

    Args:
        environ: the environment of the workers, which names the site's Python.
    """
    try:
        site = sites.read(environ)
    except BadSettings:
        return  # the command says so
    with contextlib.ExitStack() as stack:
        path, listener = _listening(stack)
        if listener is None:
            return
        try:
            process = subprocess.Popen(  # noqa: S603 (our own program)
                _command(site, environ, listener),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment.for_trainer(environ, site.variables, UNMARKED),
                pass_fds=[listener.fileno()],
                start_new_session=True,
                preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),  # noqa: PLW1509 (no thread runs yet)
            )
        except OSError:
            return
        _early.append(_Early(stack.pop_all(), path, listener, process, environment.digest(site, environ)))


@contextlib.asynccontextmanager
async def open_fork_server(site: Site, environ: Mapping[str, str]) -> AsyncIterator[Path | None]:
    """Keep a fork server running until the end of the block, and yield its socket: that is `Site.fork_server`.

    Yields None on a system that can't have one: trainers are started one by one there.

    Args:
        site: the Python that trains, and which variables it gets.
        environ: the environment of the workers.
    """
    with contextlib.ExitStack() as stack:
        early, first = _taken(site, environ), None
        if early is None:
            path, listener = _listening(stack)
        else:
            stack.enter_context(early.stack)
            path, listener, first = early.path, early.listener, await processes.adopt(early.process)
        if listener is None:
            yield None
            return
        async with task_group() as group:
            keeping = group.create_task(_keep_running(site, environ, listener, first), name="fork server")
            yield path
            keeping.cancel()


def _taken(site: Site, environ: Mapping[str, str]) -> _Early | None:
    """Return the fork server that was started early, to its only user. End one that has another environment."""
    if not _early:
        return None
    early = _early.pop()
    if early.environment == environment.digest(site, environ):
        return early
    with early.stack, early.process:
        early.process.kill()
    return None


def _listening(stack: contextlib.ExitStack) -> tuple[Path, socket.socket | None]:
    """Return the path of a socket and the socket, which listens. No socket: there can't be a fork server here."""
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedkeeper-fork-"))) / "socket"
    return path, _listening_at(path, stack) if forks.are_possible() else None


def _listening_at(path: Path, stack: contextlib.ExitStack) -> socket.socket | None:
    """Return a socket that listens at a path; None: the path is too long for one (unix(7): 107 bytes)."""
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    try:
        listener.bind(str(path))
    except OSError as exc:
        log.warning("no fork server: its socket can't be made", path=str(path), error=str(exc))
        return None
    listener.listen(BACKLOG)
    return listener


async def _keep_running(site: Site, environ: Mapping[str, str], listener: socket.socket, first: Adopted | None) -> None:
    """Start a fork server, and another one when it has ended. If it can't start, nobody listens any more.

    Args:
        site: the Python that trains.
        environ: the environment of the workers.
        listener: workers connect to it.
        first: the first fork server, which was started early; None: it was not.
    """
    clock, failures = asyncio.get_running_loop().time, 0
    while True:
        begin_s = clock()
        try:
            process, first = first or await _start(site, environ, listener), None
        except OSError as exc:
            reason, is_ready = str(exc), False
        else:
            reason, is_ready = await _follow(process)
        if not is_ready:
            break
        failures = 0 if clock() - begin_s > LASTS_S else failures + 1
        pause_s = backoff.delay_s(failures, random.uniform, first_s=FIRST_PAUSE_S, most_s=LONGEST_PAUSE_S)
        log.warning("the fork server ended; starting another", reason=reason, in_s=round(pause_s, 1))
        await asyncio.sleep(pause_s)
    # Each trainer that is started by itself then says what is wrong.
    log.debug("no fork server can start", reason=reason)
    listener.close()


async def _start(site: Site, environ: Mapping[str, str], listener: socket.socket) -> Group:
    return await processes.start_group(
        *_command(site, environ, listener),
        stderr=STDOUT,
        env=environment.for_trainer(environ, site.variables, UNMARKED),
        pass_fds=[listener.fileno()],
    )


def _command(site: Site, environ: Mapping[str, str], listener: socket.socket) -> tuple[str, ...]:
    program, ours = environment.program(site), environment.digest(site, environ)
    return program, PROGRAM, ARGUMENT, str(listener.fileno()), ours


async def _follow(process: Group | Adopted) -> tuple[str, bool]:
    """Wait for a fork server's end; return how it ended, and whether it was ready before. Kill it if cancelled."""
    is_ready, tail = False, b""
    try:
        while process.stdout is not None and (part := await process.stdout.read(_TAIL_BYTES)):
            tail = (tail + part)[-_TAIL_BYTES:]
            is_ready = is_ready or READY in tail
        end = processes.describe_exit(await process.wait())
    finally:
        process.kill()
        await process.wait()
        process.close()
    lines = tail.decode(errors="replace").splitlines() or [""]
    return f"it {end}: {lines[-1].strip()}", is_ready
