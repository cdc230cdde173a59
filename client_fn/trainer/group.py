"""The processes that a trainer has started: what memory they use, and their end. Reads /proc, so on Linux only."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MARK: Final = "FEDKEEPER_TRAINER"
"""Environment variable that marks a trainer and all its descendants, those in sessions of their own too."""

_PROC: Final = Path("/proc")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PASSES: Final = 5
"""A process that forks while it is being ended is found in the next pass."""


def memory_bytes(session: int) -> int:
    """Return the memory that the processes of a session use; pages that they share count once.

    Args:
        session: id of the session, which is the trainer's process id.
    """
    members = list(_session(session))
    resident = sum(_resident(pid) for pid in members)
    return resident if len(members) == 1 else min(resident, sum(_proportional(pid) for pid in members))


def end(session: int, mark: str) -> None:
    """Kill a trainer and everything that it has started.

    Args:
        session: the trainer's process id, which its session and its group have too.
        mark: value of its variable `MARK`.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    for _ in range(_PASSES):
        found = {*_session(session), *_marked(mark)}
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[int]:
    if _PROC.is_dir():
        yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


def _session(session: int) -> Iterator[int]:
    """Yield the living processes of a session."""
    for pid in _processes():
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is the program's name in parentheses and may hold anything (proc(5)).
            fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                yield pid


def _marked(mark: str) -> Iterator[int]:
    text = f"{MARK}={mark}".encode()
    for pid in _processes():
        with contextlib.suppress(OSError):
            if text in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                yield pid


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """Return a process's share of the memory that it uses: a page of two processes counts half for each."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return _resident(pid)
