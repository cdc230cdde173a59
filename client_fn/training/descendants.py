"""The processes below this one: they end together, and a process above keeps watch that runs nothing of the user's."""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
from collections.abc import Collection
from pathlib import Path

# The numbers of prctl(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def keep_a_process_above(channel: int, *, worker: int | None = None, ended: int | None = None) -> None:
    """Go on in a child. The parent waits for its end, ends what is left below it, and ends in the same way.

    So a user's module that kills the parent of its process does not kill the worker. And when the worker dies, even by
    SIGKILL, there is somebody who ends what the user's code has started.

    Args:
        channel: descriptor that is closed in the parent.
        worker: descriptor of the worker's process (pidfd_open(2)); None: the worker is this process's parent.
        ended: pipe to which the parent writes the exit code; None: the worker hears it from the kernel.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    adopt_orphans()
    parent = os.getpid()
    child = os.fork()
    if not child:
        end_with_parent(parent)
        _close(worker, ended)
        return
    os.close(channel)
    signal.signal(signal.SIGTERM, _end_all)
    if worker is None:
        # Until now the kernel would have sent SIGKILL.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    elif not _outlives(worker, child):
        _end_all()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end_orphans()
    if ended is not None:
        with contextlib.suppress(OSError):  # the worker has ended
            os.write(ended, str(code).encode())
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(parent, -code)
    os._exit(abs(code))


def _close(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)


def _outlives(process: int, child: int) -> bool:
    """Wait until a process or a child ends; return whether the process, given by its descriptor, still runs."""
    ended, poll = os.pidfd_open(child), select.poll()
    for descriptor in (process, ended):
        poll.register(descriptor, select.POLLIN)
    is_alive = all(descriptor != process for descriptor, _ in poll.poll())
    os.close(ended)
    return is_alive


def _end_all(*_: object) -> None:
    end_orphans()
    # Not an exit code, which would be the user's code's own choice and never tried again.
    os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends.

    Args:
        parent: the parent's id when this process was made; if it has another one by now, this process ends at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def children() -> set[int]:
    """Return the ids of this process's children, those that have ended too."""
    found: set[int] = set()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return found
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is the program's name in parentheses and may hold anything (proc(5)).
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def end_orphans(kept: Collection[int] = ()) -> None:
    """Kill this process's children, and theirs, which become its own.

    Args:
        kept: children that are not killed.
    """
    while orphans := children().difference(kept):
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
                os.kill(orphan, signal.SIGKILL)
                os.waitpid(orphan, 0)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)
