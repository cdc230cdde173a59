"""Copies of a process that has imported what they need: each starts in milliseconds.

The process that wants copies starts a fork server, asks it over a socket of its own, and is told how each copy ends. A
fork server runs nothing but our own imports. It ends with the process that has started it, and its copies with it.
"""

import asyncio
import contextlib
import gc
import io
import itertools
import os
import select
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping
from typing import Final, NamedTuple

from broker.support import processes

ARGUMENT: Final = "fork-server"
"""With this argument, and the one that `open_fork_server` adds, a program becomes a fork server."""

ANSWER_S: Final = 120.0
"""How long a copy may take: the fork server may still import its modules from a board's slow card. Seconds."""

_PACKET_BYTES: Final = 64
_CODE_BYTES: Final = 16


class NoCopy(Exception):
    """The fork server makes no copy."""


class Exit:
    """How a process ends that is no child of this one.

    Args:
        pipe: its exit code comes from it, or nothing if also the process that knows the code was killed.

    Attributes:
        code: its exit code, negative for a signal; None: it still runs.
    """

    def __init__(self, pipe: io.FileIO) -> None:
        self.code: int | None = None
        self._is_over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe.fileno(), self._note, pipe)

    async def wait(self) -> int:
        """Return the exit code when the process has ended."""
        while self.code is None:
            await self._is_over.wait()
        return self.code

    def _note(self, pipe: io.FileIO) -> None:
        self._loop.remove_reader(pipe.fileno())
        code = pipe.read(_CODE_BYTES)
        pipe.close()
        self.code = int(code) if code else -signal.SIGKILL
        self._is_over.set()


class Copy:
    """A copy of a fork server. It leads a session of its own, and is used as a `processes.Group` is.

    Args:
        pid: its id.
        stdin: its input.
        stdout: the pipe of what it prints.
        stderr: the pipe of what it logs.
        end: tells how it ends.
    """

    def __init__(self, pid: int, stdin: asyncio.StreamWriter, stdout: "_Pipe", stderr: "_Pipe", end: Exit) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout.reader
        self.stderr = stderr.reader
        self._pipes = (stdout.transport, stderr.transport)
        self._end = end

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None: it still runs."""
        return self._end.code

    async def wait(self) -> int:
        """Return the exit code when it has ended."""
        return await self._end.wait()

    def kill(self) -> None:
        """Kill it, and every process of its group, also after its end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close our ends of its pipes. It must have ended."""
        self.stdin.close()
        for pipe in self._pipes:
            pipe.close()


class ForkServer:
    """A process that makes copies of itself. Use it as `async with open_fork_server(...) as fork_server`.

    Args:
        channel: our end of the socket to it.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._lock = asyncio.Lock()

    async def fork(self, limit: int) -> Copy:
        """Return a new copy, whose pipes lead to this process.

        Args:
            limit: length of the longest line that its pipes' readers accept, in bytes.

        Raises:
            NoCopy: there is none: the fork server has ended, or there is no room for another process.
        """
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            to_stdin, stdin = socket.socketpair()
            ours.enter_context(to_stdin)
            theirs.enter_context(stdin)
            (stdout, their_stdout), (stderr, their_stderr), (ended, their_end) = (pipe(ours, theirs) for _ in range(3))
            descriptors = [stdin.fileno(), their_stdout, their_stderr, their_end]
            async with self._lock:
                pid = await self._request(_Descriptors(*descriptors))
            _, writer = await asyncio.open_connection(sock=to_stdin)
            copy = Copy(pid, writer, await _read(stdout, limit), await _read(stderr, limit), Exit(ended))
            ours.pop_all()
        return copy

    async def _request(self, descriptors: "_Descriptors") -> int:
        number = next(self._numbers)
        try:
            socket.send_fds(self._channel, [str(number).encode()], descriptors)
            async with asyncio.timeout(ANSWER_S):
                # Before it, there may be the answer to a request that was cancelled.
                while (answer := await self._receive()) and answer[0] != number:
                    pass
        except (OSError, TimeoutError) as exc:
            raise NoCopy(str(exc)) from exc
        if not answer or not answer[1]:
            raise NoCopy("the fork server has ended" if not answer else "there is no room for another process")
        return answer[1]

    async def _receive(self) -> tuple[int, int] | None:
        """Return a request's number and the id of its copy, 0 if there is none. None: the fork server has ended."""
        packet = await asyncio.get_running_loop().sock_recv(self._channel, _PACKET_BYTES)
        number, _, pid = packet.partition(b" ")
        return (int(number), int(pid)) if packet else None


class _Descriptors(NamedTuple):
    """What lies beside a request, in this order: the copy's input, output and log, and a pipe for its exit code."""

    stdin: int
    stdout: int
    stderr: int
    ended: int


class _Pipe(NamedTuple):
    reader: asyncio.StreamReader
    transport: asyncio.BaseTransport


class _Running(NamedTuple):
    pid: int
    ended: int


def are_possible() -> bool:
    """Return whether this system tells when a process has ended that is no child (pidfd_open(2), Linux 5.3)."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[io.FileIO, int]:
    """Return our end of a new pipe, for reading, and theirs.

    Args:
        ours: closes our end.
        theirs: closes theirs.
    """
    read, write = os.pipe()
    theirs.callback(os.close, write)
    return ours.enter_context(io.FileIO(read, "rb")), write


@contextlib.asynccontextmanager
async def open_fork_server(*command: str, env: Mapping[str, str]) -> AsyncIterator[ForkServer]:
    """Run a fork server until the end of the block. If it can't start, or ends, it makes no copies.

    Args:
        command: program and arguments; the program gets one more, for `serve`.
        env: its environment, and that of its copies.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = None
    with ours:
        ours.setblocking(False)
        with theirs, contextlib.suppress(OSError):
            process = await processes.start_group(
                *(*command, str(theirs.fileno())),
                env=env,
                stdin=DEVNULL,
                stderr=DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        try:
            yield ForkServer(ours)
        finally:
            if process is not None:
                process.kill()
                await process.wait()
                process.close()


def serve(channel: int) -> None:
    """Make a copy of this process for each request. Returns in the copies only.

    Args:
        channel: descriptor of the socket to the process that wants copies.
    """
    # Otherwise the collector would write to all objects' memory, which copies share.
    gc.collect()
    gc.freeze()
    running: dict[int, _Running] = {}
    with socket.socket(fileno=channel) as requests:
        poll = select.poll()
        poll.register(requests, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor in running:
                    poll.unregister(descriptor)
                    _tell_end(descriptor, *running.pop(descriptor))
                    continue
                made = _answer(requests)
                if made is None:
                    for ended, copy in running.items():
                        os.close(ended)
                        os.close(copy.ended)
                    return
                if made.pid:
                    ended = os.pidfd_open(made.pid)
                    running[ended] = made
                    poll.register(ended, select.POLLIN)


def _answer(requests: socket.socket) -> _Running | None:
    """Make the copy that is asked for. Returns None in the copy."""
    packet, received, _, _ = socket.recv_fds(requests, _PACKET_BYTES, len(_Descriptors._fields))
    if not packet:
        sys.exit(0)
    descriptors = _Descriptors(*received)
    end_with_parent = processes.signal_on_parent_death(signal.SIGKILL)
    try:
        pid = os.fork()
    except OSError:
        requests.send(packet + b" 0")
        _close(descriptors)
        return _Running(0, 0)
    if pid:
        _close(descriptors[:3])
        return _Running(pid, descriptors.ended)
    os.setsid()
    if end_with_parent is not None:
        end_with_parent()
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    _close(descriptors)
    # Only now can its group be killed.
    requests.send(packet + b" %d" % os.getpid())
    return None


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _tell_end(descriptor: int, pid: int, ended: int) -> None:
    """Tell the process that wants copies how one of them has ended."""
    os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # nobody wants to know
        os.write(ended, str(code).encode())
    os.close(ended)


async def _read(file: io.FileIO, limit: int) -> _Pipe:
    reader, loop = asyncio.StreamReader(limit), asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return _Pipe(reader, transport)
