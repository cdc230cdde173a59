"""Child processes that end when their parent ends, and that end together with what they have started."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import Callable, Mapping, Sequence
from subprocess import Popen
from typing import Final, cast

# The numbers of prctl(2).
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4


class Group(Process):
    """A child process, and the processes that it has started in its process group. Made by `start_group`."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: "_Protocol") -> None:
        super().__init__(transport, protocol, asyncio.get_running_loop())
        self._pipes = transport
        self._exited = protocol.exited

    async def wait(self) -> int:
        """Return the exit code when the child has ended, even if a process that it has started holds its pipes."""
        await self._exited.wait()
        return cast("int", self.returncode)

    def kill(self) -> None:
        """Kill the child, and every process of its group, also after the child's end."""
        # macOS denies signals to a group that has only ended processes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close our ends of the pipes, so that their readers see the end. The child must have ended."""
        self._pipes.close()


class _Protocol(SubprocessStreamProtocol):
    """Says when the child ends. `Process.wait` waits for the ends of its pipes too."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


async def start_group(
    *command: str,
    env: Mapping[str, str],
    limit: int = 1 << 16,
    stdin: int = PIPE,
    stderr: int = PIPE,
    pass_fds: Sequence[int] = (),
) -> Group:
    """Start a child in a process group and a session of its own, with pipes. It is killed when this process dies.

    Ctrl-C in a terminal does not reach it.

    Args:
        command: program and arguments.
        env: its environment.
        limit: length of the longest line that its pipes' readers accept, in bytes.
        stdin: as `subprocess` takes it; a pipe by default.
        stderr: as `subprocess` takes it; a pipe by default.
        pass_fds: further descriptors that it inherits.

    Raises:
        OSError: it can't be started.
    """
    transport, protocol = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Protocol(limit),
        *command,
        stdin=stdin,
        stdout=PIPE,
        stderr=stderr,
        env=env,
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=signal_on_parent_death(signal.SIGKILL),
    )
    return Group(transport, protocol)


class Adopted:
    """A child that was started without asyncio, and is used as a `Group` is. Made by `adopt`.

    Args:
        child: leads a process group, and prints to a pipe.
        stdout: reads that pipe.
        pipe: that pipe.
    """

    def __init__(self, child: Popen[bytes], stdout: asyncio.StreamReader, pipe: asyncio.BaseTransport) -> None:
        self.stdout = stdout
        self._child = child
        self._pipe = pipe

    async def wait(self) -> int:
        """Return the exit code when the child has ended."""
        if self._child.poll() is not None:
            return self._child.returncode
        loop, has_ended, descriptor = asyncio.get_running_loop(), asyncio.Event(), os.pidfd_open(self._child.pid)
        loop.add_reader(descriptor, has_ended.set)
        try:
            await has_ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._child.wait()

    def kill(self) -> None:
        """Kill the child, and every process of its group, also after the child's end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close our ends of the pipes. The child must have ended."""
        self._pipe.close()
        if self._child.stdin is not None:
            self._child.stdin.close()


async def adopt(child: Popen[bytes]) -> Adopted:
    """Return a child as asyncio uses it. On Linux only.

    Args:
        child: leads a process group, and prints to a pipe.
    """
    reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), child.stdout)
    return Adopted(child, reader, transport)


def describe_exit(code: int) -> str:
    """Return how a process ended, for people: `ended with code 3`, `was killed by signal SIGSEGV (11)`."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by signal {signal.Signals(-code).name} ({-code})"
    except ValueError:
        # Most real-time signals have no name.
        return f"was killed by signal {-code}"


def hide() -> None:
    """Let no other process of this user read this one's memory and environment. Root still can. On Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def signal_on_parent_death(number: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn`: the kernel sends the signal to the child when this process dies. None if not on Linux."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()

    def request_signal() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        # If the parent has died before this call, the kernel sends no signal.
        if os.getppid() != parent:
            os._exit(1)

    return request_signal
