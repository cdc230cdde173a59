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


def memory_bytes(session: int, limit: int) -> int:
    """Return the memory that a trainer and its descendants use.

    If that is above the limit, it is counted exactly: shared pages once, and pages of files not at all.

    Args:
        session: the trainer's process id, which is its session's too.
        limit: below this, no more exact number is of use. Bytes.
    """
    members = _members(session)
    resident = sum(_resident(pid) for pid in members)
    return resident if resident <= limit else min(resident, sum(_proportional(pid) for pid in members))


def end(session: int, mark: str) -> None:
    """Kill a trainer and everything that it has started.

    Args:
        session: the trainer's process id, which its session and its group have too.
        mark: value of its variable `MARK`.
    """
    # The first process ends all others by itself, also if this one is killed now. It ends last, so all are below it.
    for number in (signal.SIGTERM, signal.SIGCONT):
        _send(number, {session} & _found(session, mark))
    for _ in range(_PASSES):
        found = _found(session, mark)
        if found <= {session}:
            break
        _send(signal.SIGKILL, found - {session})
    _send(signal.SIGKILL, _found(session, mark))
    if not _PROC.is_dir():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)


def _found(session: int, mark: str) -> set[int]:
    """Return the processes to kill. If the first one has ended, its id may be another process's by now."""
    marked = set(_marked(mark))
    is_anothers = session not in marked and (_PROC / str(session)).exists()
    return marked if is_anothers else marked | _members(session)


def _send(number: signal.Signals, pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _members(session: int) -> set[int]:
    """Return the living processes of a session, and the descendants of its first process in other sessions."""
    parents: dict[int, int] = {}
    members: set[int] = set()
    for pid in _processes():
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is the program's name in parentheses and may hold anything (proc(5)).
            fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                parents[pid] = int(fields[1])
                members.update({pid} if int(fields[3]) == session else ())
    while more := {pid for pid, parent in parents.items() if parent in members and pid not in members}:
        members |= more
    return members


def _processes() -> Iterator[int]:
    if _PROC.is_dir():
        yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


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
    """Return a process's share of the memory that it uses: a page of two processes counts half for each.

    Pages of files do not count: the kernel takes them back when it needs memory, such as those of a large shard.
    """
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Pss")}
        return sizes["Pss"] - sizes.get("Pss_File", 0)
    return _resident(pid)
