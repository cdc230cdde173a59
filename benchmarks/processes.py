"""The processes of a system on this machine: which there are, what each is, and what it uses, from /proc."""

import contextlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Final

MB: Final = 1e6

_TICKS: Final = os.sysconf("SC_CLK_TCK")

_MARKS: Final = {
    "nats-server": "nats-server",
    "client_fn.handlers.local": "workers",
    "client_fn": "trainers",
    "fedkeeper server": "server",
    "fedkeeper bridge": "bridge",
    "benchmarks/flower": "Flower",
    "/ray/": "Flower",
    "ray::": "Flower",
}
"""What a process is called, by a part of its command. The first that fits counts."""

HERE: Final = "this program"


def descendants(pid: int) -> list[int]:
    """Return a process and all that it has started, and these in turn.

    Args:
        pid: the process.
    """
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children[int(_fields(stat)[1])].append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found.extend(children[each])
    return found


def command(pid: int) -> list[str]:
    """Return the words of a process's command; none if it has ended."""
    with contextlib.suppress(OSError):
        return [word for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0") if word]
    return []


def role(pid: int) -> str:
    """Return what a process of a system is called: `nats-server`, `workers`, `trainers`, `server` or `bridge`.

    Args:
        pid: the process. This one's own role is HERE.
    """
    if pid == os.getpid():
        return HERE
    line = " ".join(command(pid))
    return next((name for mark, name in _MARKS.items() if mark in line), line[:40])


def cpu_s() -> dict[str, float]:
    """Return how long this process and its descendants have used a core so far, by role, in seconds.

    Processes that have ended are left out.
    """
    used: dict[str, float] = defaultdict(float)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            # proc(5): utime and stime are the 14th and 15th field; the first two are gone here.
            user, system = _fields(Path(f"/proc/{pid}/stat"))[11:13]
            used[role(pid)] += (int(user) + int(system)) / _TICKS
    return dict(used)


def memory_mb(pid: int, field: str) -> float:
    """Return a process's memory in MB (10^6 bytes), as /proc/<pid>/status has it.

    Args:
        pid: the process.
        field: `VmRSS` for now, `VmHWM` for the peak.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 / MB for line in lines if line.startswith(field)), 0.0)


def _fields(stat: Path) -> list[str]:
    """Return the fields of a process from the third on: the name before them may hold spaces and brackets."""
    return stat.read_text().rpartition(")")[2].split()
